package test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// flows are a ping each way, a TCP stream and a multicast stream between attachments of hosts, for some seconds.
type flows struct {
	t       *testing.T
	pings   []*rig.Process
	listen  *rig.Process
	send    *rig.Process
	from    *agent
	to      []*agent
	text    string
	pinged  int
	rate    int // multicast datagrams a second
	count   int
	seconds int
}

const (
	flowGroup = "239.8.8.8"
	mayLose   = 5 // of a ping each 10 ms
	mayPause  = 50 * time.Millisecond
)

// startFlows starts all flows between agents on different hosts: the first sends, and all others hear it.
func startFlows(t *testing.T, seconds int, agents ...*agent) *flows {
	t.Helper()
	f := &flows{t: t, from: agents[0], to: agents[1:], text: fmt.Sprintf("rtp%d", time.Now().UnixNano()), pinged: 100 * seconds, rate: 500, seconds: seconds}
	f.count = f.rate * seconds
	a, b := agents[0], agents[1]
	for _, x := range f.to {
		x.do("join %s", flowGroup)
	}
	rig.AwaitMembers(t, 10*time.Second, a.host, flowGroup, len(f.to))
	id := strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
	f.listen = b.host.Run("listen-"+id, python, script(t, "stream.py"), "listen", "5001")
	f.listen.ExpectLine("^ready$", 10*time.Second)
	listener := &agent{Process: f.listen, t: t, host: b.host, name: "listen-" + id}
	f.send = a.host.Run("send-"+id, python, script(t, "stream.py"), "send", listener.ip4(), "5001", strconv.Itoa(seconds))
	f.send.ExpectLine("^ready$", 10*time.Second)
	for _, p := range [][2]*agent{{a, b}, {b, a}} {
		p := p[0].host.Run("ping-"+id, "ping", "-i", "0.01", "-c", strconv.Itoa(f.pinged), "-W", "1", p[1].ip4())
		p.ExpectLine("icmp_seq=", 10*time.Second)
		f.pings = append(f.pings, p)
	}
	f.from.do("flow %s %d %d 200 %s", flowGroup, f.count, seconds, f.text)
	f.to[0].awaitGot(f.text+"-1", 5*time.Second)
	return f
}

// check waits for the end of the flows and holds them to what an upgrade may cost.
func (f *flows) check() {
	t := f.t
	t.Helper()
	limit := time.Duration(f.seconds+20) * time.Second
	for _, p := range f.pings {
		p.Wait(limit)
		seen := map[string]int{}
		for _, l := range p.Lines() {
			if _, after, ok := strings.Cut(l, "icmp_seq="); ok && strings.Contains(l, "time=") {
				seen[strings.Fields(after)[0]]++
			}
		}
		lost := f.pinged - len(seen)
		t.Logf("%s: %d of %d lost", p, lost, f.pinged)
		if lost > mayLose {
			t.Errorf("%s: %d of %d lost, at most %d may be", p, lost, f.pinged, mayLose)
		}
		for seq, n := range seen {
			if n > 1 {
				t.Errorf("%s: the answer to %s came %d times", p, seq, n)
			}
		}
	}
	sent := strings.Fields(f.send.ExpectLine("^sent ", limit))
	got := strings.Fields(f.listen.ExpectLine("^got ", limit))
	if sent[1] != got[1] || sent[2] != got[2] {
		t.Errorf("TCP: sent %v, got %v", sent[1:], got[1:])
	}
	t.Logf("TCP: %s bytes, longest silence %s ms", got[1], got[3])
	f.from.ExpectLine("^flowed "+f.text, limit)
	for _, a := range f.to {
		var distinct, all int
		least := f.count - int(mayPause.Seconds()*float64(f.rate))
		_ = rig.Poll(3*time.Second, func() error {
			if distinct, all = a.flowed(f.text); distinct < f.count {
				return fmt.Errorf("%d", distinct)
			}
			return nil
		})
		t.Logf("multicast at %s: %d of %d", a.name, distinct, f.count)
		if distinct < least || all != distinct {
			t.Errorf("multicast at %s: %d of %d, %d of them duplicates; at least %d must come, and none twice", a.name, distinct, f.count, all-distinct, least)
		}
		a.do("leave %s", flowGroup)
	}
}

// TestHandoverKeepsTraffic: one host after the other is upgraded, and back, under load, in the middle of a ping each
// 10 ms in both directions, a TCP stream and a multicast stream. Nobody notices: no handshake, no link that goes down.
func TestHandoverKeepsTraffic(t *testing.T) {
	one, two := rig.Version(t, "v1.0.0-one"), rig.Version(t, "v1.0.0-two")
	_, h := cloud(t, 3)
	agents := []*agent{startAgent(t, h[0], "a1"), startAgent(t, h[1], "a2"), startAgent(t, h[2], "a3")}
	f := startFlows(t, 12, agents...)
	for round, host := range []*rig.Host{h[0], h[1], h[2], h[0]} {
		bin := two
		if round == 3 {
			bin = one
		}
		host.Upgrade(bin)
		s, err := host.Status()
		if err != nil {
			t.Fatal(err)
		}
		if s.HandedOver == nil {
			t.Fatalf("%s: not handed over: %+v", host.Name, s)
		}
		t.Logf("%s: %s after %s, frames waited %.1f ms", host.Name, s.Version, s.HandedOver.Version, s.HandedOver.PauseMS)
		rig.Pause(t, time.Second)
	}
	f.check()
	rig.AllKnowAll(t, 20*time.Second, h...)
}
