// Package ethersock sends and receives Ethernet frames of one type on one interface, beside all that pass there, and sends any by any.
package ethersock

import "errors"

// ErrUnsupported says that this system has no such sockets.
var ErrUnsupported = errors.New("no sockets for Ethernet frames on this system")

// Conn is a socket on one interface. Send and Receive may be called from different goroutines.
type Conn interface {
	// Send sends a whole frame, header included: at most the interface's MTU and 14 bytes.
	Send(frame []byte) error
	// Receive waits for a frame that came in, header included, and copies it to b; what is longer is cut off. After Close it
	// returns an error that Is net.ErrClosed. An interface that goes down is an error once; one that is removed is silent for
	// ever, and another of its name needs another Conn.
	Receive(b []byte) (int, error)
	Close() error
}
