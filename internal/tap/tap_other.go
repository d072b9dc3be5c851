//go:build !linux

package tap

import "os"

// Open refuses.
func Open(string) (Device, error) { return nil, ErrUnsupported }

// Adopt fails: there is no TAP here.
func Adopt(string, *os.File) (Device, error) { return nil, ErrUnsupported }

// File fails: there is no TAP here.
func File(Device) (*os.File, error) { return nil, ErrUnsupported }
