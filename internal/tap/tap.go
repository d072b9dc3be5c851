// Package tap opens TAP interfaces: Ethernet frames in and out of the kernel, in batches.
package tap

import "errors"

// ErrUnsupported is returned by Open on systems other than Linux.
var ErrUnsupported = errors.New("TAP interfaces need Linux")

// Device is an open TAP interface. The interface exists as long as the Device is open.
//
// Frames are plain Ethernet, without a virtio-net header; a later device that carries
// offloads says so by another constructor, the methods stay.
type Device interface {
	// Name is the interface's name.
	Name() string
	// Read fills bufs[i][:sizes[i]] with frames: it waits for the first and then takes what is
	// there already, at most min(len(bufs), len(sizes)), and returns how many. A frame longer
	// than its buffer is cut (sizes[i] is never more than len(bufs[i])): give MTU + 18 bytes.
	// One goroutine reads at a time. After Close: an error that Is net.ErrClosed.
	Read(bufs [][]byte, sizes []int) (n int, err error)
	// Write hands frames to the kernel and returns how many it took. A frame that the kernel
	// refuses (too short, too long, interface down, queue full) is skipped, counted by Refused
	// and does not stop the rest; err is then nil. Safe from several goroutines.
	Write(bufs [][]byte) (n int, err error)
	// Refused counts the frames that Write skipped.
	Refused() uint64
	// Close removes the interface and ends a blocked Read; a second Close does nothing.
	Close() error
}
