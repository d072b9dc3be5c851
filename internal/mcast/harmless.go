package mcast

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Harmless returns received text as one line that no terminal obeys: control characters, line and
// paragraph separators, direction overrides and bytes that are not UTF-8 become escapes.
func Harmless(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&out, `\x%02x`, b[0])
		case r == '\t' || unicode.IsPrint(r):
			out.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&out, `\x%02x`, r)
		case unicode.Is(unicode.Zs, r) || r == zeroWidthJoiner || unicode.Is(unicode.Variation_Selector, r):
			out.WriteRune(r) // spaces of other scripts, and what holds emoji together
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		b = b[n:]
	}
	return out.String()
}

const zeroWidthJoiner = '\u200d'
