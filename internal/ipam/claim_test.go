package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// lost kills a host and returns what runs in its place, on a new disk and so under a new HostID, with a network joined.
func (l *lab) lost(h *labHost, vni uint32, subnet netip.Prefix) *labHost {
	l.t.Helper()
	h.kill()
	next := &labHost{lab: l, id: ident.HostID{byte(len(l.hosts) + 1)}, disk: map[uint32]map[string][]byte{}}
	l.hosts = append(l.hosts, next)
	next.start()
	for scope, table := range h.disk { // which others pass on
		for key, v := range table {
			next.OnChange(scope, h.id, key, v, false)
		}
	}
	l.check(next.JoinNetwork(vni, subnet, false))
	return next
}

// TestClaim: addresses in use on a host that has lost its state stay in use there: claimed before anybody else asks, no owner gives them
// to another, and they become the host's own: at once from an owner that lives, else from the heir of the host that it was.
func TestClaim(t *testing.T) {
	inLab(t, 3, func(t *testing.T, l *lab) {
		p := l.network(7)
		first, third := l.hosts[0], l.hosts[2]
		a := third.must(7, "web", "").IP4.Addr()
		b := third.must(7, "db", "").IP4.Addr()
		c := first.must(7, "free", "").IP4.Addr() // of a share that lives
		l.check(first.Release(7, "free"))
		was := third.id
		again := l.lost(third, 7, p)
		l.check(again.Restore(7, "web", a))
		l.check(again.Restore(7, "db", b))
		l.check(again.Restore(7, "was-free", c))
		l.heal()
		later(3 * time.Second)
		if !again.Heard(7) {
			t.Fatal("the owners are not known")
		}
		if o := again.Overruled(7); len(o) > 0 {
			t.Fatalf("overruled: %v", o)
		}
		if o, _ := again.scopes[7].spaces[0].ring.Owner(toU32(c)); o != again.id {
			t.Errorf("%s is owned by %s, want the host that claimed it", c, o.Short())
		}
		if _, err := first.get(7, "other", a.String()); err == nil || !strings.Contains(err.Error(), "in use by web") {
			t.Errorf("another host is given %s: %v", a, err)
		}
		// The host that it was is removed: its share goes to an heir, which keeps its hands off what is in use and then gives it.
		for _, h := range l.hosts {
			if h != third {
				l.check(h.HostRemoved(was, h == first))
			}
		}
		later(20 * time.Second)
		for _, x := range []netip.Addr{a, b} {
			if o, _ := first.scopes[7].spaces[0].ring.Owner(toU32(x)); o != again.id {
				t.Errorf("%s is owned by %s after the removal, want the host that claimed it", x, o.Short())
			}
		}
		if o := again.Overruled(7); len(o) > 0 {
			t.Errorf("overruled after the removal: %v", o)
		}
	})
}

// TestClaimHeldByHeir: what an heir has is not given out while it is in use, also before the one that uses it could ask for it.
func TestClaimHeldByHeir(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		first, second := l.hosts[0], l.hosts[1]
		p := netip.MustParsePrefix("10.99.0.0/29") // 5 addresses to give
		l.check(first.JoinNetwork(7, p, true))
		l.check(second.JoinNetwork(7, p, false))
		later(5 * time.Second)
		a := second.must(7, "web", "").IP4.Addr()
		again := l.lost(second, 7, p)
		l.check(again.Restore(7, "web", a))
		l.heal()
		first.cfg.Ask = func(ident.HostID, []byte) error { return nil }
		again.cfg.Ask = first.cfg.Ask // the asks are lost: a stays the heir's
		l.check(first.HostRemoved(second.id, true))
		later(20 * time.Second)
		if o, _ := first.scopes[7].spaces[0].ring.Owner(toU32(a)); o != first.id {
			t.Fatalf("%s is owned by %s, want the heir: nothing is tested", a, o.Short())
		}
		for i := range 6 {
			got, err := first.get(7, fmt.Sprint("n", i), "")
			if err == nil && got.IP4.Addr() == a {
				t.Fatalf("%s was given to n%d while it is in use", a, i)
			}
		}
	})
}

// TestClaimOverruled: an address that was given to somebody else meanwhile is that one's; the claim is told, by whom and where, and gives
// way; the one that has it hears nothing of the kind.
func TestClaimOverruled(t *testing.T) {
	inLab(t, 3, func(t *testing.T, l *lab) {
		p := l.network(7)
		first, third := l.hosts[0], l.hosts[2]
		a := third.must(7, "web", "").IP4.Addr()
		keeps := third.must(7, "db", "").IP4.Addr()
		third.kill()
		l.check(third.Release(7, "web")) // as if it had never been heard of: a disk from before
		for _, h := range l.hosts[:2] {
			l.check(h.HostRemoved(third.id, h == first))
		}
		later(20 * time.Second)
		if got := first.must(7, "new", a.String()).IP4.Addr(); got != a {
			t.Fatalf("%s, want %s", got, a)
		}
		again := l.lost(third, 7, p)
		l.check(again.Restore(7, "web", a))
		l.check(again.Restore(7, "db", keeps))
		l.heal()
		later(3 * time.Second)
		o := again.Overruled(7)
		if len(o) != 1 || o[0] != (Overrule{Key: "web", Addr: a, Host: first.id, By: "new"}) {
			t.Fatalf("overruled: %v, want web by new", o)
		}
		if o := first.Overruled(7); len(o) > 0 {
			t.Errorf("the first is overruled by the later: %v", o)
		}
		l.check(again.Release(7, "web"))
		later(3 * time.Second)
		if o := again.Overruled(7); len(o) > 0 {
			t.Errorf("still overruled: %v", o)
		}
		if o, _ := first.scopes[7].spaces[0].ring.Owner(toU32(keeps)); o != again.id {
			t.Errorf("%s is owned by %s, want the host that claimed it", keeps, o.Short())
		}
	})
}
