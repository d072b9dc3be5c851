// Package subject holds the names messages travel under: dotted tokens, patterns with wildcards, and a trie of who wants what.
//
// A subject is one or more tokens joined by dots: quotes.eu.sap. In a pattern the token * stands for any one token and
// the last token > for one or more (the rules of NATS). It is a core: values and functions.
package subject

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits.
const (
	// MaxLength is the longest subject or pattern, in bytes.
	MaxLength = 255
	// MaxTokens bounds the tokens, and so the depth of a trie.
	MaxTokens = 32
)

// ErrBad is wrapped by every refusal of this package.
var ErrBad = errors.New("bad subject")

// Check refuses what is no subject: empty tokens, wildcards, white space, control characters, bytes that are not UTF-8.
func Check(s string) error { return check(s, false) }

// CheckPattern refuses what is no pattern. Every subject is one.
func CheckPattern(s string) error { return check(s, true) }

func check(s string, pattern bool) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: it is empty", ErrBad)
	case len(s) > MaxLength:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrBad, len(s), MaxLength)
	case !utf8.ValidString(s):
		return fmt.Errorf("%w %q: not UTF-8", ErrBad, s)
	}
	n := 0
	for rest, more := s, true; more; {
		var tok string
		tok, rest, more = strings.Cut(rest, ".")
		n++
		switch {
		case tok == "":
			return fmt.Errorf("%w %q: an empty token", ErrBad, s)
		case tok == "*" && pattern:
		case tok == ">" && pattern && !more:
		case strings.ContainsAny(tok, "*>"):
			if pattern {
				return fmt.Errorf("%w %q: * stands alone between dots, and > at the end", ErrBad, s)
			}
			return fmt.Errorf("%w %q: wildcards are for subscriptions", ErrBad, s)
		case strings.ContainsFunc(tok, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
			return fmt.Errorf("%w %q: white space or control characters", ErrBad, s)
		}
	}
	if n > MaxTokens {
		return fmt.Errorf("%w %q: %d tokens, at most %d", ErrBad, s, n, MaxTokens)
	}
	return nil
}

// IsPattern reports whether a well-formed pattern has wildcards.
func IsPattern(s string) bool {
	for rest, more := s, true; more; {
		var tok string
		if tok, rest, more = strings.Cut(rest, "."); tok == "*" || tok == ">" {
			return true
		}
	}
	return false
}

// Overlap reports whether some subject matches both well-formed patterns. Where one is a subject, that is whether it
// matches the other. It allocates nothing.
func Overlap(a, b string) bool {
	for {
		ta, ra, morea := strings.Cut(a, ".")
		tb, rb, moreb := strings.Cut(b, ".")
		if ta == ">" || tb == ">" {
			return true
		}
		if ta != tb && ta != "*" && tb != "*" {
			return false
		}
		if !morea || !moreb {
			return morea == moreb
		}
		a, b = ra, rb
	}
}
