//go:build !linux

package bare

import (
	"context"
	"errors"
)

// Open fails: the daemon, whose part bridges are, needs Linux.
func Open(context.Context, Place) (Socket, error) {
	return nil, errors.New("bare buses need Linux")
}
