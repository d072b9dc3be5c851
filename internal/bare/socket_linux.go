package bare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// receiveBuffer is asked of the kernel, in bytes.
const receiveBuffer = 4 << 20

type socket struct {
	raw   *os.File
	ctl   syscall.RawConn
	send  *net.UDPConn
	ifi   net.Interface
	from  netip.Addr
	place Place
}

// Open joins a group. It needs CAP_NET_RAW.
func Open(ctx context.Context, p Place) (Socket, error) {
	ifi, from, err := find(p, netip.Addr{})
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", p.Group, err)
	}
	s := &socket{ifi: ifi, from: from, place: p}
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("join %s on %s: %w", p.Group, ifi.Name, err)
	}
	if err := s.openSend(ctx); err != nil {
		_ = s.raw.Close()
		return nil, fmt.Errorf("send to %s on %s: %w", p.Group, ifi.Name, err)
	}
	return s, nil
}

// listen makes the raw socket: bound to the group, a member of it on one interface, and deaf to others.
func (s *socket) listen() error {
	group := s.place.Group.Addr()
	family := unix.AF_INET6
	if group.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return fmt.Errorf("raw socket: %w", err)
	}
	var to unix.Sockaddr
	var joining error
	if group.Is4() {
		to = &unix.SockaddrInet4{Addr: group.As4()}
		joining = errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
			unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(s.ifi.Index)}))
	} else {
		const checksumAt = 6 // in the UDP header: the kernel checks it (RFC 3542 section 3.1)
		to = &unix.SockaddrInet6{Addr: group.As16(), ZoneId: uint32(s.ifi.Index)}
		joining = errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, checksumAt),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0),
			unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(s.ifi.Index)}))
	}
	err = errors.Join(unix.BindToDevice(fd, s.ifi.Name), unix.Bind(fd, to), joining)
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // up to the kernel's limit
	}
	s.raw = os.NewFile(uintptr(fd), "bare")
	if s.ctl, err = s.raw.SyscallConn(); err != nil {
		return errors.Join(err, s.raw.Close())
	}
	return nil
}

// openSend makes the socket that sends: several buses of a host share its port.
func (s *socket) openSend(ctx context.Context) error {
	reuse := func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}), err)
	}
	from := s.from
	if from.IsLinkLocalUnicast() && from.Is6() {
		from = from.WithZone(s.ifi.Name)
	}
	lc := net.ListenConfig{Control: reuse}
	pc, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(from, Port).String())
	if err != nil {
		return fmt.Errorf("from UDP port %d, which all bridges send from: %w", Port, err)
	}
	c, ok := pc.(*net.UDPConn)
	if !ok {
		return errors.Join(fmt.Errorf("a socket of type %T", pc), pc.Close())
	}
	_ = c.SetReadBuffer(0) // nothing is read from it
	if s.place.Group.Addr().Is4() {
		p := ipv4.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(&s.ifi), p.SetMulticastTTL(s.place.TTL), p.SetMulticastLoopback(true))
	} else {
		p := ipv6.NewPacketConn(c)
		err = errors.Join(p.SetMulticastInterface(&s.ifi), p.SetMulticastHopLimit(s.place.TTL), p.SetMulticastLoopback(true))
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	s.send = c
	return nil
}

func (s *socket) Interface() string { return s.ifi.Name }

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.raw.Read(b)
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return n, err
}

func (s *socket) Send(b []byte, port uint16) error {
	to := s.place.Group.Addr()
	if to.Is6() && (to.IsLinkLocalMulticast() || to.IsInterfaceLocalMulticast()) {
		to = to.WithZone(s.ifi.Name)
	}
	_, err := s.send.WriteToUDPAddrPort(b, netip.AddrPortFrom(to, port))
	return err
}

// Drops reads SO_MEMINFO, whose ninth word counts what was dropped at the socket.
func (s *socket) Drops() uint64 {
	const dropsWord = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [dropsWord + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	if s.ctl.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	}) != nil || errno != 0 {
		return 0
	}
	return uint64(info[dropsWord])
}

func (s *socket) Check() error {
	ifi, from, err := find(s.place, s.from)
	switch {
	case err != nil:
		return err
	case ifi.Index != s.ifi.Index || from != s.from:
		return fmt.Errorf("interface %s, address %s: now it is %s, address %s", s.ifi.Name, s.from, ifi.Name, from)
	}
	return nil
}

func (s *socket) Close() error { return errors.Join(s.raw.Close(), s.send.Close()) }
