//go:build !linux

package ethersock

// Open refuses.
func Open(int, uint16) (Conn, error) { return nil, ErrUnsupported }

// Sender sends frames; not on this system.
type Sender struct{}

// NewSender refuses.
func NewSender() (*Sender, error) { return nil, ErrUnsupported }

// Send refuses.
func (*Sender) Send(int, []byte) error { return ErrUnsupported }

// Close does nothing.
func (*Sender) Close() error { return nil }
