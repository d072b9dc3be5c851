package link

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/snapshot"
)

// TestAdoptedLinkGoesOn: a link that another process exported has the same path, session and length, asks nothing and
// greets nobody, and keeps its appointments.
func TestAdoptedLinkGoesOn(t *testing.T) {
	now := time.Unix(1000, 0)
	ep := netip.MustParseAddrPort("10.0.0.7:6783")
	l := New(now)
	l.SetCandidates([]netip.AddrPort{ep})
	out := l.Established(now, 5, true, Direct(ep))
	for len(out.Pings) > 0 {
		now = now.Add(2 * time.Millisecond)
		next := l.Pong(now, out.Pings[0].ID)
		out.Pings = append(out.Pings[1:], next.Pings...)
		out.Pings = append(out.Pings, l.SetLimit(now, 1472).Pings...)
	}
	if l.Payload() != 1472 || !l.Up(now) {
		t.Fatalf("the link is not made: %d bytes, up %v", l.Payload(), l.Up(now))
	}
	now = now.Add(time.Second)
	s := l.Export(now)
	later := time.Unix(5_000_002, 0) // another process has another clock
	a := Adopt(later, s, []netip.AddrPort{ep})
	if a.Use() != 5 || a.Addr() != l.Addr() || a.RTT() != l.RTT() || a.Payload() != 1472 || !a.Up(later) || a.Reason() != l.Reason() {
		t.Errorf("%+v became %+v", l, a)
	}
	if d := later.Sub(a.Since()) - now.Sub(l.Since()); d != 0 {
		t.Errorf("the state is %v older", d)
	}
	if got := a.SetLimit(later, 1472); len(got.Pings) != 0 {
		t.Errorf("the length is asked again: %+v", got)
	}
	if got := a.Tick(later, Env{}); len(got.Hellos)+len(got.Pings)+len(got.Release) != 0 || got.Changed {
		t.Errorf("the first tick asks for %+v", got)
	}
	rekeyed := false
	for d := time.Second; d <= rekeyAfter; d += time.Second {
		got := a.Tick(later.Add(d), Env{})
		for _, p := range got.Pings {
			if p.ID < l.nextID {
				t.Errorf("ping %d was asked before", p.ID)
			}
			a.Pong(later.Add(d+time.Millisecond), p.ID)
		}
		rekeyed = rekeyed || len(got.Hellos) > 0
	}
	if !rekeyed {
		t.Error("the session's age was forgotten: it is not renewed")
	}
}

// TestAdoptWithoutSession: a link whose sessions could not be taken over begins anew.
func TestAdoptWithoutSession(t *testing.T) {
	now := time.Unix(1000, 0)
	a := Adopt(now, snapshot.Link{Use: 9, State: byte(stateUp), Address: snapshot.Address{Endpoint: netip.MustParseAddrPort("10.0.0.7:6783")}}, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.8:6783")})
	if a.Use() != 0 || a.Up(now) {
		t.Errorf("up without a session: %+v", a)
	}
	a.Tick(now, Env{})
	if out := a.Tick(now.Add(time.Second), Env{}); len(out.Hellos) == 0 {
		t.Error("it greets nobody")
	}
}
