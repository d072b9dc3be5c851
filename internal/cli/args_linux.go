package cli

import "unsafe"

// blank overwrites a part of the argument list: on Linux, Go's os.Args point into the memory that
// /proc/PID/cmdline shows. A string elsewhere might be read-only.
func blank(s string) {
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for i := range b {
		b[i] = 'x'
	}
}
