package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/load"
	"github.com/weft-net/weft/internal/measure"
)

// network is what fake agents send through: up to a rate everything arrives.
type network struct {
	limit float64 // datagrams per second
	twice uint64  // copies of each run that arrive once more
	mute  map[netip.Addr]bool

	mu      sync.Mutex // guards what follows
	plugged int
	members map[netip.Addr]netip.Addr // of a group, by address
	got     map[netip.Addr]map[uint32]measure.Tally
}

// fakeAgent takes as long for a request as the real one would.
type fakeAgent struct {
	n    *network
	addr netip.Addr
	done chan struct{}
}

func (a *fakeAgent) Done() <-chan struct{} { return a.done }

func (a *fakeAgent) Do(ctx context.Context, r load.Request) (load.Reply, error) {
	if err := r.Check(); err != nil {
		return load.Reply{}, err
	}
	took := r.Duration() + time.Duration(r.Count*r.IntervalMS)*time.Millisecond
	if r.To.IsValid() && a.n.mute[r.To] {
		took += time.Second
	}
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return load.Reply{}, ctx.Err()
	case <-a.done:
		return load.Reply{}, errors.New("the agent has ended")
	}
	a.n.mu.Lock()
	defer a.n.mu.Unlock()
	switch r.Op {
	case load.OpJoin:
		a.n.members[a.addr] = r.Group
	case load.OpPing:
		t := load.Trips{Sent: r.Count, Answered: r.Count, MinMS: 0.1, P50MS: 0.2, P99MS: 0.8, MaxMS: 1}
		if a.n.mute[r.To] {
			t = load.Trips{Sent: r.Count}
		}
		return load.Reply{Trips: &t}, nil
	case load.OpTCP:
		return load.Reply{Transferred: &load.Transferred{Bytes: uint64(125e6 * r.Duration().Seconds()), Seconds: r.Duration().Seconds()}}, nil
	case load.OpSend:
		s := load.Sent{Datagrams: uint64(r.Rate * r.Duration().Seconds()), Seconds: r.Duration().Seconds()}
		for addr, group := range a.n.members {
			if r.To != addr && (r.To != group || a.n.mute[addr]) {
				continue
			}
			t := measure.Tally{Datagrams: min(s.Datagrams, uint64(a.n.limit*r.Duration().Seconds())), Duplicates: a.n.twice}
			a.n.got[addr][r.Run] = t
		}
		return load.Reply{Sent: &s}, nil
	case load.OpCount:
		t := a.n.got[a.addr][r.Run]
		return load.Reply{Tally: &t}, nil
	}
	return load.Reply{}, nil
}

// lab is hosts with endpoints in one network.
type lab struct {
	n         *network
	endpoints []*Endpoint
	peers     []Peer
	agents    []*fakeAgent
}

func newLab(t *testing.T, hosts int) *lab {
	t.Helper()
	l := &lab{n: &network{
		limit: 50000, mute: map[netip.Addr]bool{}, members: map[netip.Addr]netip.Addr{}, got: map[netip.Addr]map[uint32]measure.Tally{},
	}, agents: make([]*fakeAgent, hosts)}
	for i := range hosts {
		name, addr := fmt.Sprintf("h%d", i+1), addrOf(i+1)
		e := NewEndpoint(Host{Name: name, Plug: func(_ context.Context, network string) (Plug, error) {
			if network != "weft" {
				return Plug{}, api.Errorf(api.CodeNotFound, "it has no network %q", network).WithHint("create it")
			}
			l.n.mu.Lock()
			defer l.n.mu.Unlock()
			l.n.plugged++
			l.n.members[addr], l.n.got[addr] = netip.Addr{}, map[uint32]measure.Tally{}
			a := &fakeAgent{n: l.n, addr: addr, done: make(chan struct{})}
			l.agents[i] = a
			return Plug{Agent: a, Address: netip.PrefixFrom(addr, 24), MTU: 1400, Engine: api.EngineSealed, Close: func() {
				l.n.mu.Lock()
				defer l.n.mu.Unlock()
				l.n.plugged--
				delete(l.n.members, addr)
			}}, nil
		}})
		l.endpoints = append(l.endpoints, e)
		l.peers = append(l.peers, Peer{Name: name, Version: "v1", Dial: func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go e.Serve("h1", there)
			return here, nil
		}})
	}
	return l
}

func addrOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, 0, byte(i)}) }

var testGroup = netip.MustParseAddr("239.192.1.2")

func (l *lab) plan() Plan {
	return Plan{
		Self: l.peers[0], Peers: l.peers[1:], Network: "weft", Group: testGroup, Tests: api.BenchTests, Duration: 3 * time.Second,
		Progress: func(api.BenchProgress) error { return nil },
	}
}

// close ends the endpoints and checks that nothing is left of what they did.
func (l *lab) close(t *testing.T) {
	t.Helper()
	for _, e := range l.endpoints {
		e.Close()
	}
	if l.n.plugged != 0 {
		t.Errorf("%d agents are still plugged in", l.n.plugged)
	}
}
