package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code names a class of error for programs. The set only ever grows.
type Code string

// Codes and the HTTP status each travels under.
const (
	CodeInvalid     Code = "invalid"     // 400, 422: the request is malformed
	CodeRefused     Code = "refused"     // 403: understood, and not done on purpose
	CodeNotFound    Code = "not_found"   // 404: the thing named does not exist
	CodeConflict    Code = "conflict"    // 409: exists already, or is in use
	CodeTooLarge    Code = "too_large"   // 413: the body exceeds MaxBody
	CodeInternal    Code = "internal"    // 500: a fault of weft
	CodeUnavailable Code = "unavailable" // 503: not now; try again
	CodeTimeout     Code = "timeout"     // 504: another host did not answer in time
)

// HTTPStatus returns the status that the code travels under.
func (c Code) HTTPStatus() int {
	switch c {
	case CodeInvalid:
		return http.StatusUnprocessableEntity
	case CodeRefused:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusConflict
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	case CodeTimeout:
		return http.StatusGatewayTimeout
	case CodeInternal:
	}
	return http.StatusInternalServerError
}

// CodeOf returns the code of an HTTP status: the best one for statuses that no code maps to.
func CodeOf(status int) Code {
	switch status {
	case http.StatusForbidden:
		return CodeRefused
	case http.StatusNotFound:
		return CodeNotFound
	case http.StatusConflict:
		return CodeConflict
	case http.StatusRequestEntityTooLarge:
		return CodeTooLarge
	case http.StatusServiceUnavailable:
		return CodeUnavailable
	case http.StatusGatewayTimeout:
		return CodeTimeout
	}
	if status >= 400 && status < 500 {
		return CodeInvalid
	}
	return CodeInternal
}

// Error is what a request fails with: application/problem+json (RFC 9457) on the wire, an error
// in Go at both ends. Backends make it with Errorf or Wrap; clients find it with errors.As.
type Error struct {
	Status int     `json:"status" doc:"HTTP status"`
	Title  string  `json:"title" doc:"The status in words"`
	Code   Code    `json:"code" doc:"Class of the error, for programs"`
	Detail string  `json:"detail" doc:"What is wrong: one lower-case line that names the thing"`
	Hint   string  `json:"hint,omitempty" doc:"What to do about it, one line"`
	Fields []Field `json:"errors,omitempty" doc:"Which parts of the request are wrong"`

	cause error
}

// Field is one part of a request that is wrong.
type Field struct {
	Location string `json:"location" doc:"Such as body.name"`
	Message  string `json:"message"`
}

// Errorf makes an error of a code; %w keeps the cause for errors.Is on the server's side.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{
		Status: code.HTTPStatus(), Title: http.StatusText(code.HTTPStatus()), Code: code,
		Detail: err.Error(), cause: errors.Unwrap(err),
	}
}

// WithHint returns a copy of the error that says what to do about it, in one line.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Error returns the detail, and the wrong fields of the request if there are any.
func (e *Error) Error() string {
	s := e.Detail
	if s == "" {
		s = e.Title
	}
	for i, f := range e.Fields {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		s += sep + f.Location + " " + f.Message
	}
	return s
}

// Unwrap returns the cause given to Errorf with %w.
func (e *Error) Unwrap() error { return e.cause }

// GetStatus returns the HTTP status.
func (e *Error) GetStatus() int { return e.Status }

// ContentType makes application/problem+json of any JSON type (RFC 9457 section 3).
func (e *Error) ContentType(ct string) string {
	if ct == "application/json" {
		return "application/problem+json"
	}
	return ct
}

// Is reports whether err is an Error with this code.
func Is(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
