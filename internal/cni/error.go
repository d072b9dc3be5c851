package cni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weft-net/weft/client"
)

// Code says to a runtime what went wrong.
type Code int

// Codes of the specification (section 5, Error), and from 100 on weft's own. The set only ever grows.
const (
	CodeVersion      Code = 1  // the version of the configuration
	CodeUnsupported  Code = 2  // a key of the configuration that is not supported
	CodeContainer    Code = 3  // the container is not there: nothing was made, nothing needs to be removed
	CodeEnvironment  Code = 4  // CNI_COMMAND, CNI_CONTAINERID, ...
	CodeIO           Code = 5  // reading the configuration
	CodeDecode       Code = 6  // the configuration is not what it should be
	CodeConfig       Code = 7  // the configuration says what cannot be
	CodeTryAgain     Code = 11 // the daemon is not there, or not ready
	CodeUnavailable  Code = 50 // of STATUS: no container can be added
	CodeDisconnected Code = 51 // of STATUS: the daemon is down, and those that are there hear nothing from other hosts

	CodeRefused  Code = 100 // the daemon understood, and does not on purpose
	CodeMissing  Code = 101 // what is asked for is not there: a network, or of CHECK the attachment
	CodeConflict Code = 102 // a name or address that is taken
	CodeDamaged  Code = 103 // of CHECK: the attachment is not as it was made
	CodeInternal Code = 110 // a fault of weft
)

// Error is what a runtime is told.
type Error struct {
	Version string `json:"cniVersion"`
	Code    Code   `json:"code"`
	Msg     string `json:"msg"`               // one line that names the thing
	Details string `json:"details,omitempty"` // what to do about it

	cause error
}

func (e *Error) Error() string {
	if e.Details != "" {
		return e.Msg + "; " + e.Details
	}
	return e.Msg
}

func (e *Error) Unwrap() error { return e.cause }

func errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Msg: err.Error(), cause: err}
}

// with adds what to do.
func (e *Error) with(details string) *Error {
	e.Details = details
	return e
}

// told turns whatever went wrong into what the runtime is told.
func told(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	e := errorf(CodeInternal, "%w", err)
	var answered *client.Error
	switch {
	case errors.As(err, &answered):
		e.Code, e.Details = codeOf(answered.Code), answered.Hint
	case errors.Is(err, client.ErrNoDaemon), errors.Is(err, context.DeadlineExceeded):
		e.Code = CodeTryAgain
	}
	return e
}

func codeOf(c client.Code) Code {
	switch c {
	case client.CodeInvalid, client.CodeTooLarge:
		return CodeConfig
	case client.CodeRefused:
		return CodeRefused
	case client.CodeNotFound:
		return CodeMissing
	case client.CodeConflict:
		return CodeConflict
	case client.CodeUnavailable, client.CodeTimeout:
		return CodeTryAgain
	case client.CodeInternal:
	}
	return CodeInternal
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
