// Package udp sends and receives datagrams on the underlay in batches.
//
// One dual-stack socket serves a host. On Linux a batch is one recvmmsg or sendmmsg, without
// allocation; elsewhere it is a plain loop with the same contract. Package udptest has the fake.
package udp

import (
	"errors"
	"net/netip"
	"sync/atomic"
)

// Limits.
const (
	// MaxBatch is the most messages of one system call; longer slices take several.
	MaxBatch = 128
	// MaxSegments is the most datagrams of one Message with Segment set (UDP_MAX_SEGMENTS of the kernel is 128; older ones take 64).
	MaxSegments = 64
	// DefaultBuffer is the size asked for each socket buffer, in bytes: 8 MiB hold a burst of some 5,000 full datagrams.
	DefaultBuffer = 8 << 20
)

// ErrEmptyBatch is returned by ReadBatch without messages to fill.
var ErrEmptyBatch = errors.New("udp: empty batch")

// Message is one datagram, or several of one size to or from one endpoint.
type Message struct {
	// Buf is the space to read into (its length counts), or what to write.
	Buf []byte
	// N is the number of bytes read into Buf, or written from it: 0 when the kernel refused the message.
	N int
	// Addr is the other end; IPv4 is never in its IPv6-mapped form.
	Addr netip.AddrPort
	// Segment, if not 0, cuts Buf[:N] into datagrams of Segment bytes, the last of which may be shorter.
	// A write may always set it: what the kernel cannot cut goes out one by one. A read sets it only when
	// Options.Coalesce is on.
	Segment int
	// Truncated says that the datagram was longer than Buf and its rest is lost.
	Truncated bool
}

// Conn is a socket on the underlay. All methods may be called from any goroutine.
type Conn interface {
	// ReadBatch blocks until at least one datagram is there, fills messages from the front and returns their number.
	// After Close it returns net.ErrClosed.
	ReadBatch(ms []Message) (int, error)
	// WriteBatch sends all messages and returns how many the kernel took. A message that the kernel refuses
	// (too long, no route, forbidden by a packet filter) is counted in Stats by its errno, and does not
	// stop the others; an error means that the socket itself is of no use, net.ErrClosed after Close.
	WriteBatch(ms []Message) (int, error)
	// NewWriter returns a writer with its own space for batches of n messages, for one goroutine that writes often.
	NewWriter(n int) Writer
	// Join makes the socket hear an underlay group on an interface (by index), Leave undoes it.
	// The socket's own datagrams to the group go out as Multicast says and are not looped back.
	Join(group netip.Addr, ifindex int) error
	Leave(group netip.Addr, ifindex int) error
	// Multicast says by which interface datagrams to groups leave, 0 leaving it to the routes, and with which TTL or hop
	// limit, 1 when 0.
	Multicast(ifindex, ttl int) error
	// MulticastOf is Multicast for the groups of one family, that of group.
	MulticastOf(group netip.Addr, ifindex, ttl int) error
	// Halt ends a blocked ReadBatch, and each one to come until Resume, with an error that Is os.ErrDeadlineExceeded:
	// datagrams wait in the socket. Writing goes on.
	Halt()
	Resume()
	// LocalAddr is the address the socket is bound to: [::]:port, or 0.0.0.0:port on a host without IPv6.
	LocalAddr() netip.AddrPort
	// Stats returns counters since Listen.
	Stats() Stats
	// Close wakes blocked readers and writers. It may be called twice.
	Close() error
}

// Writer is WriteBatch with batch space of its own; not for concurrent use.
type Writer interface {
	WriteBatch(ms []Message) (int, error)
}

// Options of Listen; the zero value is right for a host.
type Options struct {
	// Buffer is the size of each socket buffer in bytes, DefaultBuffer when 0. Without the
	// privilege to go beyond the system's limit (net.core.rmem_max) the limit holds.
	Buffer int
	// Coalesce lets the kernel hand over several datagrams of one flow in one Message (UDP_GRO): read
	// buffers must then have 64 KiB. Ignored where the kernel cannot.
	Coalesce bool
	// IPv4Only binds 0.0.0.0 even where the host has IPv6.
	IPv4Only bool

	reuse  bool // others may bind the same address (ListenGroup)
	device int  // index of the interface from which alone packets are taken; 0: any
}

// Stats are counters of a Conn since Listen.
type Stats struct {
	RxMessages, RxBytes   uint64
	TxMessages, TxBytes   uint64
	RxTruncated           uint64
	RxDrops               uint64            // datagrams the kernel dropped, the receive buffer being full
	TxErrors              map[string]uint64 // refused messages by errno name in lower case, such as "emsgsize"
	RcvBuffer, SndBuffer  int               // sizes granted, in bytes
	CanSegment, Coalesces bool              // UDP_SEGMENT and UDP_GRO at work
}

// counters is what Stats reads; every field is only ever added to.
type counters struct {
	rxMessages, rxBytes, rxTruncated atomic.Uint64
	txMessages, txBytes              atomic.Uint64
	errs                             [len(errnoNames)]atomic.Uint64
}

// errnoNames are the names under which refused messages are counted. The last takes all others.
var errnoNames = [...]string{
	"emsgsize", "enetunreach", "ehostunreach", "econnrefused", "eperm", "eacces", "enobufs", "einval", "eaddrnotavail", "eafnosupport", "other",
}

func (c *counters) stats() Stats {
	s := Stats{
		RxMessages: c.rxMessages.Load(), RxBytes: c.rxBytes.Load(), RxTruncated: c.rxTruncated.Load(),
		TxMessages: c.txMessages.Load(), TxBytes: c.txBytes.Load(),
		TxErrors: map[string]uint64{},
	}
	for i := range c.errs {
		if n := c.errs[i].Load(); n > 0 {
			s.TxErrors[errnoNames[i]] = n
		}
	}
	return s
}
