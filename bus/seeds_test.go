package bus

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/rmcast"
)

// members waits until a bus knows so many others.
func members(t *testing.T, b *Bus, n int) {
	t.Helper()
	await(t, b, fmt.Sprintf("%d members", n), func() bool { return len(b.Members()) == n })
}

// TestAddSeed: two that know nobody find each other when one is told of the other.
func TestAddSeed(t *testing.T) {
	w := newWorld(t, false)
	a := w.join()
	w.seed = ""
	b := w.join()
	seed := fmt.Sprintf("127.0.0.1:%d", a.Addr().Port())
	check(t, b.AddSeed("127.0.0.1:9"))
	check(t, b.AddSeed(seed))
	check(t, b.AddSeed(seed))
	members(t, a, 1)
	members(t, b, 1)
	for _, s := range []string{"", "host:99999", ":1"} {
		if err := b.AddSeed(s); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", s, err)
		}
	}
	var err error
	for i := 0; i < MaxSeeds && err == nil; i++ {
		err = b.AddSeed(fmt.Sprintf("127.0.0.1:%d", 10+i))
	}
	if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "256") {
		t.Errorf("%v", err)
	}
	// Addresses of names that change every minute are not kept for ever, those of members are.
	b.mu.Lock()
	for i := range 3 * rmcast.MaxMembers {
		b.node.AddSeed(time.Now(), netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 9))
	}
	b.mu.Unlock()
	check(t, b.Close(within(t)))
	if err := b.AddSeed(seed); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

// TestAccept: a token is changed while members run: those of the new one are let in from the moment it is accepted, those of the old
// one no more when it is not.
func TestAccept(t *testing.T) {
	w := newWorld(t, false)
	ctx := within(t)
	old, fresh := w.token, NewToken()
	a := w.join()
	b := w.join(func(c *Config) { c.Token, c.Accept = fresh, []string{old} })
	await(t, a, "forged hellos", func() bool { return a.Stats().Dropped["forged"] >= 2 })
	if len(a.Members()) != 0 {
		t.Error("let in by a token that is not accepted")
	}
	check(t, a.Accept(fresh))
	members(t, a, 1)
	members(t, b, 1)
	r := must(b.Respond("x", echo))(t)
	check(t, r.Ready(ctx))
	must(a.Request(ctx, "x", []byte("hi")))(t)

	check(t, b.Accept()) // the old one no more
	must(a.Request(ctx, "x", []byte("who is here stays")))(t)
	seed := fmt.Sprintf("127.0.0.1:%d", b.Addr().Port())
	late := w.join(func(c *Config) { c.Seeds = []string{seed} })
	forged := b.Stats().Dropped["forged"]
	await(t, b, "forged hellos", func() bool { return b.Stats().Dropped["forged"] >= forged+2 })
	if slices.ContainsFunc(b.Members(), func(m Member) bool { return m.Name == late.cfg.Member }) {
		t.Error("let in by a token that is accepted no more")
	}
	if err := b.Accept("nonsense"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "Accept") {
		t.Errorf("%v", err)
	}
	if err := b.Accept(make([]string, 8)...); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
}
