//go:build !linux

package run

import "context"

// Exec fails: network namespaces are Linux's.
func Exec(context.Context, Daemon, Options) error {
	return failed("weft run needs Linux: it runs the command in a network namespace")
}
