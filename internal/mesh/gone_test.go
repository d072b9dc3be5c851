package mesh

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

func TestRemovedHostStaysOut(t *testing.T) {
	a, b, c, token := trio(t)
	if err := a.Remove(c.self, false, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "c has no link", func() bool { return !a.linkedTo("c") && !b.linkedTo("c") })
	if a.Token() == token {
		t.Fatal("the token was not rotated")
	}
	eventually(t, 5*time.Second, "b has the new token", func() bool { return b.Token() == a.Token() })
	eventually(t, 15*time.Second, "c is told, by whom", func() bool {
		return strings.Contains(c.wasRemoved(), "host c was removed from the cluster by host a; to come back")
	})
	if a.wasRemoved()+b.wasRemoved() != "" {
		t.Error("members think that they were removed")
	}
	_ = c.Close()
	again := startNode(t, options{name: "c", token: token, keys: &c.keys, disk: c.disk, seeds: []string{a.addr(), b.addr()}})
	eventually(t, 10*time.Second, "the old token is refused", func() bool {
		s := again.Seeds()
		return len(s) == 2 && s[0].Error != "" && s[1].Error != ""
	})
}

// TestRetired: a host that a vote has found to be gone is shut out, by one or by several at once; the token stays as it is.
func TestRetired(t *testing.T) {
	a, b, c, token := trio(t)
	if err := a.Retire(c.self); err != nil {
		t.Fatal(err)
	}
	if err := b.Retire(c.self); err != nil && !errors.Is(err, ErrNoHost) {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "c has no link", func() bool { return !a.linkedTo("c") && !b.linkedTo("c") })
	eventually(t, 15*time.Second, "c is told", func() bool { return strings.Contains(c.wasRemoved(), "was removed from the cluster by host") })
	if err := a.Retire(c.self); !errors.Is(err, ErrNoHost) {
		t.Errorf("once more: %v", err)
	}
	if a.Token() != token || b.Token() != token {
		t.Error("the token was replaced")
	}
}

// TestRemoverRemoved: what a host said of others outlasts its own removal: whom it let in, and whom it shut out, also
// for those who read it from their disks only.
func TestRemoverRemoved(t *testing.T) {
	a, b, c, token := trio(t)
	d := startNode(t, options{name: "d", token: token, seeds: []string{a.addr()}})
	eventually(t, 10*time.Second, "d is there", func() bool { return b.linkedTo("d") && c.linkedTo("d") })
	if err := a.Remove(d.self, false, map[string][]byte{"heir/x": []byte("with it")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "all know it", func() bool {
		return value(b, a.self, KeyBar+d.self.String()) == "d" && value(c, a.self, KeyBar+d.self.String()) == "d" && value(c, a.self, "heir/x") == "with it"
	})
	_, _ = a.Close(), d.Close()
	if err := b.Remove(a.self, true, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "b says it now", func() bool {
		return value(c, b.self, KeyBar+d.self.String()) == "d" && value(c, b.self, keyAdmit+c.self.String()) != "" && value(c, b.self, keyAdmit+d.self.String()) == ""
	})
	eventually(t, 10*time.Second, "c has it on disk", func() bool {
		dirty := true
		_ = c.do(func() { dirty = c.dirty })
		return !dirty
	})
	_ = c.Close()
	c2 := startNode(t, options{name: "c", token: token, keys: &c.keys, disk: c.disk, port: c.port})
	if c2.Allowed(d.self) || c2.Allowed(a.self) || !c2.Allowed(b.self) {
		t.Errorf("after a restart d is allowed: %v, a: %v, b: %v", c2.Allowed(d.self), c2.Allowed(a.self), c2.Allowed(b.self))
	}
	eventually(t, 5*time.Second, "b and c linked", func() bool { return c2.linkedTo("b") })
}

// TestRemovedMeanwhile: a handshake that is done when the host has just been removed, or the new run of a host that is, lets nobody in.
func TestRemovedMeanwhile(t *testing.T) {
	_, b, c, _ := trio(t)
	card, err := ident.ParseCard(c.keys.Card().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, boot := range []uint64{0, 77} {
		if err := b.do(func() {
			now, h := time.Now(), b.hosts[c.self]
			done := &handshake.Result{ID: c.self, Peer: handshake.Info{Card: card, Name: "c", Boot: boot}, Suite: seal.SuiteAES, Local: uint32(1000 + boot), Remote: 5}
			if boot != 0 {
				h.barred, h.known, h.boot, h.up = false, true, boot+1, true
				b.established(now, link.Addr{}, done)
			}
			b.bar(now, c.self, "c", b.self)
			if boot == 0 {
				b.established(now, link.Addr{}, done)
			}
			b.tickNewRun(now.Add(cloneWait), h)
			if h.known || !h.barred || (*b.sessions.Load())[done.Local] != nil {
				t.Errorf("boot %d: known %v, removed %v, sessions %v", boot, h.known, h.barred, *b.sessions.Load())
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDeadIsAsked: the link to a host that the others hold for dead is asked at once: a quiet one would not be for five seconds and more. While that
// does not answer another may come under its name.
func TestDeadIsAsked(t *testing.T) {
	a, _, c, _ := trio(t)
	quiet := func() (is bool) {
		if err := a.do(func() { is = a.hosts[c.self].link.Quiet() }); err != nil {
			t.Fatal(err)
		}
		return is
	}
	eventually(t, 10*time.Second, "the link is quiet", quiet)
	if err := a.do(func() {
		h := a.hosts[c.self]
		if a.setLive(c.self, liveDead); h.link.Quiet() {
			t.Error("it is not asked")
		}
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "it answers", quiet)
	mayJoin := func(want bool) {
		t.Helper()
		if refused := a.admit(ident.HostID{1}, handshake.Info{Name: "c"}, true); (refused == nil) != want {
			t.Errorf("another of its name: %+v", refused)
		}
	}
	if err := a.do(func() { mayJoin(false) }); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	began := time.Now()
	if err := a.do(func() {
		a.setLive(c.self, liveAlive)
		a.setLive(c.self, liveDead)
		mayJoin(true)
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 4*time.Second, "the link is down", func() bool { return !a.linkedTo("c") })
	t.Logf("down after %v", time.Since(began).Round(time.Millisecond))
}

// TestHostThatLeft: who quit is listed as left until a host of its name is there again.
func TestHostThatLeft(t *testing.T) {
	a, _, c, token := trio(t)
	states := func(name string) (out []string) {
		for _, h := range a.Hosts() {
			if h.Name == name {
				out = append(out, h.State)
			}
		}
		return out
	}
	if err := c.Quit(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "c has left", func() bool { return slices.Equal(states("c"), []string{"left"}) })
	_ = c.Close()
	startNode(t, options{name: "c", token: token, seeds: []string{a.addr()}})
	eventually(t, 5*time.Second, "only the new c is listed", func() bool { return slices.Equal(states("c"), []string{"alive"}) })
}

// TestGoodbye: who says goodbye is gone for the others at once, not when its silence is noticed, and not for a word of another run; it comes back.
func TestGoodbye(t *testing.T) {
	a, b, c, token := trio(t)
	state := func(n *node) (state string, reachable bool) {
		for _, h := range n.Hosts() {
			if h.Name == "c" {
				return h.State, h.Reachable
			}
		}
		return "", false
	}
	for _, word := range [][]byte{{wire.KindBye}, {wire.KindBye, 1, 2, 3, 4, 5, 6, 7, 8}} {
		if err := c.Send(a.self, word); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, "what is no goodbye is counted", func() bool { return a.Drops()["goodbye"] == 2 })
	if !a.linkedTo("c") {
		t.Fatal("it ended the link")
	}
	if err := c.Leave(t.Context()); err != nil {
		t.Logf("memberlist: %v", err) // two seconds may be too short for it; the goodbye is said all the same
	}
	for _, n := range []*node{a, b} {
		eventually(t, time.Second, "c has stopped", func() bool { s, up := state(n); return s == "dead" && !up })
	}
	// c runs on for a moment: what it is asked it does not answer.
	eventually(t, 5*time.Second, "c is asked", func() bool { return c.Drops()["gone"] > 0 })
	if s, up := state(a); s != "dead" || up {
		t.Errorf("c, which runs on, is %s, reachable %v", s, up)
	}
	_ = c.Close()
	again := startNode(t, options{name: "c", token: token, keys: &c.keys, disk: c.disk, port: c.port})
	eventually(t, 10*time.Second, "c is back", func() bool {
		s, up := state(a)
		return s == "alive" && up && again.linkedTo("a", "b")
	})
}
