package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Listen opens the socket on port, 0 for any. The error names the port; EADDRINUSE mostly
// means that another weft runs.
func Listen(port int, o Options) (Conn, error) {
	if port < 0 || port > 65535 {
		return nil, fmt.Errorf("udp: port %d: want 0 to 65535", port)
	}
	if !o.IPv4Only {
		c, err := listen(netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)), o)
		// A kernel without IPv6 refuses the family; one where it is switched off may refuse the address.
		if err == nil || !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return c, err
		}
	}
	return listen(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)), o)
}

func listen(at netip.AddrPort, o Options) (Conn, error) {
	c := &conn{v6: at.Addr().Is6()}
	var address unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	family := unix.AF_INET6
	if !c.v6 {
		address, family = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}, unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("udp %v: %w", at, os.NewSyscallError("socket", err))
	}
	if err = c.setup(fd, o); err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, address))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("udp %v: %w", at, err), unix.Close(fd))
	}
	if err = c.take(fd); err != nil {
		return nil, fmt.Errorf("udp %v: %w", at, err)
	}
	return c, nil
}

// take makes the descriptor the conn's; on error it is closed.
func (c *conn) take(fd int) (err error) {
	if c.sock, err = newSocket(fd); err != nil {
		return err
	}
	c.writers.New = func() any { return newBatch(c, MaxBatch) }
	if c.local, err = c.sock.localAddr(); err != nil {
		return errors.Join(err, c.sock.close())
	}
	return nil
}

// Adopt takes over a socket that another process of this program made by Listen and handed over. The file is the
// caller's to close.
func Adopt(f *os.File, o Options) (Conn, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("udp: take over a socket: %w", err)
	}
	c := &conn{}
	fd := -1
	if cerr := raw.Control(func(theirs uintptr) {
		var family, protocol int
		if protocol, err = unix.GetsockoptInt(int(theirs), unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil && protocol != unix.IPPROTO_UDP {
			err = errors.New("not of UDP")
		}
		if err == nil {
			family, err = unix.GetsockoptInt(int(theirs), unix.SOL_SOCKET, unix.SO_DOMAIN)
		}
		if c.v6 = family == unix.AF_INET6; err == nil {
			fd, err = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0)
		}
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("udp: take over a socket: %w", err)
	}
	if err = c.tune(fd, o); err != nil {
		return nil, errors.Join(fmt.Errorf("udp: take over a socket: %w", err), unix.Close(fd))
	}
	if err = c.take(fd); err != nil {
		return nil, fmt.Errorf("udp: take over a socket: %w", err)
	}
	return c, nil
}

// File returns another descriptor of a socket, for Adopt in another process.
func File(c Conn) (*os.File, error) {
	own, ok := c.(*conn)
	if !ok {
		return nil, errors.New("udp: not a socket of the system's")
	}
	return own.sock.dup()
}

func (c *conn) Halt() { c.sock.readUntil(time.Unix(1, 0)) }

func (c *conn) Resume() { c.sock.readUntil(time.Time{}) }

// setup sets the options that must be there before bind, and the optional ones that may fail.
func (c *conn) setup(fd int, o Options) error {
	if o.reuse {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return fmt.Errorf("share the address: %w", err)
		}
	}
	if o.device != 0 { // before Linux 5.7 for root only
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, o.device)
	}
	if c.v6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return fmt.Errorf("dual stack: %w", err)
		}
		// Smaller paths than the interface's MTU may fragment: weft probes path MTUs itself.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT); err != nil {
			return fmt.Errorf("IPv6 path MTU discovery off: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT); err != nil {
		return fmt.Errorf("path MTU discovery off: %w", err)
	}
	return c.tune(fd, o)
}

// tune sets what may be set at any time.
func (c *conn) tune(fd int, o Options) error {
	size := o.Buffer
	if size == 0 {
		size = DefaultBuffer
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, size)
	setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, size)
	c.rcvbuf, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	c.sndbuf, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)

	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	c.canSegment = err == nil
	if o.Coalesce {
		c.coalesces = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	}
	// Hear only groups joined on this very socket, and not oneself.
	opts := []sockopt{{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0}, {unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0}}
	if c.v6 {
		opts = append(opts, sockopt{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0}, sockopt{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0})
	}
	return setAll(fd, opts)
}

// sockopt is an integer option of a socket.
type sockopt struct{ level, name, value int }

func setAll(fd int, opts []sockopt) error {
	for _, s := range opts {
		if err := unix.SetsockoptInt(fd, s.level, s.name, s.value); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			return fmt.Errorf("multicast option %d/%d: %w", s.level, s.name, err)
		}
	}
	return nil
}

func (c *conn) Multicast(ifindex, ttl int) error { return c.multicast(true, c.v6, ifindex, ttl) }

func (c *conn) MulticastOf(group netip.Addr, ifindex, ttl int) error {
	v4 := group.Unmap().Is4()
	if !v4 && !c.v6 {
		return fmt.Errorf("udp: multicast by interface %d: a socket of IPv4 only", ifindex)
	}
	return c.multicast(v4, !v4, ifindex, ttl)
}

func (c *conn) multicast(v4, v6 bool, ifindex, ttl int) error {
	if ttl == 0 {
		ttl = 1
	}
	var opts []sockopt
	if v4 {
		opts = append(opts, sockopt{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, ttl})
	}
	if v6 {
		opts = append(opts, sockopt{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl}, sockopt{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifindex})
	}
	err := c.sock.control(func(fd int) error {
		if err := setAll(fd, opts); err != nil || !v4 {
			return err
		}
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(ifindex)})
	})
	if err != nil {
		return fmt.Errorf("udp: multicast by interface %d: %w", ifindex, err)
	}
	return nil
}

// setBuffer asks for size: above the system's limit where allowed, else up to the limit.
func setBuffer(fd, force, plain, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
	}
}

// conn is safe for concurrent use: batch state is taken by its user, the rest does not change after listen.
type conn struct {
	sock  *socket
	local netip.AddrPort
	v6    bool // an AF_INET6 socket: IPv4 addresses go in mapped form

	rcvbuf, sndbuf        int
	canSegment, coalesces bool

	reader  atomic.Pointer[batch] // at rest between reads; a socket mostly has one reader
	writers sync.Pool             // of *batch
	n       counters
	uncut   uncutSet

	once     sync.Once
	closeErr error
}

var _ Conn = (*conn)(nil)

func (c *conn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, ErrEmptyBatch
	}
	b := c.reader.Swap(nil)
	if b == nil { // the first read, or a second reader at the same time
		b = newBatch(c, MaxBatch)
	}
	n, err := b.read(ms)
	b.release()
	c.reader.Store(b)
	return n, err
}

func (c *conn) WriteBatch(ms []Message) (int, error) {
	b := c.writers.Get().(*batch)
	n, err := b.WriteBatch(ms)
	c.writers.Put(b)
	return n, err
}

func (c *conn) NewWriter(n int) Writer { return newBatch(c, min(max(n, 1), MaxBatch)) }

func (c *conn) Join(group netip.Addr, ifindex int) error {
	return c.membership(group, ifindex, unix.IP_ADD_MEMBERSHIP, unix.IPV6_JOIN_GROUP)
}

func (c *conn) Leave(group netip.Addr, ifindex int) error {
	return c.membership(group, ifindex, unix.IP_DROP_MEMBERSHIP, unix.IPV6_LEAVE_GROUP)
}

func (c *conn) membership(group netip.Addr, ifindex, opt4, opt6 int) error {
	group = group.Unmap()
	if !group.IsMulticast() {
		return fmt.Errorf("udp: %v is not a group", group)
	}
	err := c.sock.control(func(fd int) error {
		if group.Is4() {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, opt4, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(ifindex)})
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, opt6, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifindex)})
	})
	if joins := opt4 == unix.IP_ADD_MEMBERSHIP; joins && errors.Is(err, unix.EADDRINUSE) {
		err = nil // joined already, perhaps by the process that handed the socket over
	}
	if err != nil {
		return fmt.Errorf("udp: group %v on interface %d: %w", group, ifindex, err)
	}
	return nil
}

func (c *conn) LocalAddr() netip.AddrPort { return c.local }

func (c *conn) Stats() Stats {
	s := c.n.stats()
	s.RcvBuffer, s.SndBuffer, s.CanSegment, s.Coalesces = c.rcvbuf, c.sndbuf, c.canSegment, c.coalesces
	_ = c.sock.control(func(fd int) error { // closed: 0
		s.RxDrops = uint64(socketDrops(fd))
		return nil
	})
	return s
}

func (c *conn) Close() error {
	c.once.Do(func() { c.closeErr = c.sock.close() })
	return c.closeErr
}
