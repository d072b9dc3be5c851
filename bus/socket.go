package bus

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/udp"
)

// readBatch is how many messages one read takes: with UDP_GRO each holds up to 64 KiB.
const readBatch = 16

// read takes packets off a socket and gives them to the node, a batch under one lock.
func (b *Bus) read(c udp.Conn, group bool) {
	ms := make([]udp.Message, readBatch)
	for i := range ms {
		ms[i].Buf = make([]byte, 64<<10)
	}
	for {
		n, err := c.ReadBatch(ms)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // of one datagram mostly: an ICMP error for an earlier one, say
			case <-b.life.Done():
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		now := time.Now()
		b.mu.Lock()
		for i := range ms[:n] {
			m := &ms[i]
			if m.Truncated { // the socket counts it
				continue
			}
			for rest, size := m.Buf[:m.N], m.Segment; len(rest) > 0; {
				k := len(rest)
				if size > 0 {
					k = min(k, size)
				}
				b.node.Packet(now, m.Addr, group, rest[:k])
				rest = rest[k:]
			}
		}
		b.earlier(b.node.Done(now))
		b.mu.Unlock()
		b.changed.tell()
	}
}

// Send implements rmcast.Wire.
func (b *Bus) Send(buf []byte, segment int, group bool, to []netip.AddrPort) {
	if segment >= len(buf) {
		segment = 0
	}
	p := b.out.Get().(*[]udp.Message)
	ms := (*p)[:0]
	if group {
		if g := b.voice.Load(); g != nil {
			ms = append(ms, udp.Message{Buf: buf, Addr: *g, Segment: segment})
		}
	}
	for _, a := range to {
		if id, is := rmcast.EdgeID(a); is {
			b.edges.Send(uint64(id), buf, segment)
			continue
		}
		ms = append(ms, udp.Message{Buf: buf, Addr: a, Segment: segment})
	}
	if len(ms) == 0 {
		b.out.Put(p)
		return
	}
	_, _ = b.conn.WriteBatch(ms) // what is refused is counted in the socket's statistics, and lost packets are repaired
	clear(ms)
	*p = ms[:0]
	b.out.Put(p)
}
