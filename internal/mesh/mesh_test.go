package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/udp"
)

// node is a mesh on loopback.
type node struct {
	*Mesh
	t        *testing.T
	name     string
	port     int
	keys     ident.Keys
	disk     *disk
	log      *logBuffer
	mu       sync.Mutex
	control  map[byte]int
	rejected error
	removed  string
}

// wasRemoved returns what the node heard of its own removal.
func (n *node) wasRemoved() string { n.mu.Lock(); defer n.mu.Unlock(); return n.removed }

// gaveUp returns why the node was told to stop.
func (n *node) gaveUp() error { n.mu.Lock(); defer n.mu.Unlock(); return n.rejected }

type disk struct {
	mu          sync.Mutex
	own, others []byte
	fail        error // of SaveOwn
}

func (d *disk) SaveOwn(b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.own = bytes.Clone(b)
	}
	return d.fail
}

func (d *disk) failWith(err error) { d.mu.Lock(); d.fail = err; d.mu.Unlock() }

func (d *disk) SaveOthers(b []byte) error {
	d.mu.Lock()
	d.others = bytes.Clone(b)
	d.mu.Unlock()
	return nil
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func logTo(l *logBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type loopback struct{}

func (loopback) Endpoints() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }
func (loopback) MTU(netip.Addr) int      { return 1500 }

type noFrames struct{}

func (noFrames) HandleFrame(ident.HostID, []byte)     {}
func (noFrames) HandleGroup([]byte, ident.HostID)     {}
func (noFrames) HandleSenderKey(ident.HostID, []byte) {}
func (noFrames) HandleTree(ident.HostID, []byte)      {}
func (noFrames) Flush()                               {}

type options struct {
	name    string
	token   ident.Token
	seeds   []string
	founder bool
	keys    *ident.Keys
	disk    *disk
	port    int
}

func startNode(t *testing.T, o options) *node {
	t.Helper()
	n := &node{t: t, name: o.name, disk: o.disk, log: &logBuffer{}, control: map[byte]int{}}
	if n.disk == nil {
		n.disk = &disk{}
	}
	if o.keys != nil {
		n.keys = *o.keys
	} else {
		k, err := ident.NewKeys()
		if err != nil {
			t.Fatal(err)
		}
		n.keys = k
	}
	var conn udp.Conn
	var ln net.Listener
	for try := 0; ; try++ { // a port that is free for both
		var err error
		if ln, err = net.Listen("tcp", fmt.Sprintf(":%d", o.port)); err != nil {
			t.Fatal(err)
		}
		n.port = ln.Addr().(*net.TCPAddr).Port
		if conn, err = udp.Listen(n.port, udp.Options{}); err == nil {
			break
		}
		ln.Close()
		if try > 10 {
			t.Fatal(err)
		}
	}
	var m *Mesh
	ready := false
	tables := state.New(state.Config{Keys: n.keys, Cluster: o.token.Cluster, Allowed: func(id ident.HostID) bool { return !ready || m.Allowed(id) }})
	if n.disk.own != nil {
		if err := tables.Import(n.disk.own); err != nil {
			t.Fatal(err)
		}
	}
	if n.disk.others != nil {
		if err := tables.Import(n.disk.others); err != nil {
			t.Fatal(err)
		}
	}
	m, err := New(Config{
		Keys: n.keys, Cluster: o.token.Cluster, Token: o.token.Secret, Founder: o.founder, Name: o.name, Build: "test", Port: uint16(n.port),
		Seeds: o.seeds, Conn: conn, Listener: ln, Underlay: loopback{}, Tables: tables, Persist: n.disk, Datapath: noFrames{},
		Log:     logTo(n.log),
		Handle:  func(_ ident.HostID, kind byte, _ []byte) { n.mu.Lock(); n.control[kind]++; n.mu.Unlock() },
		Changed: func([]state.Change) {}, HostChanged: func(ident.HostID) {},
		Rejected: func(err error) { n.mu.Lock(); n.rejected = err; n.mu.Unlock() },
		Removed:  func(text string) { n.mu.Lock(); n.removed = text; n.mu.Unlock() },
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Mesh = m
	ready = true
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Close()
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.name, n.log)
		}
	})
	return n
}

func (n *node) addr() string { return fmt.Sprintf("127.0.0.1:%d", n.port) }

// eventually polls until cond holds.
func eventually(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Since(start) > d {
			t.Fatalf("%s: not within %v", what, d)
		}
		<-tick.C
	}
	t.Logf("%s: after %v", what, time.Since(start).Round(time.Millisecond))
}

func (n *node) linkedTo(names ...string) bool {
	up := map[string]bool{}
	for _, l := range n.Links() {
		up[l.Name] = l.Path == "direct"
	}
	for _, name := range names {
		if !up[name] {
			return false
		}
	}
	return true
}

func trio(t *testing.T) (a, b, c *node, token ident.Token) {
	t.Helper()
	token = ident.NewToken()
	a = startNode(t, options{name: "a", token: token, founder: true})
	b = startNode(t, options{name: "b", token: token, seeds: []string{a.addr()}})
	c = startNode(t, options{name: "c", token: token, seeds: []string{a.addr()}})
	eventually(t, 10*time.Second, "all linked to all", func() bool {
		return a.linkedTo("b", "c") && b.linkedTo("a", "c") && c.linkedTo("a", "b")
	})
	return a, b, c, token
}

func TestThreeHostsFindEachOther(t *testing.T) {
	a, b, c, _ := trio(t)
	if err := b.Publish(0, map[string][]byte{"x/1": []byte("one")}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "b's entry known to a and c", func() bool {
		return value(a, b.self, "x/1") == "one" && value(c, b.self, "x/1") == "one"
	})
	eventually(t, 12*time.Second, "all alive for all", func() bool {
		for _, n := range []*node{a, b, c} {
			for _, h := range n.Hosts() {
				if h.State != "alive" {
					return false
				}
			}
		}
		return true
	})
	r, err := a.Probe(context.Background(), c.self, 4000)
	if err != nil || r.RTT <= 0 || r.RTT > time.Second {
		t.Fatalf("probe: %+v, %v", r, err)
	}
}

func value(n *node, writer ident.HostID, key string) (v string) {
	_ = n.View(func(t *state.Tables) {
		b, _ := t.Get(writer, 0, key)
		v = string(b)
	})
	return v
}

func TestWrongTokenIsExplained(t *testing.T) {
	a := startNode(t, options{name: "a", token: ident.NewToken(), founder: true})
	other := ident.NewToken()
	b := startNode(t, options{name: "b", token: other, seeds: []string{a.addr()}})
	eventually(t, 10*time.Second, "the joiner says why", func() bool {
		s := b.Seeds()
		return len(s) == 1 && strings.Contains(s[0].Error, "takes TCP but not this token")
	})
	eventually(t, time.Second, "the member counts it", func() bool { return len(a.BadSecrets()) == 1 })
	if len(a.Links()) != 0 {
		t.Fatal("a host with a wrong token has a link")
	}
}

func TestNobodyThereIsExplained(t *testing.T) {
	b := startNode(t, options{name: "b", token: ident.NewToken(), seeds: []string{"127.0.0.1:9"}})
	eventually(t, 10*time.Second, "the joiner says why", func() bool {
		s := b.Seeds()
		return len(s) == 1 && strings.Contains(s[0].Error, "no answer")
	})
}

func TestNameTaken(t *testing.T) {
	a, _, _, token := trio(t)
	d := startNode(t, options{name: "b", token: token, seeds: []string{a.addr()}})
	eventually(t, 5*time.Second, "the later host is refused", func() bool {
		return strings.Contains(d.Refused(), `the host name "b" is taken`) && strings.Contains(d.Refused(), "--name")
	})
	eventually(t, time.Second, "it is told to stop", func() bool { err := d.gaveUp(); return err != nil && strings.Contains(err.Error(), "--name") })

	// The same keys under the name of another host: known, but not by that name.
	renamed := startNode(t, options{name: "e", token: token, seeds: []string{a.addr()}})
	eventually(t, 5*time.Second, "e is in", func() bool { return a.linkedTo("e") && renamed.linkedTo("a") })
	_ = renamed.Close()
	again := startNode(t, options{name: "b", token: token, seeds: []string{a.addr()}, keys: &renamed.keys, disk: renamed.disk})
	eventually(t, 5*time.Second, "a taken name is refused to a host that is known, too", func() bool { return again.gaveUp() != nil })
	if err := a.gaveUp(); err != nil {
		t.Errorf("a member was told to stop: %v", err)
	}
}

func TestCopiedDisk(t *testing.T) {
	a, b, _, token := trio(t)
	twin := startNode(t, options{name: "b", token: token, seeds: []string{a.addr()}, keys: &b.keys})
	eventually(t, 10*time.Second, "the later run is refused", func() bool { return strings.Contains(twin.Refused(), "alive elsewhere") })
	eventually(t, time.Second, "it is told to stop", func() bool { return twin.gaveUp() != nil })
	if err := b.gaveUp(); err != nil {
		t.Errorf("the first run was told to stop: %v", err)
	}
	if !a.linkedTo("b") {
		t.Fatal("the first run lost its link")
	}
}

func TestRestartRejoinsByItself(t *testing.T) {
	a, b, c, token := trio(t)
	eventually(t, 10*time.Second, "c has saved who there is", func() bool {
		c.disk.mu.Lock()
		defer c.disk.mu.Unlock()
		return c.disk.others != nil && value(c, b.self, keyHost) != ""
	})
	eventually(t, 5*time.Second, "others' blocks are on disk", func() bool {
		dirty := true
		_ = c.do(func() { dirty = c.dirty })
		return !dirty
	})
	_ = c.Close()
	c2 := startNode(t, options{name: "c", token: token, keys: &c.keys, disk: c.disk, port: c.port}) // no seed
	eventually(t, 5*time.Second, "linked again", func() bool { return c2.linkedTo("a", "b") && a.linkedTo("c") && b.linkedTo("c") })
}

// TestFullDisk: what cannot be written is refused and reaches nobody; with room again all goes on.
func TestFullDisk(t *testing.T) {
	a, b, _, _ := trio(t)
	full := errors.New("no space left on device")
	a.disk.failWith(full)
	if err := a.Publish(0, map[string][]byte{"lost": []byte("1")}, nil); !errors.Is(err, full) {
		t.Fatalf("publish: %v", err)
	}
	a.disk.failWith(nil)
	if err := a.Publish(0, map[string][]byte{"kept": []byte("2")}, nil); err != nil {
		t.Fatal(err)
	}
	of := func(key string) (v []byte) {
		_ = b.View(func(tb *state.Tables) { v, _ = tb.Get(a.self, 0, key) })
		return v
	}
	eventually(t, 5*time.Second, "b has what was kept", func() bool { return of("kept") != nil })
	if of("lost") != nil {
		t.Error("b has what was never on disk")
	}
}

func TestRotatedTokenKeepsOldHosts(t *testing.T) {
	a, b, c, token := trio(t)
	if err := a.Rotate(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "all have the new token", func() bool { return b.Token() == a.Token() && c.Token() == a.Token() && a.Token() != token })
	_ = c.Close()
	c2 := startNode(t, options{name: "c", token: token, keys: &c.keys, disk: c.disk, seeds: []string{a.addr()}})
	eventually(t, 10*time.Second, "c comes back by its keys", func() bool { return c2.linkedTo("a", "b") })
}

func TestResolve(t *testing.T) {
	r := fakeDNS{}
	for in, want := range map[string]string{
		"10.0.0.1":             "[10.0.0.1:6783]",
		"10.0.0.1:7000":        "[10.0.0.1:7000]",
		"fd00::1":              "[[fd00::1]:6783]",
		"[fd00::1]:7000":       "[[fd00::1]:7000]",
		"[fd00::1]":            "[[fd00::1]:6783]",
		"one.example":          "[10.1.1.1:6783 [fd00::11]:6783]",
		"one.example:99":       "[10.1.1.1:99 [fd00::11]:99]",
		"srv.example":          "[10.1.1.1:7001 [fd00::11]:7001]",
		"none.example":         `host "none.example": no such name`,
		"one.example:0":        `port "0" is not a number`,
		"one.example:verylong": `port "verylong" is not a number`,
	} {
		got, err := Resolve(context.Background(), r, in, 6783)
		text := fmt.Sprint(got)
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, want) {
			t.Errorf("Resolve(%q) = %s, want %s", in, text, want)
		}
	}
}

type fakeDNS struct{}

func (fakeDNS) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if service == "weft" && proto == "udp" && name == "srv.example" {
		return "", []*net.SRV{{Target: "one.example.", Port: 7001}}, nil
	}
	return "", nil, fmt.Errorf("no such record")
}

func (fakeDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "one.example" {
		return []netip.Addr{netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("fd00::11")}, nil
	}
	return nil, fmt.Errorf("no such host")
}

func FuzzRecords(f *testing.F) {
	f.Add(encode(hostRecord{Name: "a", Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:1")}}))
	f.Add(encode(tokenRecord{Version: 3, Secret: make([]byte, 16)}))
	f.Add([]byte{0xbf, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeHost(b); err == nil {
			if again, err := decodeHost(encode(r)); err != nil || again.Name != r.Name {
				t.Fatalf("%v: does not survive a round trip: %v", r, err)
			}
		}
		_, _, _ = decodeToken(b)
	})
}
