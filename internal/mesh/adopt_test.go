package mesh

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/snapshot"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/udp"
)

// heir prepares what a second process would: a mesh on the same sockets, from what is on the disk.
func (n *node) heir(o options) *node {
	n.t.Helper()
	f, err := udp.File(n.cfg.Conn)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	conn, err := udp.Adopt(f, udp.Options{})
	if err != nil {
		n.t.Fatal(err)
	}
	tf, err := n.cfg.Listener.(*net.TCPListener).File()
	if err != nil {
		n.t.Fatal(err)
	}
	defer tf.Close()
	ln, err := net.FileListener(tf)
	if err != nil {
		n.t.Fatal(err)
	}
	next := &node{t: n.t, name: n.name, port: n.port, keys: n.keys, disk: n.disk, log: &logBuffer{}, control: map[byte]int{}}
	cfg := n.cfg
	cfg.Conn, cfg.Listener, cfg.Build, cfg.Log = conn, ln, "next", logTo(next.log)
	cfg.Tables = state.New(state.Config{Keys: n.keys, Cluster: o.token.Cluster, Allowed: func(id ident.HostID) bool { return next.Mesh == nil || next.Allowed(id) }})
	for _, b := range [][]byte{n.disk.own, n.disk.others} {
		if err := cfg.Tables.Import(b); err != nil {
			n.t.Fatal(err)
		}
	}
	if next.Mesh, err = New(cfg); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = next.Close()
		if n.t.Failed() {
			n.t.Logf("log of the next %s:\n%s", n.name, next.log)
		}
	})
	return next
}

// TestMeshHandedOver: a mesh that takes over is linked at once, under the sessions there were; the others see no other run,
// no handshake and no loss, and what was published meanwhile is written by exactly one of the two.
func TestMeshHandedOver(t *testing.T) {
	a, b, c, token := trio(t)
	eventually(t, 12*time.Second, "all alive for all", func() bool { return allAlive(a, b, c) })
	if err := b.Publish(0, map[string][]byte{"x/1": []byte("before")}, nil); err != nil {
		t.Fatal(err)
	}
	done := func(n *node) uint64 { return n.Handshakes()["done"] }
	before := []uint64{done(a), done(c)}
	var boot uint64
	_ = b.do(func() { boot = b.boot })

	if err := b.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := b.Rotate(); !errors.Is(err, ErrHandingOver) {
		t.Errorf("own tables are written while frozen: %v", err)
	}
	late := make(chan error, 1)
	go func() { late <- b.Publish(0, map[string][]byte{"x/2": []byte("late")}, nil) }()
	next := b.heir(options{token: token})
	if err := next.StartHalted(); err != nil {
		t.Fatal(err)
	}
	// What others say meanwhile comes by the digests.
	if err := c.Publish(0, map[string][]byte{"x/3": []byte("meanwhile")}, nil); err != nil {
		t.Fatal(err)
	}
	b.Halt()
	x, err := b.Export()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Send(a.self, []byte{99}); err == nil {
		t.Error("the old one sends after its keys were exported")
	}
	s := snapshot.State{Mesh: x}
	if s, err = snapshot.DecodeState(s.Encode()); err != nil {
		t.Fatal(err)
	}
	if err := next.Adopt(s.Mesh); err != nil {
		t.Fatal(err)
	}
	if got := next.Reachable(); len(got) != 3 {
		t.Errorf("reachable at once: %d hosts", len(got))
	}
	if err := next.Send(a.self, []byte{99}); err == nil {
		t.Error("the next one sends before it was told to")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := <-late; !errors.Is(err, ErrClosed) {
		t.Errorf("the late entry: %v", err)
	}
	if err := next.Begin(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []*node{a, c} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := next.Probe(ctx, o.self, 4000); err != nil {
			t.Errorf("next to %s: %v", o.name, err)
		}
		if _, err := o.Probe(ctx, next.self, 4000); err != nil {
			t.Errorf("%s to next: %v", o.name, err)
		}
		cancel()
	}
	eventually(t, 2*time.Second, "what was said meanwhile is known", func() bool { return value(next, c.self, "x/3") == "meanwhile" })
	if err := next.Publish(0, map[string][]byte{"x/4": []byte("after")}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "what is published after it arrives", func() bool {
		return value(a, next.self, "x/4") == "after" && value(c, next.self, "x/1") == "before"
	})
	eventually(t, 3*time.Second, "the version is known", func() bool {
		return slices.ContainsFunc(a.Hosts(), func(h HostStatus) bool { return h.ID == next.self && h.Build == "next" })
	})
	eventually(t, 12*time.Second, "all alive for all", func() bool { return allAlive(a, next, c) })
	if got := []uint64{done(a), done(c)}; !slices.Equal(got, before) || done(next) != 0 {
		t.Errorf("handshakes %v and %d, before %v and 0", got, done(next), before)
	}
	var is uint64
	_ = next.do(func() { is = next.boot })
	if is != boot {
		t.Error("it is another run")
	}
	for _, n := range []*node{a, c} {
		if log := n.log.String(); strings.Contains(log, "link down") || strings.Contains(log, "state=dead") {
			t.Errorf("%s noticed:\n%s", n.name, log)
		}
	}
}

func allAlive(nodes ...*node) bool {
	for _, n := range nodes {
		for _, h := range n.Hosts() {
			if h.State != "alive" {
				return false
			}
		}
	}
	return true
}

// TestMeshResumed: a hand-over that comes to nothing: the mesh goes on, and what waited is published.
func TestMeshResumed(t *testing.T) {
	a, b, _, _ := trio(t)
	for range 3 {
		if err := b.Freeze(); err != nil {
			t.Fatal(err)
		}
		late := make(chan error, 1)
		go func() { late <- b.Publish(0, map[string][]byte{"x/2": []byte("late")}, nil) }()
		b.Halt()
		if _, err := b.Export(); err != nil {
			t.Fatal(err)
		}
		b.Resume()
		b.Unfreeze()
		if err := <-late; err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, "what waited arrives", func() bool { return value(a, b.self, "x/2") == "late" })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := a.Probe(ctx, b.self, 100); err != nil {
			t.Error(err)
		}
		cancel()
		if err := b.Publish(0, nil, []string{"x/2"}); err != nil {
			t.Fatal(err)
		}
	}
}
