package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/bus"
	"github.com/weft-net/weft/test/rig"
)

// TestBusByTCP: members that UDP does not reach get everything by TCP.
func TestBusByTCP(t *testing.T) {
	t.Run("filtered", busFiltered)
	t.Run("ends", busUDPEnds)
	t.Run("nat", busBehindNATs)
}

// busFiltered: the underlay carries no UDP between any two hosts, and loses one packet of a hundred.
func busFiltered(t *testing.T) {
	w := rig.New(t)
	u := w.Cloud()
	hosts := busHosts(u, 4)
	for i, a := range hosts {
		for _, b := range hosts[:i] {
			u.BlockUDP(a, b)
		}
	}
	if n := rig.Reached(t, hosts[0], hosts[1], hosts[1].IP, 3, 100); n != 0 {
		t.Fatalf("%d datagrams of 3 pass: the test proves nothing", n)
	}
	c := u.Capture(hosts[0])
	r := startBus(t, hosts, 2, 0, times(50_000, 1_000_000), 0)
	r.finish(2 * time.Minute)
	c.Stop()
	if c.Grep("load.x") {
		t.Error("the subject is on the wire in the clear")
	}
	if r.pub.Count("^paths: 0 udp, 6 tcp, 0 member$") != 1 {
		t.Errorf("not all are reached by TCP: %v", r.pub.Lines())
	}

	u.Loss(1)
	startBus(t, hosts, 2, 0, times(20_000, 200_000), 0).finish(2 * time.Minute)
}

// busUDPEnds: in mid-stream UDP ends for one subscriber, and then for all of another host; and is back. Nobody is without messages for a second.
func busUDPEnds(t *testing.T) {
	w := rig.New(t)
	u := w.Cloud()
	hosts := busHosts(u, 4)
	const rate, seconds = 5000, 12
	r := startBus(t, hosts, 1, 0, rate*seconds, rate)
	rig.Pause(t, time.Second)
	u.BlockUDP(hosts[0], hosts[2])
	r.pub.ExpectLine("^path of subscribe .*: tcp ", time.Second)
	rig.Pause(t, 2*time.Second)
	for i := range 3 {
		u.BlockUDP(hosts[3], hosts[i])
	}
	rig.Pause(t, 2*time.Second)
	u.Heal()
	silence := r.finish(time.Minute)
	if ms := slices.Max(silence); ms >= 1000 {
		t.Errorf("a subscriber was without messages for %d ms", ms)
	}
	if r.pub.Count("^paths: 3 udp, 0 tcp, 0 member$") != 1 {
		t.Errorf("UDP is back, and not all are reached by it: %v", r.pub.Lines())
	}
	if n := r.pub.Count("^path of .*: tcp "); n != 2 {
		t.Errorf("%d members were reached by TCP for a while, want 2", n)
	}
}

// busBehindNATs: publisher and one subscriber are behind NATs that draw a new port for each destination, others are not: the two reach each other by one of those. That one is
// killed in mid-stream, and another takes its place.
func busBehindNATs(t *testing.T) {
	w := rig.New(t)
	u := w.Cloud()
	open := busHosts(u, 3)
	n1, n2 := u.NAT("n1", rig.NATOptions{Symmetric: true}), u.NAT("n2", rig.NATOptions{Symmetric: true})
	p, s := n1.Host("p"), n2.Host("s")
	const rate, seconds = 2000, 15
	r := &busRun{t: t, messages: rate * seconds}
	token := bus.NewToken()
	for i, h := range append(slices.Clone(open), s) {
		seed := open[0].IP.String()
		if i == 0 {
			seed = "-"
		}
		r.subs = append(r.subs, busMember(t, h, "subscribe", token, seed, r.messages))
		r.subs[i].ExpectLine("^subscribed$", 20*time.Second)
	}
	r.pub = busMember(t, p, "publish", token, open[0].IP, len(r.subs), 0, r.messages, rate, len(r.subs)-1)
	between := r.pub.ExpectLine("^path of subscribe .*: member subscribe ", 30*time.Second)
	r.pub.ExpectLine("^ready$", 30*time.Second)
	if !strings.Contains(between, fmt.Sprintf("/%d: member", r.subs[3].PID())) {
		t.Errorf("%s: that is not the one behind the other NAT", between)
	}
	rig.Pause(t, 2*time.Second)
	i := slices.IndexFunc(r.subs, func(p *rig.Process) bool { return strings.HasSuffix(between, fmt.Sprintf("/%d", p.PID())) })
	if i < 0 || i == 3 {
		t.Fatalf("%s: who is between?", between)
	}
	r.subs[i].Kill9()
	r.subs = slices.Delete(r.subs, i, i+1)
	for i, ms := range r.finish(time.Minute) {
		if ms >= 1000 {
			t.Errorf("subscriber %d was without messages for %d ms", i, ms)
		}
	}
	if n := r.pub.Count("^path of .*: member "); n < 2 {
		t.Errorf("%d paths by a member, want two: the one that was killed, and another", n)
	}
}
