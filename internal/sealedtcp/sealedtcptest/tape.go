// Package sealedtcptest is a connection on tape, for tests of what reads and writes sealed records.
package sealedtcptest

import (
	"bytes"
	"net"
	"time"
)

// Tape is a connection that keeps what is written and reads what it is given. Deadlines never end.
type Tape struct {
	net.Conn
	In  *bytes.Reader
	Out bytes.Buffer
}

func (t *Tape) Read(p []byte) (int, error)  { return t.In.Read(p) }
func (t *Tape) Write(p []byte) (int, error) { return t.Out.Write(p) }

// SetDeadline does nothing.
func (t *Tape) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (t *Tape) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (t *Tape) SetWriteDeadline(time.Time) error { return nil }

// Close does nothing.
func (t *Tape) Close() error { return nil }
