//go:build !linux

package tap

// Open refuses.
func Open(string) (Device, error) { return nil, ErrUnsupported }
