package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

var (
	clusterRange = netip.MustParsePrefix("10.32.0.0/12")
	ula          = netip.MustParsePrefix("fd57:1:2::/48")
)

func TestAllocate(t *testing.T) {
	inLab(t, 3, func(t *testing.T, l *lab) {
		p := l.network(7)
		if p != netip.MustParsePrefix("10.32.0.0/20") {
			t.Fatalf("carved %s", p)
		}
		a := l.hosts[0].must(7, "web", "")
		want := Address{
			IP4: netip.MustParsePrefix("10.32.0.2/20"),
			IP6: netip.MustParsePrefix("fd57:1:2::a20:2/64"),
			MAC: [6]byte{0x02, 0x57, 10, 32, 0, 2},
		}
		if a != want {
			t.Fatalf("got %+v", a)
		}
		if again := l.hosts[0].must(7, "web", ""); again != a {
			t.Fatalf("asked again: %+v", again)
		}
		seen := map[netip.Prefix]bool{a.IP4: true}
		for i, h := range l.hosts {
			if sh := h.share(7, h.id); sh < 64 {
				t.Fatalf("host %d has a share of %d", i, sh)
			}
			for k := range 50 {
				a := h.must(7, fmt.Sprint("c", k), "")
				if seen[a.IP4] || !p.Contains(a.IP4.Addr()) {
					t.Fatalf("%s given twice, or outside", a.IP4)
				}
				seen[a.IP4] = true
			}
		}
		// A second network has other addresses of both families.
		p2, err := l.hosts[1].CarveSubnet(t.Context())
		l.check(err)
		if p2.Overlaps(p) {
			t.Fatalf("carved %s twice", p2)
		}
		l.check(l.hosts[1].JoinNetwork(8, p2, true))
		b := l.hosts[1].must(8, "web", "")
		if b.IP6.Masked() == a.IP6.Masked() {
			t.Fatalf("two networks in %s", b.IP6.Masked())
		}
	})
}

// Two and two hosts cut off from each other go on giving addresses, all different.
func TestPartition(t *testing.T) {
	inLab(t, 4, func(t *testing.T, l *lab) {
		l.network(7)
		l.split(2)
		seen := map[netip.Prefix]string{}
		for i, h := range l.hosts {
			for k := range 200 {
				a := h.must(7, fmt.Sprint("c", k), "")
				if by, ok := seen[a.IP4]; ok {
					t.Fatalf("%s given to %s and by host %d", a.IP4, by, i)
				}
				seen[a.IP4] = fmt.Sprint(i, k)
			}
		}
		p1, err := l.hosts[0].CarveSubnet(t.Context())
		l.check(err)
		p2, err := l.hosts[3].CarveSubnet(t.Context())
		l.check(err)
		if p1.Overlaps(p2) {
			t.Fatalf("%s carved on both sides", p1)
		}
		l.heal()
		later(time.Minute)
		for _, h := range l.hosts {
			if c := h.Conflicts(); len(c) > 0 {
				t.Fatalf("conflicts %v", c)
			}
		}
	})
}

// A host that is killed keeps its addresses over the restart, and gives none of them again.
func TestRestart(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		p := l.network(7)
		h := l.hosts[1]
		a := h.must(7, "a", "")
		h.must(7, "b", "")
		l.check(h.Release(7, "b"))
		h.kill()
		h.start()
		l.heal()
		l.check(h.JoinNetwork(7, p, false))
		if got := h.Allocations(7); len(got) != 1 || got["a"] != a {
			t.Fatalf("after the restart: %v", got)
		}
		c := h.must(7, "c", "")
		if c == a {
			t.Fatalf("%s given again", c.IP4)
		}
		if got := h.must(7, "a", ""); got != a {
			t.Fatalf("%s became %s", a.IP4, got.IP4)
		}
	})
}

func TestWantedAddress(t *testing.T) {
	inLab(t, 3, func(t *testing.T, l *lab) {
		l.network(7)
		mine := l.hosts[2].Status()
		i := slices.IndexFunc(mine, func(s Share) bool { return s.VNI == 7 && s.Owner == l.hosts[2].id })
		inShare, other := mine[i].First.String(), "10.32.0.9" // the first host's
		if a := l.hosts[2].must(7, "x", inShare); a.IP4.Addr().String() != inShare {
			t.Fatalf("got %s", a.IP4)
		}
		if a := l.hosts[2].must(7, "y", other); a.IP4.Addr().String() != other {
			t.Fatalf("got %s", a.IP4)
		}
		_, err := l.hosts[0].get(7, "z", other)
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "by y on host 03") {
			t.Fatalf("in use: %v", err)
		}
		_, err = l.hosts[2].get(7, "z", inShare)
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "by x on this host") {
			t.Fatalf("in use here: %v", err)
		}
		for want, text := range map[string]string{
			"10.32.0.0": "never given", "10.32.0.1": "never given", "10.32.15.255": "never given",
			"10.40.0.5": "not in the network's subnet", "fd00::1": "not in the network's subnet",
		} {
			if _, err := l.hosts[0].get(7, "w", want); err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v", want, err)
			}
		}
		if _, err := l.hosts[2].get(7, "x", "10.32.0.77"); err == nil {
			t.Error("one key has two addresses")
		}
		// The owner is cut off: the error says so.
		l.split(2)
		_, err = l.hosts[2].get(7, "v", "10.32.0.20")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "belongs to host 01000000, which is not reached") {
			t.Fatalf("owner cut off: %v", err)
		}
	})
}

// A small subnet used to the last address: the hosts give each other what they have, then an error says who has what.
func TestExhausted(t *testing.T) {
	inLab(t, 3, func(t *testing.T, l *lab) {
		p := netip.MustParsePrefix("192.168.9.0/28")
		for i, h := range l.hosts {
			l.check(h.JoinNetwork(9, p, i == 0))
		}
		later(5 * time.Second)
		for k := range 13 {
			l.hosts[2].must(9, fmt.Sprint("k", k), "")
		}
		_, err := l.hosts[2].get(9, "more", "")
		if !errors.Is(err, ErrExhausted) {
			t.Fatalf("the subnet is full: %v", err)
		}
		l.check(l.hosts[2].Release(9, "k3"))
		a := l.hosts[0].must(9, "again", "") // from the host that freed it
		if !p.Contains(a.IP4.Addr()) {
			t.Fatal(a)
		}
		l.split(1)
		l.check(l.hosts[2].Release(9, "k4"))
		start := time.Now()
		_, err = l.hosts[0].get(9, "cut off", "")
		if !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "not reached") || !strings.Contains(err.Error(), "host rm") {
			t.Fatalf("cut off: %v", err)
		}
		if time.Since(start) > 4*time.Second {
			t.Fatal("ctx was not heeded")
		}
	})
}

func TestLeave(t *testing.T) {
	inLab(t, 3, func(t *testing.T, l *lab) {
		p := l.network(7)
		h := l.hosts[1]
		h.must(7, "a", "")
		if err := h.LeaveNetwork(t.Context(), 7); err == nil || !strings.Contains(err.Error(), "detach") {
			t.Fatalf("left with an address in use: %v", err)
		}
		l.check(h.Release(7, "a"))
		l.check(h.LeaveNetwork(t.Context(), 7))
		if _, err := h.get(7, "a", ""); !errors.Is(err, ErrNoNetwork) {
			t.Fatalf("after leaving: %v", err)
		}
		later(time.Minute)
		if n := l.hosts[0].share(7, h.id); n != 0 {
			t.Fatalf("still owns %d", n)
		}
		// It comes back, and gets a share again.
		l.check(h.JoinNetwork(7, p, false))
		h.must(7, "b", "")
		l.check(h.Release(7, "b"))
		// And goes for good, the founder too: the last one has everything.
		l.check(h.GiveBack(t.Context()))
		l.check(l.hosts[0].GiveBack(t.Context()))
		later(5 * time.Second)
		last := l.hosts[2]
		if n := last.share(0, last.id); n != 1<<20 {
			t.Fatalf("of the cluster's range %d are left", n)
		}
		if n := last.share(7, last.id); n != 4096-3 {
			t.Fatalf("of the network %d are left: %+v", n, last.Status())
		}
		// The network lives on: its subnet is not carved again.
		for range 20 {
			q, err := last.CarveSubnet(t.Context())
			l.check(err)
			if q.Overlaps(p) {
				t.Fatalf("carved %s, which is in use", q)
			}
			l.check(last.ReleaseSubnet(q))
		}
	})
}

// A host is removed for good: its share of the cluster's range and of the networks has new owners.
func TestHostRemoved(t *testing.T) {
	inLab(t, 3, func(t *testing.T, l *lab) {
		l.network(7)
		gone := l.hosts[2]
		a := gone.must(7, "a", "")
		gone.kill()
		if got := l.hosts[0].InUseBy(gone.id); got[a.IP4.Addr()] != "a" {
			t.Fatalf("known in use: %v", got)
		}
		l.check(l.hosts[0].HostRemoved(gone.id, true))
		l.check(l.hosts[1].HostRemoved(gone.id, false))
		later(30 * time.Second)
		for _, h := range l.hosts[:2] {
			if n := h.share(0, gone.id) + h.share(7, gone.id); n != 0 {
				t.Fatalf("the host gone owns %d", n)
			}
			if n := h.share(7, l.hosts[0].id) + h.share(7, l.hosts[1].id); n != 4096-3 {
				t.Fatalf("the others own %d", n)
			}
			if n := h.share(0, l.hosts[0].id) + h.share(0, l.hosts[1].id); n != 1<<20 {
				t.Fatalf("the others own %d of the cluster's", n)
			}
		}
		l.hosts[0].must(7, "b", a.IP4.Addr().String())
		// The host itself, should it hear of it, gives nothing any more.
		l.check(gone.HostRemoved(gone.id, false))
		if _, err := gone.get(7, "c", ""); !errors.Is(err, ErrRemoved) {
			t.Fatalf("removed host: %v", err)
		}
	})
}

// What another host is known to use is not given out, though the range is this host's; used by both, it is told.
func TestInUseElsewhere(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		l.network(7)
		a, b := l.hosts[0], l.hosts[1]
		mine := a.must(7, "mine", "")
		next := mine.IP4.Addr().Next()
		a.OnChange(7, b.id, keyIP+"theirs", put32(toU32(next)), false)
		if got := a.must(7, "more", ""); got.IP4.Addr() == next {
			t.Fatalf("gave out %s, which the other host uses", next)
		}
		a.OnChange(7, b.id, keyIP+"twice", put32(toU32(mine.IP4.Addr())), false)
		later(time.Minute)
		if c := a.Conflicts(); len(c) != 1 || c[0].First != mine.IP4.Addr() || c[0].Other != b.id {
			t.Fatalf("conflicts %v", c)
		}
	})
}

// A host whose table has two histories says in its books that it lost a part of one.
func TestForked(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		l.network(7)
		a, b := l.hosts[0], l.hosts[1]
		a.Forked(7)
		later(5 * time.Second)
		lapsed := func(scope uint32) bool {
			book, ok := b.scopes[scope].spaces[0].ring.Book(a.id)
			return ok && book.Lapsed
		}
		if !lapsed(7) || lapsed(0) || a.Counts().Lapses != 1 {
			t.Fatalf("lapsed in the network %v, in the cluster's range %v, counts %+v", lapsed(7), lapsed(0), a.Counts())
		}
	})
}

// The heirs that a removal names take what the host had; others, who may think that they are the heir, do not.
func TestHeirsNamed(t *testing.T) {
	inLab(t, 4, func(t *testing.T, l *lab) {
		l.network(7)
		gone := l.hosts[3]
		gone.kill()
		by := l.hosts[1]
		puts, err := by.Bequeath(gone.id, map[uint32][]ident.HostID{7: {l.hosts[2].id, gone.id}}, by.alive())
		l.check(err)
		l.check(by.Publish(0, puts, nil))
		for i, h := range l.hosts[:3] {
			l.check(h.HostRemoved(gone.id, i == 1)) // the second host thinks that it is the heir
		}
		later(30 * time.Second)
		for _, h := range l.hosts[:3] {
			if n := h.share(0, gone.id) + h.share(7, gone.id); n != 0 {
				t.Fatalf("the host gone owns %d", n)
			}
		}
		heir := func(vni uint32, h *labHost) bool {
			b, _ := h.scopes[vni].spaces[0].ring.Book(h.id)
			return slices.ContainsFunc(b.Estates, func(e ring.Estate) bool { return e.Host == gone.id })
		}
		if !heir(0, l.hosts[0]) || heir(0, l.hosts[1]) || !heir(7, l.hosts[2]) || heir(7, l.hosts[0]) || heir(7, l.hosts[1]) {
			t.Fatal("others than those that were named are the heirs")
		}
		// When the heir goes, too, its own heir says so again.
		puts, err = l.hosts[0].Bequeath(by.id, nil, l.hosts[0].alive())
		l.check(err)
		if puts[keyHeir+gone.id.String()] == nil {
			t.Fatal("what the host said of others is not said again")
		}
	})
}

func TestNotPersistedNotGiven(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		l.network(7)
		h := l.hosts[0]
		disk := errors.New("disk full")
		h.fail = disk
		if _, err := h.get(7, "a", ""); !errors.Is(err, disk) {
			t.Fatalf("given without a disk: %v", err)
		}
		if len(h.Allocations(7)) != 0 {
			t.Fatal("kept what was not persisted")
		}
		if _, err := h.CarveSubnet(t.Context()); !errors.Is(err, disk) {
			t.Fatalf("carved without a disk: %v", err)
		}
		h.fail = nil
		h.must(7, "a", "")
		if h.Counts().Persisting != 2 {
			t.Fatalf("counts %+v", h.Counts())
		}
	})
}

func TestRefusedSubnets(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		l.network(7)
		for p, text := range map[string]string{
			"10.32.4.0/24":   "overlaps",
			"10.32.0.1/20":   "write 10.32.0.0/20",
			"224.0.0.0/8":    "no addresses for hosts",
			"10.0.0.0/7":     "length /7",
			"10.200.0.0/30":  "length /30",
			"fd00::/64":      "not an IPv4 range",
			"10.47.240.0/20": "in the share of host",
		} {
			err := l.hosts[0].JoinNetwork(99, netip.MustParsePrefix(p), true)
			if p == "10.47.240.0/20" && l.hosts[0].share(0, l.hosts[1].id) == 0 {
				t.Fatal("the second host has no share of the cluster's range")
			}
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v", p, err)
			}
		}
		if err := l.hosts[0].JoinNetwork(0, netip.MustParsePrefix("10.99.0.0/20"), true); err == nil {
			t.Error("VNI 0")
		}
		if err := l.hosts[1].Found(clusterRange, ula); !errors.Is(err, ring.ErrFounded) {
			t.Errorf("founded twice: %v", err)
		}
	})
}

// The same subnet created on two sides of a partition: when they meet, one gives up what it does
// not use, and what both use is shown.
func TestSubnetCreatedTwice(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		p := netip.MustParsePrefix("192.168.0.0/24")
		l.split(1)
		for _, h := range l.hosts {
			l.check(h.JoinNetwork(9, p, true))
			h.must(9, "a", "")
		}
		l.heal()
		later(time.Minute)
		if n := l.hosts[0].share(9, l.hosts[1].id); n >= 129 {
			t.Fatalf("the second founder owns %d", n)
		}
		c := l.hosts[0].Conflicts()
		if len(c) != 1 || c[0].First != netip.MustParseAddr("192.168.0.2") || c[0].Last != c[0].First || c[0].Other != l.hosts[1].id {
			t.Fatalf("conflicts %v", c)
		}
		if a, b := l.hosts[0].must(9, "b", ""), l.hosts[1].must(9, "b", ""); a == b {
			t.Fatalf("%s given twice after they met", a.IP4)
		}
		l.check(l.hosts[1].Release(9, "a"))
		later(time.Minute)
		if c := l.hosts[0].Conflicts(); len(c) != 0 {
			t.Fatalf("conflicts %v", c)
		}
	})
}

func TestCheckRange(t *testing.T) {
	r := netip.MustParsePrefix("10.32.0.0/12")
	for route, overlap := range map[string]bool{
		"0.0.0.0/0": false, "10.0.0.0/8": false, "10.32.0.0/12": true, "10.33.0.0/16": true, "10.48.0.0/16": false, "192.168.0.0/16": false,
	} {
		err := CheckRange(r, []netip.Prefix{netip.MustParsePrefix(route)})
		if (err != nil) != overlap || err != nil && !strings.Contains(err.Error(), route) {
			t.Errorf("%s: %v", route, err)
		}
	}
}

func TestGarbageIsCounted(t *testing.T) {
	s := New(Config{Self: ident.HostID{1}})
	other := ident.HostID{2}
	for _, c := range []struct {
		scope uint32
		key   string
		value []byte
	}{
		{7, "ring/10.0.0.0/8 ", nil},
		{7, "ring/10.0.0.1/20", nil},
		{7, "ring/10.0.0.0/20", []byte{0xff}},
		{0, "ring/10.32.0.0/28", []byte{0xa0}},
		{7, "ip/x", []byte{1, 2, 3}},
		{0, "sub/70000", put32(1)},
		{0, "sub/07", put32(1)},
		{7, "ip/" + strings.Repeat("x", 200), put32(1)},
	} {
		before := s.Counts().BadValues
		s.OnChange(c.scope, other, c.key, c.value, false)
		if s.Counts().BadValues != before+1 {
			t.Errorf("%s: not counted", c.key)
		}
	}
	if err := s.HandleAsk(other, []byte{0xff, 0}); err == nil || s.Counts().BadAsks != 1 {
		t.Error("bad ask not counted")
	}
}
