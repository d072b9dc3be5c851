//go:build !linux

package ethersock

// Open refuses.
func Open(int, uint16) (Conn, error) { return nil, ErrUnsupported }
