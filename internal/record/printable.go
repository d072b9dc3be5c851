package record

import "strings"

// Printable makes a text that another host wrote safe for a terminal and a log: control characters, and what is no UTF-8, become question
// marks, and all beyond most bytes is left out.
func Printable(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}
