package cli

import "strings"

// tokenFlag is the flag whose value must not stay in the argument list, where every user sees it.
const tokenFlag = "--token"

// TakeArgs returns a copy of a process's arguments, and blanks the token in the memory they came
// from where the system shows that to others. Call it first, with os.Args and nothing else.
func TakeArgs(argv []string) []string {
	out := make([]string, len(argv))
	for i, s := range argv {
		out[i] = strings.Clone(s)
	}
	for i, s := range argv {
		switch {
		case s == "--": // the rest is a command of its own
			return out
		case s == tokenFlag && i+1 < len(argv):
			blank(argv[i+1])
		case strings.HasPrefix(s, tokenFlag+"="):
			blank(s[len(tokenFlag)+1:])
		}
	}
	return out
}
