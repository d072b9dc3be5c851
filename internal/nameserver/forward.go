package nameserver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/dns"
)

// Bounds of what is asked on.
const (
	// MaxWaiting is how many queries wait for the host's resolvers, maxFlights how many different ones: each has a socket.
	MaxWaiting = 4096
	maxFlights = 512
	// maxSource is how many of them may be one attachment's.
	maxSource = 256
	// maxServers is how many resolvers are asked (resolv.conf(5): MAXNS).
	maxServers = 3
	// tryTime is how long one resolver has, askTime how long all have: less than the five seconds that the C library waits.
	tryTime = 1500 * time.Millisecond
	askTime = 4500 * time.Millisecond
	// likedTime is how long the resolver that answered last is asked first.
	likedTime = 30 * time.Second
	// maxAnswer is the longest answer by UDP that is read.
	maxAnswer = 4096
)

// forwarder asks the host's resolvers what is not ours to know.
//
// Each query leaves from a socket of its own, with a port and an id that nobody can guess (RFC 5452), and what is not the answer to it is passed
// over. Who asks what is being asked already waits for the same answer: so a query that comes back to us, since the host's
// resolvers ask us in turn, is not sent on for ever, but ends with its time.
type forwarder struct {
	s *Server

	mu      sync.Mutex           // guards all below
	flights map[string][]*flight // by question
	count   int                  // of flights
	waiting int
	by      map[netip.Addr]int // waiting, by source
	liked   netip.AddrPort     // the server that answered last
	until   time.Time          // and for how long it comes first
}

// flight is one question that is being asked.
type flight struct {
	q       *dns.Query
	kind    byte
	tcp     bool
	waiters []waiter
}

type waiter struct {
	q     *dns.Query
	from  netip.Addr
	reply func(q *dns.Query, b []byte) // b is the waiter's own
}

func newForwarder(s *Server) *forwarder {
	return &forwarder{s: s, flights: map[string][]*flight{}, by: map[netip.Addr]int{}}
}

func (f *forwarder) waitingNow() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

// ask has a query answered by others; reply is called once, on another goroutine. A reason: nobody is asked.
func (f *forwarder) ask(q *dns.Query, tcp bool, from netip.Addr, reply func(*dns.Query, []byte)) (reason string) {
	key := string(binary.BigEndian.AppendUint32(q.Name(), uint32(q.Type)<<16|uint32(q.Class)))
	f.mu.Lock()
	defer f.mu.Unlock()
	same := f.flights[key]
	switch {
	case len(same) > 0 && f.s.cfg.Own != nil && f.s.cfg.Own(from):
		return dropLoop
	case f.waiting >= MaxWaiting:
		return dropFull
	case f.by[from] >= maxSource:
		return dropSource
	}
	q = q.Clone()
	i := slices.IndexFunc(same, func(o *flight) bool { return o.kind == q.Kind() && o.tcp == tcp })
	if i < 0 {
		if f.count >= maxFlights {
			return dropFull
		}
		if f.s.ctx.Err() != nil {
			return dropFailed
		}
		i = len(same)
		o := &flight{q: q, kind: q.Kind(), tcp: tcp}
		same = append(same, o)
		f.flights[key] = same
		f.count++
		f.s.wg.Go(func() { f.fly(key, o) })
	}
	same[i].waiters = append(same[i].waiters, waiter{q, from, reply})
	f.waiting++
	f.by[from]++
	return ""
}

// fly asks and tells all who wait.
func (f *forwarder) fly(key string, o *flight) {
	f.s.counts.forwarded.Add(1)
	answer, reason := f.exchange(o)
	if reason != "" {
		f.s.counts.drop(reason)
	}
	f.mu.Lock()
	left := slices.DeleteFunc(f.flights[key], func(x *flight) bool { return x == o })
	if len(left) == 0 {
		delete(f.flights, key)
	} else {
		f.flights[key] = left
	}
	f.count--
	for _, w := range o.waiters {
		f.waiting--
		if f.by[w.from]--; f.by[w.from] == 0 {
			delete(f.by, w.from)
		}
	}
	waiters := o.waiters
	f.mu.Unlock()
	for _, w := range waiters {
		b := slices.Clone(answer)
		if reason != "" {
			b = w.q.AppendFail(nil, dns.ServFail)
		}
		w.reply(w.q, b)
	}
}

// resolvers returns who is to be asked, in order. Our own addresses are not among them, whatever the host's settings say.
func (f *forwarder) resolvers() []netip.AddrPort {
	own := *f.s.servers.Load()
	var list []netip.AddrPort
	for _, a := range f.s.cfg.Upstream() {
		if !slices.Contains(own, a.Addr().WithZone("").Unmap()) && len(list) < maxServers {
			list = append(list, a)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(list, f.liked); i > 0 && time.Now().Before(f.until) {
		list = append([]netip.AddrPort{f.liked}, slices.Delete(list, i, i+1)...)
	}
	return list
}

func (f *forwarder) like(a netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.liked != a || !time.Now().Before(f.until) {
		f.liked, f.until = a, time.Now().Add(likedTime)
	}
}

// exchange asks one resolver after the other, and again, until one answers or the time is over. One that has nothing to say
// (SERVFAIL, REFUSED) is believed when no other says more.
func (f *forwarder) exchange(o *flight) (answer []byte, reason string) {
	list := f.resolvers()
	if len(list) == 0 {
		return nil, dropNoServer
	}
	end := time.Now().Add(askTime)
	var poor []byte
	for {
		began := time.Now()
		for _, a := range list {
			b, rc, err := f.try(o, a, end)
			switch {
			case err != nil:
			case rc == dns.ServFail || rc == dns.Refused || rc == dns.NotImp:
				poor = b
			default:
				f.like(a)
				return b, ""
			}
			if f.over(end) {
				break
			}
		}
		switch {
		case poor != nil:
			return poor, ""
		case f.over(end), time.Since(began) < tryTime/2: // all are refused: asking again would be no different
			return nil, dropFailed
		}
	}
}

// over reports whether there is no time for another try.
func (f *forwarder) over(end time.Time) bool {
	return f.s.ctx.Err() != nil || !time.Now().Before(end)
}

// try asks one resolver once.
func (f *forwarder) try(o *flight, a netip.AddrPort, end time.Time) ([]byte, dns.Rcode, error) {
	deadline := time.Now().Add(tryTime)
	if deadline.After(end) {
		deadline = end
	}
	network := "udp"
	if o.tcp {
		network = "tcp"
	}
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(f.s.ctx, network, a.String())
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(f.s.ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(deadline)
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	number := binary.BigEndian.Uint16(id[:])
	if o.tcp {
		return f.overTCP(o, conn, number)
	}
	if _, err := conn.Write(o.q.AppendQuery(nil, number)); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, maxAnswer)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, 0, err
		}
		if rc, ok := o.q.Answers(buf[:n], number); ok {
			return buf[:n], rc, nil
		}
		f.s.counts.drop(dropForged)
	}
}

var errForged = errors.New("answered something else")

func (f *forwarder) overTCP(o *flight, conn net.Conn, id uint16) ([]byte, dns.Rcode, error) {
	b := o.q.AppendQuery(make([]byte, 2), id)
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	if _, err := conn.Write(b); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, dns.MaxTCP)
	n, err := readAnswer(conn, buf)
	if err != nil {
		return nil, 0, err
	}
	rc, ok := o.q.Answers(buf[:n], id)
	if !ok {
		f.s.counts.drop(dropForged)
		return nil, 0, errForged
	}
	return slices.Clone(buf[:n]), rc, nil
}
