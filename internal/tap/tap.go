// Package tap opens TAP interfaces: Ethernet frames in and out of the kernel, in batches.
package tap

import "errors"

// ErrUnsupported is returned by Open on systems other than Linux.
var ErrUnsupported = errors.New("TAP interfaces need Linux")

// QueueFrames is how many frames wait in the kernel for Read. The kernel's own 1,000 are gone in ten milliseconds of a fast
// stream, and on a busy host a process may wait longer for its turn.
const QueueFrames = 4096

// MaxParts is how many parts a frame may be written in.
const MaxParts = 512

// Device is an open TAP interface. The interface exists as long as the Device is open.
//
// Before every frame stands a virtio-net header of gso.HeaderLen bytes: the kernel hands over super-frames (TCP or UDP
// data of many packets behind one header) and frames whose transport checksum is not computed, and takes such. Where a
// kernel lacks an offload, those it hands over are whole and short.
type Device interface {
	// Name is the interface's name.
	Name() string
	// Read waits for a frame and then takes what is there already, at most len(frames) and as long as gso.MaxFrame
	// bytes of space, which must have that many at least, are left. It puts them into space one behind the other, makes
	// frames[i] those parts of it, header first, and returns how many.
	// One goroutine reads at a time. After Close: an error that Is net.ErrClosed.
	Read(space []byte, frames [][]byte) (n int, err error)
	// Write hands one frame, header first, in at most MaxParts parts to the kernel. One that the kernel does not take (too
	// short, too long, interface down) is counted by Refused; err is then nil. Safe from several goroutines.
	Write(parts [][]byte) (taken bool, err error)
	// SegmentsUDP reports whether the kernel takes super-frames of UDP datagrams, and hands such over.
	SegmentsUDP() bool
	// Refused counts the frames that the kernel did not take.
	Refused() uint64
	// Halt ends a blocked Read, and each one to come until Resume, with an error that Is os.ErrDeadlineExceeded: frames
	// wait in the kernel, QueueFrames of them. Writing goes on.
	Halt()
	Resume()
	// Close ends a blocked Read and removes the interface, unless another process has taken it over; a second Close does nothing.
	Close() error
}
