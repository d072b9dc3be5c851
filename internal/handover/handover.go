// Package handover is the socket over which a daemon hands descriptors and secrets to the one that takes its place.
//
// The socket is RUN_DIR/handover.sock, mode 0600; both ends see to it that the other is root. A message is a kind, the
// length of its body in 4 bytes, and the body; descriptors come with it.
package handover

import "errors"

// SocketName is the socket in the run directory.
const SocketName = "handover.sock"

// MaxDescriptors is how many descriptors one message carries: the kernel takes 253 (SCM_MAX_FD).
const MaxDescriptors = 128

// header is the kind and the length of the body.
const header = 5

var (
	// ErrNobody says that no daemon that hands over listens in a run directory.
	ErrNobody = errors.New("no daemon that hands over")
	// ErrTooLong says that a message is longer than its receiver takes.
	ErrTooLong = errors.New("hand-over: message too long")
	// ErrNotRoot says that the other end is not root.
	ErrNotRoot = errors.New("hand-over: the other end is not root")
)
