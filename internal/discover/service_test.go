package discover_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/discover"
	"github.com/weft-net/weft/internal/discover/discovertest"
	"github.com/weft-net/weft/internal/ident"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// host is one that discovers.
type host struct {
	*discover.Service
	mu      sync.Mutex
	self    discover.Self
	found   []netip.AddrPort
	told    int
	sources []*discovertest.Source
}

func (h *host) looking(yes bool) { h.mu.Lock(); h.self.Looking = yes; h.mu.Unlock() }
func (h *host) have() string     { h.mu.Lock(); defer h.mu.Unlock(); return fmt.Sprint(h.found) }

// newHost makes a host with a source for each store.
func newHost(t *testing.T, n byte, at string, stores map[string]*discovertest.Store, names ...string) *host {
	t.Helper()
	h := &host{self: discover.Self{ID: ident.HostID{n}, Addrs: []netip.AddrPort{addr(at)}, Looking: true}}
	h.Service = discover.NewService(discover.Config{
		Sources: names, Log: slog.New(slog.DiscardHandler),
		Make: func(text string, _ discover.Environment) (discover.Source, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if stores[text] == nil {
				return nil, errors.New("unknown")
			}
			s := &discovertest.Source{Store: stores[text], ReadOnly: strings.HasPrefix(text, "list")}
			h.sources = append(h.sources, s)
			return s, nil
		},
		Looking: func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.self.Looking },
		Self:    func() discover.Self { h.mu.Lock(); defer h.mu.Unlock(); return h.self },
		Found:   func(all []netip.AddrPort) { h.mu.Lock(); h.found = all; h.told++; h.mu.Unlock() },
	})
	return h
}

// run runs hosts until the function that it returns is called.
func run(hosts ...*host) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, h := range hosts {
		all.Go(func() { h.Run(ctx) })
	}
	return func() { cancel(); all.Wait() }
}

// TestService: hosts that start at the same moment meet; a store that fails is asked more and more seldom and what it said stays; when it is
// back they are registered again; who stops withdraws.
func TestService(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		store := &discovertest.Store{}
		stores := map[string]*discovertest.Store{"store": store}
		a, b := newHost(t, 1, "10.0.0.5:1", stores, "store"), newHost(t, 2, "10.0.0.6:1", stores, "store")
		stop := run(a, b)
		time.Sleep(5 * time.Second)
		const both = "[10.0.0.5:1 10.0.0.6:1]"
		if a.have() != both || b.have() != both {
			t.Errorf("after 5 s a has %s, b %s", a.have(), b.have())
		}
		a.looking(false)
		b.looking(false)
		asked := store.Asked()
		time.Sleep(5 * time.Minute)
		if n := store.Asked() - asked; n < 2*8 || n > 2*16 {
			t.Errorf("asked %d times in five minutes by two hosts that have met", n)
		}
		if a.told > 3 {
			t.Errorf("told %d times of the same addresses", a.told)
		}
		st := a.Status()[0]
		if !st.Registered || st.ReadOnly || st.Err != "" || time.Since(st.Answered) > 40*time.Second || len(st.Addresses) != 2 {
			t.Errorf("%+v", st)
		}

		store.Fail(&discover.Error{Text: "gone", Hint: "bring it back"})
		asked = store.Asked()
		time.Sleep(10 * time.Minute)
		if n := store.Asked() - asked; n < 2*20 || n > 2*45 {
			t.Errorf("asked %d times in ten minutes by two hosts while it failed", n)
		}
		st = a.Status()[0]
		if a.have() != both || st.Registered || st.Err != "gone" || st.Hint != "bring it back" || st.Failures < 20 || len(st.Addresses) != 2 {
			t.Errorf("%s, %+v", a.have(), st)
		}
		store.Fail(nil)
		time.Sleep(30 * time.Second)
		if st := a.Status()[0]; !st.Registered || st.Err != "" || st.Failures != 0 {
			t.Errorf("after the store is back: %+v", st)
		}
		stop()
		a.Withdraw(t.Context())
		if store.Has(ident.HostID{1}.String()) != nil || store.Has(ident.HostID{2}.String()) == nil {
			t.Error("want a gone from the store, and b in it")
		}
		if a.Close() != nil || !a.sources[0].Closed() {
			t.Error("the source is not closed")
		}
	})
}

// TestSources: what several sources say is one list; one that fails does not hold up the others; one at which nothing is registered says so.
func TestSources(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		one, two, broken := &discovertest.Store{}, &discovertest.Store{}, &discovertest.Store{}
		one.Say(discover.Found{Addrs: []netip.AddrPort{addr("10.0.0.7:1"), addr("10.0.0.8:1")}, Refused: 2, Why: "x is none"})
		two.Say(discover.Found{Addrs: []netip.AddrPort{addr("10.0.0.8:1"), addr("10.0.0.5:1")}})
		broken.Fail(errors.New("broken"))
		h := newHost(t, 1, "10.0.0.5:1", map[string]*discovertest.Store{"list one": one, "store": two, "broken": broken}, "list one", "broken", "store")
		stop := run(h)
		defer stop()
		time.Sleep(4 * time.Second)
		if h.have() != "[10.0.0.5:1 10.0.0.7:1 10.0.0.8:1]" {
			t.Errorf("found %s", h.have())
		}
		st := h.Status()
		if !st[0].ReadOnly || st[0].Registered || st[0].Refused != 2 || st[0].Why != "x is none" || st[1].Err != "broken" || !st[1].Answered.IsZero() || !st[2].Registered {
			t.Errorf("%+v", st)
		}
		if n := h.Drops()["discover_address"]; n < 2 {
			t.Errorf("%d addresses counted as refused", n)
		}
	})
}

// TestUnmade: a source that cannot be made is one that fails, and is made when it can be.
func TestUnmade(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		stores := map[string]*discovertest.Store{}
		h := newHost(t, 1, "10.0.0.5:1", stores, "store")
		stop := run(h)
		time.Sleep(3 * time.Second)
		if st := h.Status()[0]; st.Err != "unknown" || st.Hint == "" || st.Failures == 0 {
			t.Errorf("%+v", st)
		}
		h.mu.Lock()
		stores["store"] = &discovertest.Store{}
		h.mu.Unlock()
		time.Sleep(30 * time.Second)
		stop()
		if st := h.Status()[0]; st.Err != "" || !st.Registered {
			t.Errorf("%+v", st)
		}
		h.Withdraw(t.Context())
		if err := h.Close(); err != nil || !h.sources[0].Closed() {
			t.Errorf("not closed: %v", err)
		}
	})
}

// TestFirst: nobody founds a cluster where there is one, or where that cannot be told; a list of machines is no cluster.
func TestFirst(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	own := []netip.Addr{netip.MustParseAddr("10.0.0.5")}
	for name, c := range map[string]struct {
		say  discover.Found
		err  error
		want string
	}{
		"nothing":            {},
		"itself":             {say: discover.Found{Addrs: []netip.AddrPort{addr("10.0.0.5:1")}, Alive: true}},
		"another":            {say: discover.Found{Addrs: []netip.AddrPort{addr("10.0.0.6:1")}, Alive: true}, want: "has a host already: 10.0.0.6:1"},
		"garbage":            {say: discover.Found{Refused: 1, Why: "x", Alive: true}, want: "no host's address"},
		"broken":             {err: errors.New("broken"), want: "cannot tell whether there is a cluster already: broken"},
		"a list, nobody up":  {say: discover.Found{Addrs: []netip.AddrPort{addr(closed.Addr().String())}}},
		"a list, one is up":  {say: discover.Found{Addrs: []netip.AddrPort{addr(closed.Addr().String()), addr(l.Addr().String())}}, want: "has a host already: " + l.Addr().String()},
		"a list with a flaw": {say: discover.Found{Refused: 1, Why: "x"}},
	} {
		store := &discovertest.Store{}
		store.Say(c.say)
		store.Fail(c.err)
		h := newHost(t, 1, "10.0.0.5:1", map[string]*discovertest.Store{"store": store}, "store")
		err := h.First(t.Context(), own)
		var e *discover.Error
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !errors.As(err, &e) || e.Hint == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestConsul: two hosts by Consul's API: sessions that end take their keys along, the key of a run before is taken over, and nothing is written
// while nothing changes.
func TestConsul(t *testing.T) {
	var mu sync.Mutex
	var later time.Duration
	c := &discovertest.Consul{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(later) }}
	srv := httptest.NewServer(c)
	defer srv.Close()
	url := "consul://" + strings.TrimPrefix(srv.URL, "http://") + "/prod/weft"
	open := func() discover.Source {
		s, err := discover.New(url, discover.Environment{Port: 6783})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	round := func(s discover.Source, n byte, at, want string) {
		t.Helper()
		f, err := s.Find(t.Context())
		if err == nil {
			err = s.Register(t.Context(), discover.Self{ID: ident.HostID{n}, Addrs: []netip.AddrPort{addr(at)}})
		}
		if err != nil || fmt.Sprint(f.Addrs) != want || !f.Alive {
			t.Errorf("%v, %v; want %s", f, err, want)
		}
	}
	a, b := open(), open()
	round(a, 1, "10.0.0.5:1", "[]")
	round(b, 2, "10.0.0.6:1", "[10.0.0.5:1]")
	for range 3 {
		round(a, 1, "10.0.0.5:1", "[10.0.0.5:1 10.0.0.6:1]")
	}
	if c.Writes() != 2 {
		t.Errorf("%d writes, want one of each host", c.Writes())
	}
	round(a, 1, "10.0.0.9:1", "[10.0.0.5:1 10.0.0.6:1]")
	again := open() // a is killed, and comes back within the life of its session
	round(again, 1, "10.0.0.9:1", "[10.0.0.6:1 10.0.0.9:1]")
	round(again, 1, "10.0.0.9:1", "[10.0.0.6:1 10.0.0.9:1]")
	mu.Lock()
	later = discover.Lease + time.Second
	mu.Unlock()
	round(again, 1, "10.0.0.9:1", "[]") // all sessions have ended
	round(b, 2, "10.0.0.6:1", "[10.0.0.9:1]")
	if err := b.Withdraw(t.Context()); err != nil || len(c.Keys()) != 1 {
		t.Errorf("%v, %v", c.Keys(), err)
	}
}

// file makes a file with a text.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConsulToken: by a token in a file, which is in no text.
func TestConsulToken(t *testing.T) {
	srv := httptest.NewServer(&discovertest.Consul{Token: "s3cret"})
	defer srv.Close()
	url := "consul://" + strings.TrimPrefix(srv.URL, "http://") + "/weft"
	s, err := discover.New(url, discover.Environment{})
	if err != nil {
		t.Fatal(err)
	}
	var e *discover.Error
	if _, err := s.Find(t.Context()); !errors.As(err, &e) || !strings.Contains(e.Hint, "token-file=FILE") {
		t.Errorf("without token: %v", err)
	}
	for text, ok := range map[string]bool{"s3cret\n": true, "wrong": false, "": false, "two\nlines": false} {
		s, err := discover.New(url+"?token-file="+file(t, text), discover.Environment{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Find(t.Context())
		if (err == nil) != ok || err != nil && (strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "two")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
