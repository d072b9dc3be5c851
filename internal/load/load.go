// Package load makes traffic and counts it: numbered datagrams at a rate, bytes by TCP, round trips; in this process or in
// a child with a network namespace of its own.
//
// A sender is a method of what is to be sent (Flow, Transfer, Pings); the other end is a Receiver, an Echo or a Sink.
// Agent has all of these behind requests of one line of JSON each, so that a program, a test or a person at a terminal
// can drive it; Start runs one as a child.
package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/measure"
	"github.com/weft-net/weft/internal/udp"
)

const (
	sendBatch    = 16 // datagrams per system call; small, since a network copies each burst as often as it has receivers
	superBatch   = 4  // super-frames per system call
	receiveBatch = 64
	// ttl of datagrams to groups: enough for any network that is measured.
	ttl = 8
	// rest is the pause of a sender that is ahead of its rate. It is as long as the kernel's timers make it, so datagrams
	// leave in small bursts, the same for every system.
	rest = 50 * time.Microsecond
	// maxPayload is what a UDP datagram over IPv4 holds, in bytes.
	maxPayload = 65507
)

// Flow is numbered datagrams to send.
type Flow struct {
	To           netip.AddrPort // IPv4
	Interface    string         // by which a group is sent to; may be empty otherwise
	PayloadBytes int            // of each datagram, at least measure.HeaderSize
	Rate         float64        // datagrams per second
	Duration     time.Duration
	Run          uint32 // in every datagram
	// Super hands the kernel up to 64 datagrams as one (UDP GSO), as programs do that send much.
	Super bool
}

// Sent is what a Flow came to.
type Sent struct {
	Datagrams uint64  `json:"datagrams"`
	Seconds   float64 `json:"seconds"`
}

// Send sends the flow. It gives up, without an error, when it is a quarter of the duration behind.
func (f Flow) Send(ctx context.Context) (Sent, error) {
	if f.PayloadBytes < measure.HeaderSize || f.PayloadBytes > maxPayload {
		return Sent{}, fmt.Errorf("datagrams of %d bytes: want %d to %d", f.PayloadBytes, measure.HeaderSize, maxPayload)
	}
	index := 0
	if f.To.Addr().IsMulticast() {
		ifi, err := net.InterfaceByName(f.Interface)
		if err != nil {
			return Sent{}, fmt.Errorf("interface %q to send to group %s by: %w", f.Interface, f.To.Addr(), err)
		}
		index = ifi.Index
	}
	c, err := udp.Listen(0, udp.Options{IPv4Only: true})
	if err != nil {
		return Sent{}, err
	}
	defer func() { _ = c.Close() }()
	if err := c.Multicast(index, ttl); err != nil {
		return Sent{}, err
	}
	s, err := f.pace(ctx, c)
	if err != nil {
		return s, fmt.Errorf("send to %s: %w", f.To, err)
	}
	if s.Datagrams == 0 {
		return s, fmt.Errorf("send to %s: the kernel took none of the datagrams: %v", f.To, c.Stats().TxErrors)
	}
	return s, nil
}

// pace sends what is due, in batches, and rests while nothing is.
func (f Flow) pace(ctx context.Context, c udp.Conn) (Sent, error) {
	per, batch := 1, sendBatch // datagrams of a message, messages of a call
	if f.Super {
		per, batch = min(udp.MaxSegments, maxPayload/f.PayloadBytes), superBatch
	}
	ms := make([]udp.Message, batch)
	space := make([][]byte, batch)
	for i := range ms {
		space[i] = make([]byte, per*f.PayloadBytes)
		ms[i].Addr = f.To
	}
	w := c.NewWriter(batch)
	total := uint64(math.Max(1, f.Rate*f.Duration.Seconds()))
	var next, took uint64 // numbers used, and datagrams that the kernel took
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	began := time.Now()
	for next < total && ctx.Err() == nil {
		elapsed := time.Since(began)
		if elapsed > f.Duration+f.Duration/4 {
			break // hopelessly behind: what was sent tells
		}
		due := min(total, uint64(elapsed.Seconds()*f.Rate)+1)
		if due <= next {
			timer.Reset(rest)
			<-timer.C
			continue
		}
		k := 0
		for ; k < batch && next < due; k++ {
			n := int(min(due-next, uint64(per)))
			b := space[k][:n*f.PayloadBytes]
			for i := range n {
				measure.PutHeader(b[i*f.PayloadBytes:], f.Run, next)
				next++
			}
			ms[k].Buf, ms[k].Segment = b, 0
			if n > 1 {
				ms[k].Segment = f.PayloadBytes
			}
		}
		if _, err := w.WriteBatch(ms[:k]); err != nil {
			return Sent{}, err
		}
		for i := range ms[:k] {
			took += uint64(ms[i].N / f.PayloadBytes)
		}
	}
	return Sent{Datagrams: took, Seconds: time.Since(began).Seconds()}, ctx.Err()
}

// listen opens a UDP socket on a port and joins a group, if one is given, on an interface.
func listen(port int, group netip.Addr, iface string, coalesce bool) (udp.Conn, error) {
	c, err := udp.Listen(port, udp.Options{IPv4Only: true, Coalesce: coalesce})
	if err != nil || !group.IsValid() {
		return c, err
	}
	ifi, err := net.InterfaceByName(iface)
	if err == nil {
		err = c.Join(group, ifi.Index)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("join group %s on interface %q: %w", group, iface, err), c.Close())
	}
	return c, nil
}
