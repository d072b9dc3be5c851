// Package netns enters network namespaces and watches the processes that live in them.
package netns

import (
	"errors"
	"fmt"
)

// ErrUnsupported is returned by everything here on systems other than Linux.
var ErrUnsupported = errors.New("network namespaces need Linux")

// ErrGone says that a process has ended, or that its id belongs to another process by now.
var ErrGone = errors.New("the process has ended")

// ID is the identity of a namespace: device and inode of its file (namespaces(7)). An inode
// may be given to another namespace once the first one has gone.
type ID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// IsZero reports whether no identity is set.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the form the kernel prints in /proc/PID/ns.
func (id ID) String() string { return fmt.Sprintf("net:[%d]", id.Ino) }

// Namespace is an open network namespace. It lives at least until Close: who wants to
// see it end keeps its ID, not the Namespace. All methods may be called from any goroutine.
type Namespace interface {
	// ID returns the identity, by which two namespaces are compared.
	ID() ID
	// FD returns the file descriptor, valid until Close; -1 for a fake.
	FD() int
	// Do runs f on an operating system thread inside the namespace and waits for it. Sockets
	// and files f opens stay in the namespace; goroutines f starts are not in it.
	Do(f func() error) error
	// Close releases the namespace.
	Close() error
}

// Process is a process that is being watched; its id cannot pass to another one unseen.
type Process interface {
	// StartTime is when the process began, in clock ticks since boot (proc(5), field 22 of stat).
	StartTime() uint64
	// Done is closed when the process has ended.
	Done() <-chan struct{}
	// Close ends the watch; Done is not closed by it.
	Close() error
}

// System opens namespaces and processes. OS returns the real one, package netnstest a fake.
type System interface {
	// Current opens the namespace of the calling thread.
	Current() (Namespace, error)
	// Path opens a namespace by its file, such as /run/netns/NAME or /proc/PID/ns/net.
	Path(path string) (Namespace, error)
	// PID opens the namespace of a process.
	PID(pid int) (Namespace, error)
	// Each opens the namespaces that processes are in, each once, until f returns false. A namespace is closed when f returns.
	Each(f func(Namespace) bool) error
	// New makes a namespace without a name. It ends when nothing uses it any more.
	New() (Namespace, error)
	// Process watches a process; ErrGone when there is none.
	Process(pid int) (Process, error)
}
