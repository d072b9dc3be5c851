package natsproto

import (
	"bytes"
	"slices"
	"strings"
)

// Field is one line of a block of headers.
type Field struct{ Name, Value string }

// ParseHeader reads a block of headers: the status of its first line, which is mostly empty, and its fields. Lines that are none are
// passed over; ok is false when b is no block at all.
func ParseHeader(b []byte) (status string, fields []Field, ok bool) {
	if !CheckHeader(b) {
		return "", nil, false
	}
	first, rest, _ := bytes.Cut(b, []byte(crlf))
	status = strings.TrimSpace(string(first[len(HeaderLine):]))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte(crlf))
		if name, value, found := strings.Cut(string(line), ":"); found && name != "" {
			fields = append(fields, Field{name, strings.TrimSpace(value)})
		}
	}
	return status, fields, true
}

// AppendHeader writes a block of headers. Line ends in names and values, and colons in names, are left out.
func AppendHeader(dst []byte, fields []Field) []byte {
	dst = append(dst, HeaderLine+crlf...)
	for _, f := range fields {
		dst = append(dst, strings.Map(keep(":\r\n"), f.Name)...)
		dst = append(dst, ": "...)
		dst = append(dst, strings.Map(keep(crlf), f.Value)...)
		dst = append(dst, crlf...)
	}
	return append(dst, crlf...)
}

func keep(without string) func(rune) rune {
	bad := []rune(without)
	return func(r rune) rune {
		if slices.Contains(bad, r) {
			return -1
		}
		return r
	}
}
