//go:build !unix

package discover

import "syscall"

func shareBroadcast(_, _ string, _ syscall.RawConn) error { return nil }
