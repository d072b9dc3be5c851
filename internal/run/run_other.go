//go:build !linux

package run

import (
	"context"
	"errors"
)

// Exec needs Linux.
func Exec(context.Context, Daemon, Options) error {
	return &Error{CodeFailed, errors.New("weft run needs Linux: network namespaces")}
}
