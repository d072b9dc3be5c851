package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// inLoanLab is inLab with a network on two hosts that stay and a third that borrows.
func inLoanLab(t *testing.T, fn func(t *testing.T, l *lab, p netip.Prefix)) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		p := l.network(7)
		third := &labHost{lab: l, id: [16]byte{3}, disk: map[uint32]map[string][]byte{}, borrows: true}
		l.hosts = append(l.hosts, third)
		third.start()
		l.heal()
		l.check(third.JoinNetwork(7, p, false))
		later(3 * time.Second)
		fn(t, l, p)
	})
}

// lent fails unless all hosts know so many loans to the third.
func (l *lab) lent(n int) {
	l.t.Helper()
	for _, h := range l.hosts {
		if got := h.Lent(l.hosts[2].id); len(got) != n {
			l.t.Fatalf("host %s knows of %v as lent, want %d", h.id.Short(), got, n)
		}
	}
}

// TestBorrow: a host that comes and goes owns nothing, has an address at once, by choice too, keeps it over a restart, and gives it
// back; nobody else is given it meanwhile.
func TestBorrow(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, p netip.Prefix) {
		first, third := l.hosts[0], l.hosts[2]
		began := time.Now()
		a := third.must(7, "web", "").IP4.Addr()
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("an address took %v", d)
		}
		want := p.Addr().Next().Next().Next().Next().Next().Next().Next().Next().Next().Next().String()
		if b := third.must(7, "db", want).IP4.Addr(); b.String() != want {
			t.Errorf("%s, want %s", b, want)
		}
		if _, err := first.get(7, "same", want); err == nil || !errors.Is(err, ErrInUse) {
			t.Errorf("an address that is lent was given: %v", err)
		}
		l.lent(2)
		for _, vni := range []uint32{0, 7} {
			if n := first.share(vni, third.id); n != 0 {
				t.Errorf("it owns %d of network %d", n, vni)
			}
		}
		third.stop()
		<-third.done
		third.start()
		l.heal()
		l.check(third.JoinNetwork(7, p, false))
		later(5 * time.Second)
		if got := third.must(7, "web", "").IP4.Addr(); got != a {
			t.Errorf("after a restart %s, want %s", got, a)
		}
		l.lent(2)
		l.check(third.Release(7, "web"))
		l.check(third.Release(7, "db"))
		later(5 * time.Second)
		l.lent(0)
		if _, err := first.get(7, "same", want); err != nil {
			t.Errorf("an address that was given back: %v", err)
		}
	})
}

// TestBorrowAll: a subnet can be lent to the last address, and who comes later is told why there is none.
func TestBorrowAll(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		first, second, third := l.hosts[0], l.hosts[1], l.hosts[2]
		p := netip.MustParsePrefix("10.99.0.0/29") // 5 addresses to give
		for i, h := range l.hosts {
			l.check(h.JoinNetwork(8, p, i == 0))
		}
		later(5 * time.Second)
		got := map[netip.Addr]bool{}
		for i := range 5 {
			got[third.must(8, fmt.Sprint("k", i), "").IP4.Addr()] = true
		}
		if len(got) != 5 {
			t.Fatalf("%v, want 5 addresses", got)
		}
		for _, h := range []*labHost{first, second, third} {
			began := time.Now()
			if _, err := h.get(8, "more", ""); !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "all 8 are in use") {
				t.Errorf("the sixth of five on host %s: %v", h.id.Short(), err)
			}
			if d := time.Since(began); d > 0 {
				t.Errorf("host %s waited %v in vain", h.id.Short(), d)
			}
		}
	})
}

// TestBorrowInSubnet: of several subnets, the one that is asked for, also right after an address of another was lent to the same key.
func TestBorrowInSubnet(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		third := l.hosts[2]
		p, q := netip.MustParsePrefix("10.97.0.0/24"), netip.MustParsePrefix("10.98.0.0/24")
		for i, h := range l.hosts {
			l.check(h.JoinNetwork(8, p, i == 0))
			l.check(h.JoinNetwork(8, q, i == 0))
		}
		later(5 * time.Second)
		for _, in := range []netip.Prefix{q, p, q} {
			third.fails(errors.New("disk full")) // what is lent is not taken
			_, _ = third.AllocateIn(t.Context(), 8, in, "web", netip.Addr{})
			third.fails(nil)
			other := p
			if in == p {
				other = q
			}
			a, err := third.AllocateIn(t.Context(), 8, other, "web", netip.Addr{})
			if err != nil || !other.Contains(a.IP4.Addr()) {
				t.Fatalf("%v, %v, want one of %s", a, err, other)
			}
			l.check(third.Release(8, "web"))
		}
	})
}

// TestLenderAway: an ephemeral host can leave though a lender is not reached, and comes to rest meanwhile.
func TestLenderAway(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		third := l.hosts[2]
		for i := range 4 {
			third.must(7, fmt.Sprint("k", i), "")
		}
		l.split(2)
		for i := range 4 {
			l.check(third.Release(7, fmt.Sprint("k", i)))
		}
		before := third.Counts().AsksSent
		l.check(third.GiveBack(t.Context()))
		if n := third.Counts().AsksSent - before; n > 0 {
			t.Errorf("%d words to nobody", n)
		}
		if len(third.Lent(third.id)) == 0 {
			t.Error("all is back: nothing is tested")
		}
	})
}

// TestBorrowerRemoved: what was lent to a host that is removed is given to others.
func TestBorrowerRemoved(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		first, second, third := l.hosts[0], l.hosts[1], l.hosts[2]
		a := third.must(7, "web", "").IP4.Addr()
		third.kill()
		later(time.Hour)
		if _, err := first.get(7, "n", a.String()); err == nil {
			t.Fatal("an address was given to another while its host may come back")
		}
		l.check(first.HostRemoved(third.id, true))
		l.check(second.HostRemoved(third.id, false))
		later(3 * time.Second)
		if got := first.must(7, "n", a.String()).IP4.Addr(); got != a {
			t.Fatalf("%s, want %s", got, a)
		}
		if len(first.Lent(third.id))+len(second.Lent(third.id)) > 0 {
			t.Error("still lent")
		}
		for _, h := range []*labHost{first, second} {
			for scope, table := range h.disk {
				for key := range table {
					if strings.HasPrefix(key, keyLend) {
						t.Errorf("%s is left in scope %d", key, scope)
					}
				}
			}
		}
	})
}

// TestLenderGone: when the lender is removed or leaves, whoever has the address next gives it to nobody.
func TestLenderGone(t *testing.T) {
	for _, how := range []string{"removed", "left"} {
		t.Run(how, func(t *testing.T) {
			inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
				first, second, third := l.hosts[0], l.hosts[1], l.hosts[2]
				p := netip.MustParsePrefix("10.99.0.0/29")
				for i, h := range l.hosts {
					l.check(h.JoinNetwork(8, p, i == 0))
				}
				later(5 * time.Second)
				var mine []netip.Addr
				for i := range 3 {
					mine = append(mine, third.must(8, fmt.Sprint("k", i), "").IP4.Addr())
				}
				if how == "left" {
					l.check(first.GiveBack(t.Context()))
				} else {
					first.kill()
					for _, h := range []*labHost{second, third} {
						l.check(h.HostRemoved(first.id, h == second))
					}
				}
				later(30 * time.Second)
				for i := range 2 {
					if a := second.must(8, fmt.Sprint("n", i), "").IP4.Addr(); slices.Contains(mine, a) {
						t.Fatalf("%s is used twice", a)
					}
				}
				if _, err := second.get(8, "n", ""); err == nil {
					t.Fatal("six addresses of five")
				}
				l.check(third.Release(8, "k0"))
				later(5 * time.Second)
				if a := second.must(8, "n", "").IP4.Addr(); a != mine[0] {
					t.Errorf("%s, want %s, which was given back", a, mine[0])
				}
			})
		})
	}
}

// TestBackLate: word that a loan is not needed comes late, when the key has been lent one again, or the same: what is in use stays lent.
func TestBackLate(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		first, second, third := l.hosts[0], l.hosts[1], l.hosts[2]
		third.must(7, "web", "")
		third.holds(true)
		l.check(third.Release(7, "web"))
		later(2 * time.Second)
		late := third.holds(false)
		if len(late) == 0 {
			t.Fatal("nothing was given back")
		}
		bring := func() {
			for _, b := range late {
				l.check(first.HandleAsk(third.id, b))
				l.check(second.HandleAsk(third.id, b))
			}
			later(time.Second)
		}
		a := third.must(7, "web", "").IP4.Addr()
		terms := func() string { // of a
			for _, h := range []*labHost{first, second} {
				if v := h.row(7, loanKey(third.id, "web")); len(v) > 0 && toAddr(binary.BigEndian.Uint32(v)) == a {
					return string(v)
				}
			}
			return ""
		}
		before := terms()
		bring()
		if got := third.Lent(third.id); !slices.Contains(got, a) || terms() != before {
			t.Fatalf("%s is in use, lent is %v, on terms % x, before % x", a, got, terms(), before)
		}
	})
}

// TestNotTaken: what was lent to a run of the borrower that ended before it took it goes back.
func TestNotTaken(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, p netip.Prefix) {
		third := l.hosts[2]
		third.fails(errors.New("disk full"))
		if _, err := third.get(7, "web", ""); err == nil {
			t.Fatal("an address that is not on disk")
		}
		l.lent(1)
		third.stop()
		<-third.done
		third.fails(nil)
		third.holds(true)
		third.start()
		l.heal()
		l.check(third.JoinNetwork(7, p, false))
		if a, err := third.get(7, "web", ""); err == nil {
			t.Errorf("%s was taken, which the run before may have given back", a.IP4)
		}
		third.holds(false)
		later(5 * time.Second)
		l.lent(0)
		third.must(7, "web", "")
	})
}

// TestHold: a host without its lease takes no address, says why, and waits for the lease as long as the caller does. What it has it keeps.
func TestHold(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		third := l.hosts[2]
		a := third.must(7, "web", "")
		third.Hold("no majority")
		if _, err := third.get(7, "db", ""); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "no majority") {
			t.Errorf("held, and: %v", err)
		}
		if got := third.must(7, "web", ""); got != a {
			t.Errorf("%v, want %v", got, a)
		}
		time.AfterFunc(2*time.Second, func() { third.Hold("") })
		third.must(7, "db", "")
	})
}

// TestBorrowerOwnsNothing: it makes no networks, is nobody's heir, and nobody who leaves gives to it.
func TestBorrowerOwnsNothing(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		first, second, third := l.hosts[0], l.hosts[1], l.hosts[2]
		if _, err := third.CarveSubnet(t.Context()); !errors.Is(err, ErrBorrows) {
			t.Errorf("carve: %v", err)
		}
		if err := third.JoinNetwork(9, netip.MustParsePrefix("10.98.0.0/24"), true); !errors.Is(err, ErrBorrows) {
			t.Errorf("create: %v", err)
		}
		second.kill()
		l.check(third.HostRemoved(second.id, true))
		l.check(first.HostRemoved(second.id, false))
		l.check(first.GiveBack(t.Context()))
		later(time.Minute)
		if n := third.share(0, third.id) + third.share(7, third.id); n != 0 {
			t.Errorf("it owns %d", n)
		}
		if puts, err := third.Bequeath(first.id, nil, nil); err == nil {
			t.Errorf("names itself the heir: %v", puts)
		}
	})
}

// TestBorrowerLeaves: all it borrowed is back with the lenders before it goes.
func TestBorrowerLeaves(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, _ netip.Prefix) {
		third := l.hosts[2]
		third.must(7, "web", "")
		l.check(third.Release(7, "web"))
		l.check(third.GiveBack(t.Context()))
		l.lent(0)
	})
}

// TestLoanRecovered: a lender whose disk was put back hears from others what it had lent.
func TestLoanRecovered(t *testing.T) {
	inLoanLab(t, func(t *testing.T, l *lab, p netip.Prefix) {
		third := l.hosts[2]
		a := third.must(7, "web", "").IP4.Addr()
		for _, h := range l.hosts[:2] {
			for key, v := range h.disk[7] {
				if !strings.HasPrefix(key, keyLend) {
					continue
				}
				h.stop()
				<-h.done
				delete(h.disk[7], key)
				h.start()
				l.check(h.JoinNetwork(7, p, false))
				later(time.Second)
				h.Recovered(7, key, v, false)
				later(3 * time.Second)
				if string(h.row(7, key)) != string(v) || !slices.Contains(h.Lent(third.id), a) {
					t.Errorf("%s is lent no more", a)
				}
				return
			}
		}
		t.Fatal("nobody lent it")
	})
}
