package ipam

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/ident"
)

// lab is a cluster in a bubble: every host's table on its own disk, spread at once to all hosts
// it reaches, and all of it again when a partition heals.
type lab struct {
	t     *testing.T
	mu    sync.Mutex
	hosts []*labHost
	side  map[ident.HostID]int // who is on which side of a partition
}

type labHost struct {
	*Service
	lab     *lab
	id      ident.HostID
	disk    map[uint32]map[string][]byte
	fail    error    // of the next writes
	held    [][]byte // asks that did not go out, while hold
	hold    bool
	borrows bool
	stop    context.CancelFunc
	done    chan struct{}
}

func newLab(t *testing.T, n int) *lab {
	l := &lab{t: t, side: map[ident.HostID]int{}}
	for i := range n {
		h := &labHost{lab: l, id: ident.HostID{byte(i + 1)}, disk: map[uint32]map[string][]byte{}}
		l.hosts = append(l.hosts, h)
		h.start()
	}
	l.check(l.hosts[0].Found(clusterRange, ula))
	return l
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// start runs the host from its disk.
func (h *labHost) start() {
	h.Service = New(Config{Self: h.id, Board: h, Ask: h.ask, Alive: h.alive, Borrows: h.borrows, Stays: func(id ident.HostID) bool {
		return !slices.ContainsFunc(h.lab.hosts, func(o *labHost) bool { return o.id == id && o.borrows })
	}})
	ctx, cancel := context.WithCancel(context.Background())
	h.stop, h.done = cancel, make(chan struct{})
	for scope, table := range h.disk {
		for key, v := range table {
			h.OnChange(scope, h.id, key, v, false)
		}
	}
	go func() {
		defer close(h.done)
		_ = h.Run(ctx)
	}()
}

func (h *labHost) kill() {
	h.stop()
	<-h.done
	h.lab.mu.Lock()
	h.lab.side[h.id] = -1 - int(h.id[0])
	h.lab.mu.Unlock()
}

func (h *labHost) reaches(o *labHost) bool {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return h.lab.side[h.id] == h.lab.side[o.id]
}

func (h *labHost) Publish(scope uint32, puts map[string][]byte, dels []string) error {
	h.lab.mu.Lock()
	if h.fail != nil {
		defer h.lab.mu.Unlock()
		return h.fail
	}
	if h.disk[scope] == nil {
		h.disk[scope] = map[string][]byte{}
	}
	maps.Copy(h.disk[scope], puts)
	for _, k := range dels {
		delete(h.disk[scope], k)
	}
	h.lab.mu.Unlock()
	for _, o := range h.lab.hosts {
		if !h.reaches(o) {
			continue
		}
		for k, v := range puts {
			o.OnChange(scope, h.id, k, v, false) // its own echo too
		}
		for _, k := range dels {
			o.OnChange(scope, h.id, k, nil, true)
		}
	}
	return nil
}

func (h *labHost) ask(to ident.HostID, body []byte) error {
	h.lab.mu.Lock()
	hold := h.hold
	if hold {
		h.held = append(h.held, body)
	}
	h.lab.mu.Unlock()
	if hold {
		return nil
	}
	o := h.lab.hosts[to[0]-1]
	if !h.reaches(o) {
		return errors.New("no path")
	}
	return o.HandleAsk(h.id, body)
}

// fails makes the host's writes fail from now on, unless err is nil.
func (h *labHost) fails(err error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.fail = err
}

// holds keeps the host's asks back from now on, or not, and returns those that were.
func (h *labHost) holds(yes bool) (held [][]byte) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	held, h.held = h.held, nil
	h.hold = yes
	return held
}

// row returns an entry of the host's own table.
func (h *labHost) row(scope uint32, key string) []byte {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return h.disk[scope][key]
}

func (h *labHost) alive() (out []ident.HostID) {
	for _, o := range h.lab.hosts {
		if o != h && h.reaches(o) {
			out = append(out, o.id)
		}
	}
	return out
}

// split puts the hosts from i on to another side.
func (l *lab) split(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, h := range l.hosts {
		if l.side[h.id] >= 0 {
			l.side[h.id] = 0
			if k >= i {
				l.side[h.id] = 1
			}
		}
	}
}

// heal joins all sides and shows everybody all tables.
func (l *lab) heal() {
	l.split(len(l.hosts))
	for _, h := range l.hosts {
		for _, o := range l.hosts {
			if !h.reaches(o) {
				continue
			}
			l.mu.Lock()
			disk := map[uint32]map[string][]byte{}
			for scope, table := range h.disk {
				disk[scope] = maps.Clone(table)
			}
			l.mu.Unlock()
			for scope, table := range disk {
				for k, v := range table {
					o.OnChange(scope, h.id, k, v, false)
				}
			}
		}
	}
}

func (l *lab) stop() {
	for _, h := range l.hosts {
		h.stop()
		<-h.done
	}
}

// inLab runs fn with a cluster of n hosts under fake time.
func inLab(t *testing.T, n int, fn func(t *testing.T, l *lab)) {
	bubbletest.Run(t, func(t *testing.T) {
		l := newLab(t, n)
		defer l.stop()
		fn(t, l)
	})
}

func later(d time.Duration) { time.Sleep(d); synctest.Wait() } // fake time

// network creates a network on the first host and joins it on all.
func (l *lab) network(vni uint32) netip.Prefix {
	l.t.Helper()
	p, err := l.hosts[0].CarveSubnet(l.t.Context())
	l.check(err)
	for i, h := range l.hosts {
		l.check(h.JoinNetwork(vni, p, i == 0))
	}
	later(5 * time.Second)
	return p
}

func (h *labHost) get(vni uint32, key, want string) (Address, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var w netip.Addr
	if want != "" {
		w = netip.MustParseAddr(want)
	}
	return h.Allocate(ctx, vni, key, w)
}

func (h *labHost) must(vni uint32, key, want string) Address {
	h.lab.t.Helper()
	a, err := h.get(vni, key, want)
	h.lab.check(err)
	return a
}

func (h *labHost) share(vni uint32, id ident.HostID) (n uint64) {
	for _, row := range h.Status() {
		if row.VNI == vni && row.Owner == id {
			n += row.Used + row.Free
		}
	}
	return n
}
