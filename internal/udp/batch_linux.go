package udp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// controlSpace holds one control message of a 4-byte integer, aligned.
const controlSpace = 32

// batch is the state of one system call in flight: header, address and control arrays that stay
// where they are from call to call. It belongs to one goroutine at a time.
type batch struct {
	c     *conn
	hdrs  []mmsghdr
	iovs  []unix.Iovec
	names []unix.RawSockaddrInet6 // large enough for IPv4 too
	ctl   [][controlSpace]byte

	parts  [32]Message // of a message that the kernel does not cut
	lo, hi int         // hdrs[lo:hi] are to be sent
	n      int         // result of the call
	errno  unix.Errno

	// recv and send as func values made once: a method value at the call would allocate.
	recvFn, sendFn func(fd uintptr) bool
}

func newBatch(c *conn, n int) *batch {
	b := &batch{
		c: c, hdrs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n),
		names: make([]unix.RawSockaddrInet6, n), ctl: make([][controlSpace]byte, n),
	}
	for i := range b.hdrs {
		h := &b.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
	}
	b.recvFn, b.sendFn = b.recv, b.send
	return b
}

// read fills ms by one recvmmsg.
func (b *batch) read(ms []Message) (int, error) {
	n := min(len(ms), len(b.hdrs))
	for i := range n {
		h := &b.hdrs[i].hdr
		b.setBuf(i, ms[i].Buf)
		h.Namelen = unix.SizeofSockaddrInet6
		h.Flags = 0
		h.Control = nil
		h.SetControllen(0)
		if b.c.coalesces {
			h.Control = &b.ctl[i][0]
			h.SetControllen(controlSpace)
		}
	}
	b.lo, b.hi = 0, n
	if err := b.await(b.c.sock.in, b.recvFn); err != nil {
		return 0, fmt.Errorf("udp read: %w", err)
	}
	if b.errno != 0 {
		return 0, fmt.Errorf("udp read: %w", b.errno)
	}
	var bytes uint64
	for i := range b.n {
		h, m := &b.hdrs[i], &ms[i]
		m.N = int(h.n)
		m.Addr = b.addr(i)
		m.Truncated = h.hdr.Flags&unix.MSG_TRUNC != 0
		m.Segment = 0
		if b.c.coalesces {
			m.Segment = segment(b.ctl[i][:min(int(h.hdr.Controllen), controlSpace)])
			if m.Segment >= m.N {
				m.Segment = 0
			}
		}
		if m.Truncated {
			b.c.n.rxTruncated.Add(1)
		}
		bytes += uint64(m.N)
	}
	runtime.KeepAlive(ms)
	b.c.n.rxMessages.Add(uint64(b.n))
	b.c.n.rxBytes.Add(bytes)
	return b.n, nil
}

// WriteBatch implements Writer.
func (b *batch) WriteBatch(ms []Message) (sent int, err error) {
	for len(ms) > 0 && err == nil {
		n := 0
		for n < min(len(ms), len(b.hdrs)) && !b.uncut(&ms[n]) {
			n++
		}
		var k int
		if n == 0 {
			n = 1
			k, err = b.pieces(&ms[0])
		} else {
			k, err = b.write(ms[:n])
		}
		sent += k
		ms = ms[n:]
	}
	b.release()
	return sent, err
}

// uncut reports whether a message is known to be one that the kernel does not cut.
func (b *batch) uncut(m *Message) bool {
	return m.Segment > 0 && m.Segment < len(m.Buf) && b.c.uncut.has(m.Addr)
}

// pieces sends the datagrams of a message as messages of their own. It returns 1 when all went.
func (b *batch) pieces(m *Message) (int, error) {
	m.N = 0
	whole := 1
	for rest := m.Buf; len(rest) > 0; {
		k := 0
		for ; k < min(len(b.parts), len(b.hdrs)) && len(rest) > 0; k++ {
			n := min(m.Segment, len(rest))
			b.parts[k] = Message{Buf: rest[:n], Addr: m.Addr}
			rest = rest[n:]
		}
		n, err := b.write(b.parts[:k])
		if n < k {
			whole = 0
		}
		for i := range b.parts[:k] {
			m.N += b.parts[i].N
			b.parts[i].Buf = nil
		}
		if err != nil {
			return 0, err
		}
	}
	return whole, nil
}

// write sends up to len(b.hdrs) messages.
func (b *batch) write(ms []Message) (int, error) {
	for i := range ms {
		m := &ms[i]
		m.N = 0
		h := &b.hdrs[i].hdr
		b.setBuf(i, m.Buf)
		h.Namelen = b.setAddr(i, m.Addr)
		h.Flags = 0
		h.Control = nil
		h.SetControllen(0)
		if m.Segment > 0 && m.Segment < len(m.Buf) {
			h.Control = &b.ctl[i][0]
			h.SetControllen(putSegment(&b.ctl[i], m.Segment))
		}
	}
	sent := 0
	var bytes uint64
	for b.lo, b.hi = 0, len(ms); b.lo < b.hi; {
		if err := b.await(b.c.sock.out, b.sendFn); err != nil {
			return sent, fmt.Errorf("udp write: %w", err)
		}
		if b.errno != 0 {
			// sendmmsg stops at the message it cannot send, and fails when that is the first.
			n, k := b.apart(&ms[b.lo])
			if n == 0 {
				b.c.n.errs[errnoIndex(b.errno)].Add(1)
			}
			sent += n
			bytes += uint64(k)
			b.lo++
			continue
		}
		for i := range b.n {
			k := int(b.hdrs[b.lo+i].n)
			ms[b.lo+i].N = k
			bytes += uint64(k)
		}
		sent += b.n
		b.lo += b.n
	}
	runtime.KeepAlive(ms)
	b.c.n.txMessages.Add(uint64(sent))
	b.c.n.txBytes.Add(bytes)
	return sent, nil
}

// apart sends the datagrams of a message one by one, after the kernel refused them together, and takes note of that. It
// returns 1 when all went, and their bytes.
func (b *batch) apart(m *Message) (sent, bytes int) {
	if m.Segment <= 0 || m.Segment >= len(m.Buf) {
		return 0, 0
	}
	b.c.uncut.add(m.Addr)
	lo, hi, i := b.lo, b.hi, b.lo
	h := &b.hdrs[i].hdr
	h.Control = nil
	h.SetControllen(0)
	for rest := m.Buf; len(rest) > 0; {
		n := min(m.Segment, len(rest))
		b.setBuf(i, rest[:n])
		b.lo, b.hi = i, i+1
		if b.await(b.c.sock.out, b.sendFn) != nil || b.errno != 0 {
			break
		}
		bytes += n
		rest = rest[n:]
	}
	b.lo, b.hi = lo, hi
	if m.N = bytes; bytes == len(m.Buf) {
		sent = 1
	}
	return sent, bytes
}

// release drops the pointers into the caller's buffers, which a pooled batch must not keep alive.
func (b *batch) release() {
	for i := range b.hi {
		b.iovs[i] = unix.Iovec{}
	}
}

// await calls f, and again each time the watch tells of the socket, until f is true. The error is net.ErrClosed after Close,
// os.ErrDeadlineExceeded while halted.
func (b *batch) await(w *watch, f func(ep uintptr) bool) error {
	err := w.raw.Read(f)
	if (err != nil || b.errno == unix.EBADF) && b.c.sock.closed() {
		return net.ErrClosed
	}
	return err
}

// recv is called when the socket may be readable; false waits for it.
func (b *batch) recv(uintptr) bool {
	b.c.sock.mu.RLock()
	defer b.c.sock.mu.RUnlock()
	return b.call(unix.SYS_RECVMMSG, b.c.sock.fd)
}

// send is called when the socket may be writable; false waits for it.
func (b *batch) send(ep uintptr) bool {
	s := b.c.sock
	s.mu.RLock()
	defer s.mu.RUnlock()
	if b.call(unix.SYS_SENDMMSG, s.fd) {
		return true
	}
	return rearm(int(ep), s.fd, unix.EPOLLOUT) != nil // b.errno tells
}

// call makes a raw system call: it never waits, so the scheduler need not hear of it. What the scheduler hears of wakes its
// monitor thread when the process was idle, which on a machine that has gone idle costs more than the whole way of a packet, and
// gives the processor to another thread when the call takes long.
func (b *batch) call(trap uintptr, fd int) bool {
	for {
		n, _, errno := unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&b.hdrs[b.lo])), uintptr(b.hi-b.lo), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			b.n, b.errno = 0, errno
			return false
		}
		b.n, b.errno = int(n), errno
		return true
	}
}

func (b *batch) setBuf(i int, buf []byte) {
	b.iovs[i] = unix.Iovec{Base: unsafe.SliceData(buf)}
	b.iovs[i].SetLen(len(buf))
}

// setAddr writes the address of message i in the form of the socket's family and returns its length.
func (b *batch) setAddr(i int, a netip.AddrPort) uint32 {
	ip := a.Addr()
	if !b.c.v6 {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.names[i]))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET}
		if ip = ip.Unmap(); ip.Is4() {
			sa.Addr = ip.As4()
		} else {
			sa.Family = unix.AF_INET6 // the kernel refuses it: counted as eafnosupport
		}
		putPort(&sa.Port, a.Port())
		return unix.SizeofSockaddrInet4
	}
	sa := &b.names[i]
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6}
	if ip.IsValid() {
		sa.Addr = ip.As16()
		sa.Scope_id = zoneIndex(ip.Zone())
	}
	putPort(&sa.Port, a.Port())
	return unix.SizeofSockaddrInet6
}

// addr reads the source address of message i. A link-local source has no zone: weft's endpoints are global.
func (b *batch) addr(i int) netip.AddrPort {
	if b.names[i].Family == unix.AF_INET {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.names[i]))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port(&sa.Port))
	}
	sa := &b.names[i]
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port(&sa.Port))
}

// zoneIndex resolves the zone of a link-local address; not on the hot path, endpoints seldom have one.
func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index)
	}
	return 0
}

// Ports stand in network order in a sockaddr.
func putPort(p *uint16, v uint16) { binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], v) }
func port(p *uint16) uint16       { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

// putSegment writes a UDP_SEGMENT control message and returns its length.
func putSegment(ctl *[controlSpace]byte, size int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(ctl))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(ctl[unix.CmsgLen(0):], uint16(min(size, 1<<16-1)))
	return unix.CmsgSpace(2)
}

// segment finds the size of UDP_GRO's datagrams in a control buffer, 0 without one.
func segment(ctl []byte) int {
	if len(ctl) < unix.CmsgLen(4) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO || int(h.Len) < unix.CmsgLen(4) {
		return 0
	}
	return max(0, int(int32(binary.NativeEndian.Uint32(ctl[unix.CmsgLen(0):]))))
}

// socketDrops reads SO_MEMINFO, whose ninth word counts the datagrams dropped at the socket.
func socketDrops(fd int) uint32 {
	const dropsWord = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [dropsWord + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return info[dropsWord]
}
