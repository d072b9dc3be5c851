package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/udp"
)

// Raw multicast: what the machine gives at most to whoever needs nothing reliable. Packed messages have their length, 2 bytes, before them.
const (
	rawRecord = 2 + messageSize
	rawPacked = 21 // messages in a datagram of 1386 bytes
	rawTrain  = 44 // datagrams that one system call hands over, and the kernel cuts
	rawPort   = 7779
	// rawLasts is how often the last message is said: it may be lost as every other.
	rawLasts = 20
)

// rawPublisher packs messages into datagrams, and datagrams into trains.
type rawPublisher struct {
	c      udp.Conn
	to     netip.AddrPort
	packed int // messages in a datagram
	train  int // datagrams in a system call's message
	buf    []byte
	ms     []udp.Message
}

func publishRaw(packed, train int) func(context.Context, busOptions) (busPublisher, error) {
	return func(_ context.Context, o busOptions) (busPublisher, error) {
		ifi, err := net.InterfaceByName(o.dev)
		if err != nil {
			return nil, err
		}
		c, err := udp.Listen(0, udp.Options{})
		if err != nil {
			return nil, err
		}
		p := &rawPublisher{c: c, to: netip.AddrPortFrom(group, rawPort), packed: packed, train: train}
		return p, c.Multicast(ifi.Index, 1)
	}
}

func (p *rawPublisher) publish(block [][]byte) error {
	p.ms = p.ms[:0]
	if p.packed == 1 {
		for _, m := range block {
			p.ms = append(p.ms, udp.Message{Buf: m, Addr: p.to})
		}
	} else {
		p.buf = p.buf[:0]
		for _, m := range block {
			p.buf = append(binary.LittleEndian.AppendUint16(p.buf, messageSize), m...)
		}
		size := p.packed * rawRecord
		for rest := p.buf; len(rest) > 0; {
			n := min(p.train*size, len(rest))
			m := udp.Message{Buf: rest[:n], Addr: p.to}
			if n > size {
				m.Segment = size
			}
			p.ms = append(p.ms, m)
			rest = rest[n:]
		}
	}
	_, err := p.c.WriteBatch(p.ms)
	return err
}

func (p *rawPublisher) finish(last []byte) error { return p.publish([][]byte{last}) }

func (p *rawPublisher) repeat(last []byte) error {
	for range rawLasts {
		sleepUntil(monotonic() + int64(10*time.Millisecond))
		if err := p.publish([][]byte{last}); err != nil {
			return err
		}
	}
	return nil
}

// subscribeRaw reads datagrams of records of a size, each of which ends in a message.
func subscribeRaw(record int) func(context.Context, busOptions, func(), func([]byte)) error {
	return func(ctx context.Context, o busOptions, ready func(), got func([]byte)) error {
		ifi, err := net.InterfaceByName(o.dev)
		if err != nil {
			return err
		}
		c, err := udp.ListenGroup(netip.AddrPortFrom(group, rawPort), ifi.Index, udp.Options{Coalesce: true})
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = c.Close() })()
		ready()
		ms := make([]udp.Message, 16)
		for i := range ms {
			ms[i].Buf = make([]byte, 64<<10)
		}
		for {
			n, err := c.ReadBatch(ms)
			if errors.Is(err, net.ErrClosed) {
				return nil
			} else if err != nil {
				return err
			}
			for i := range ms[:n] {
				for rest := ms[i].Buf[:ms[i].N]; len(rest) >= record; rest = rest[record:] {
					got(rest[record-messageSize : record])
				}
			}
		}
	}
}
