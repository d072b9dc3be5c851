//go:build !linux

package handover

import (
	"errors"
	"os"
	"time"
)

// Listener is for Linux.
type Listener struct{}

// Conn is for Linux.
type Conn struct{}

// Listen fails: only Linux hands descriptors over here.
func Listen(string) (*Listener, error) { return nil, errors.ErrUnsupported }

// Dial finds nobody.
func Dial(string) (*Conn, error) { return nil, ErrNobody }

// Accept fails.
func (*Listener) Accept() (*Conn, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (*Listener) Close() error { return nil }

// PID is of nobody.
func (*Conn) PID() int { return 0 }

// SetDeadline fails.
func (*Conn) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// Close does nothing.
func (*Conn) Close() error { return nil }

// Send fails.
func (*Conn) Send(byte, []byte, ...*os.File) error { return errors.ErrUnsupported }

// Receive fails.
func (*Conn) Receive(int) (kind byte, body []byte, files []*os.File, err error) {
	return 0, nil, nil, errors.ErrUnsupported
}
