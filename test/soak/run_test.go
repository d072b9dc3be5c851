//go:build soak

package soak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/load"
	"github.com/weft-net/weft/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	network = "soak"
	group   = "239.55.55.55"
	// burst is how long traffic flows between two samples.
	burst = 10 * time.Second
	// warmUp is how many bursts go before the first sample: buffers, sessions and tables are then what they stay.
	warmUp = 3
	// rest is what hosts get before they are looked at without traffic; restMost bounds the waiting for what is slow to end.
	rest     = 20 * time.Second
	restMost = 3 * time.Minute
)

// carrier is a host with an agent in its own attachment.
type carrier struct {
	*rig.Host
	agent *rig.Process
	addr  netip.Addr
}

// TestSoak sends PACKETS (100 million) packets over the underlay in bursts, with members that come and go, links that are
// cut and healed, and keys that change, and looks at every daemon between the bursts. RATE (1) multiplies what is sent.
// What it found goes to OUT (docs/soak.md of a whole run; - for standard output).
func TestSoak(t *testing.T) {
	want, err := strconv.ParseFloat(orElse(os.Getenv("PACKETS"), "1e8"), 64)
	if err != nil || want < 1e5 {
		t.Fatalf("PACKETS=%s: want a number from 100000 up", os.Getenv("PACKETS"))
	}
	rate, err := strconv.ParseFloat(orElse(os.Getenv("RATE"), "1"), 64)
	if err != nil || rate <= 0 || rate > 20 {
		t.Fatalf("RATE=%s: want a factor up to 20", os.Getenv("RATE"))
	}
	s := begin(t)
	began := time.Now()
	var sent0 uint64
	for round := 0; ; round++ {
		if round == warmUp {
			rig.Pause(t, rest)
			for i, v := range s.look(began) {
				s.found[i].Before = v
			}
			began, sent0 = time.Now(), s.packets()
		}
		s.round(round, rate)
		if round < warmUp {
			continue
		}
		for i, v := range s.look(began) {
			s.found[i].Samples = append(s.found[i].Samples, v)
		}
		sent := s.packets() - sent0
		t.Logf("%v: %.1f of %.1f million packets, %s", time.Since(began).Round(time.Second), float64(sent)/1e6, want/1e6, s.last())
		if float64(sent) >= want {
			break
		}
	}
	sent, took := s.packets()-sent0, time.Since(began)
	s.rest(began)
	s.report(sent, took)
}

func orElse(v, otherwise string) string {
	if v == "" {
		return otherwise
	}
	return v
}

// soaking is a run.
type soaking struct {
	t     *testing.T
	u     *rig.Underlay
	all   []*rig.Host
	hosts []*carrier
	guest *rig.Host // that comes to the network and goes
	found []Host

	run       uint32
	delivered uint64 // datagrams, at all receivers
	faults    int
	guests    int
}

// begin makes five hosts in a cloud that drops multicast: four with agents, one that comes and goes.
func begin(t *testing.T) *soaking {
	s := &soaking{t: t}
	w := rig.New(t)
	s.u = w.Cloud()
	for i := range 5 {
		s.all = append(s.all, s.u.Host(fmt.Sprintf("h%d", i+1)))
	}
	rig.MulticastProbe(t, s.all[0], s.all[1])
	rig.Found(t, s.all...)
	s.all[0].MustWeft("network", "create", network)
	for _, h := range s.all[1:] {
		s.create(h)
	}
	for i, h := range s.all[:4] {
		c := &carrier{Host: h}
		c.agent = h.RunWith([]string{"--network", network, "--name", fmt.Sprintf("a%d", i+1)}, h.WeftPath(), "bench", "agent")
		s.ask(c, load.Request{Op: load.OpOpen, Interface: "weft0"})
		at, err := h.Attachment(fmt.Sprintf("a%d", i+1))
		if err != nil {
			t.Fatal(err)
		}
		c.addr = netip.MustParsePrefix(at.IPs[0]).Addr()
		if i > 0 {
			s.ask(c, load.Request{Op: load.OpJoin, Group: netip.MustParseAddr(group)})
		}
		s.hosts = append(s.hosts, c)
		s.found = append(s.found, Host{Name: h.Name})
	}
	s.guest = s.all[4]
	s.found = append(s.found, Host{Name: s.guest.Name})
	rig.AwaitMembers(t, 10*time.Second, s.all[0], group, 3)
	return s
}

// create takes the network up on a host, once the host has heard of it.
func (s *soaking) create(h *rig.Host) {
	s.t.Helper()
	rig.Eventually(s.t, 30*time.Second, func() error {
		if r := h.Weft("network", "create", network); r.Code != 0 {
			return fmt.Errorf("%s: %s", h.Name, r.Stderr)
		}
		return nil
	})
}

// tell sends a request to an agent, hear takes its answer; ask does both.
func (s *soaking) tell(c *carrier, r load.Request) {
	s.t.Helper()
	var b bytes.Buffer
	if err := load.WriteLine(&b, r); err != nil {
		s.t.Fatal(err)
	}
	c.agent.Send(strings.TrimSpace(b.String()))
}

func (s *soaking) hear(c *carrier, d time.Duration) (reply load.Reply) {
	s.t.Helper()
	line := c.agent.ExpectLine("^{", d)
	if err := json.Unmarshal([]byte(line), &reply); err != nil {
		s.t.Fatalf("%s: %v in %q", c.Name, err, line)
	}
	return reply
}

func (s *soaking) ask(c *carrier, r load.Request) load.Reply {
	s.t.Helper()
	s.tell(c, r)
	reply := s.hear(c, r.Takes()+10*time.Second)
	if reply.Error != "" {
		s.t.Fatalf("%s: %s: %s", c.Name, r.Op, reply.Error)
	}
	return reply
}

// round is one burst, with what goes wrong in it: every host sends at once, to the group, to one as super-frames, to one
// datagram by datagram, and by TCP.
func (s *soaking) round(n int, rate float64) {
	s.t.Helper()
	s.run++
	ms := int(burst.Milliseconds())
	flows := []load.Request{
		{Op: load.OpSend, To: netip.MustParseAddr(group), PayloadBytes: 1372, Rate: 5000 * rate, DurationMS: ms, Run: s.run},
		{Op: load.OpSend, To: s.hosts[2].addr, PayloadBytes: 1372, Rate: 22000 * rate, DurationMS: ms, Run: s.run, Super: true},
		{Op: load.OpSend, To: s.hosts[0].addr, PayloadBytes: 200, Rate: 7000 * rate, DurationMS: ms, Run: s.run},
		{Op: load.OpTCP, To: s.hosts[1].addr, DurationMS: ms, MaxMbit: int(math.Ceil(65 * rate))},
	}
	for i, c := range s.hosts {
		s.tell(c, flows[i])
	}
	undo := s.disturb(n)
	rig.Pause(s.t, burst/3)
	undo()
	for i, c := range s.hosts {
		// A connection may break while its host is cut off: that is what cutting is for.
		if r := s.hear(c, flows[i].Takes()+10*time.Second); r.Error != "" && flows[i].Op != load.OpTCP {
			s.t.Fatalf("%s: %s: %s", c.Name, flows[i].Op, r.Error)
		}
	}
	for _, q := range []struct{ at, port int }{{1, load.PortGroup}, {2, load.PortGroup}, {3, load.PortGroup}, {2, load.PortSuper}, {0, load.PortCount}} {
		r := s.ask(s.hosts[q.at], load.Request{Op: load.OpCount, Port: q.port, Run: s.run})
		if r.Tally == nil || r.Tally.Datagrams == 0 {
			s.t.Fatalf("round %d: nothing came at %s, port %d", n, s.hosts[q.at].Name, q.port)
		}
		s.delivered += r.Tally.Datagrams
	}
	s.heal()
}

// disturb begins what happens in a round besides its traffic, and returns what ends it.
func (s *soaking) disturb(n int) (undo func()) {
	s.t.Helper()
	var undos []func()
	h := s.all
	switch n % 6 {
	case 0:
		undos = append(undos, s.u.Block(h[0], h[2])) // relayed
	case 1:
		undos = append(undos, s.u.Cut(h[3]))
	case 2:
		undos = append(undos, s.u.BlockUDP(h[1], h[2]))
	case 3:
		undos = append(undos, s.u.Loss(3))
	}
	if n%6 < 4 {
		s.faults++
	}
	// A member comes and goes with its attachment: namespace, addresses, memberships, state.
	visitor := h[1+n%3].RunWith([]string{"--network", network, "--name", "visitor"}, h[0].WeftPath(), "recv", group+":9")
	undos = append(undos, func() {
		visitor.Signal(syscall.SIGKILL)
		visitor.Wait(5 * time.Second)
	})
	// A host gives the network up: all others change their sender keys (at most once in 10 s).
	if n%2 == 0 {
		undos = append(undos, func() {
			if r := s.guest.Weft("network", "rm", network); r.Code == 0 {
				s.guests++
			} else {
				s.t.Logf("round %d: %s", n, strings.TrimSpace(r.Stderr))
			}
			s.create(s.guest)
		})
	}
	if n%20 == 7 {
		undos = append(undos, func() { h[0].MustWeft("token", "rotate") })
	}
	return func() {
		for _, f := range undos {
			f()
		}
	}
}

// heal waits until all links are direct again and every host knows every attachment: only what is alike can be compared.
func (s *soaking) heal() {
	s.t.Helper()
	s.u.Heal()
	rig.Eventually(s.t, 90*time.Second, func() error {
		for _, h := range s.all {
			links, err := h.Links()
			if err != nil {
				return err
			}
			for _, l := range links {
				if l.Path != "direct" {
					return fmt.Errorf("%s reaches %s %s (%s)", h.Name, l.Host, l.Path, l.Reason)
				}
			}
			at, err := h.Attachments()
			if err != nil {
				return err
			}
			if len(at) != 4 {
				return fmt.Errorf("%s knows %d attachments, want 4: %v", h.Name, len(at), at)
			}
		}
		return nil
	})
}

// rest looks at all hosts without traffic, again until they have no more descriptors and goroutines than before: some
// things are slow to end.
func (s *soaking) rest(began time.Time) {
	s.t.Helper()
	rig.Pause(s.t, rest)
	for limit := time.Now().Add(restMost); ; rig.Pause(s.t, 5*time.Second) {
		more := false
		for i, v := range s.look(began) {
			h := &s.found[i]
			h.After = v
			more = more || v.Descriptors > h.Before.Descriptors || v.Goroutines > h.Before.Goroutines
		}
		if !more || time.Now().After(limit) {
			return
		}
	}
}

// look takes a sample of every host once its heap was collected twice since the traffic: what is in use, then, is kept by
// something. Before that every host opens a stream to every other one: sessions without use end after two minutes, and how
// many there are must not be left to chance.
func (s *soaking) look(began time.Time) []Sample {
	s.t.Helper()
	for i, h := range s.all {
		for _, o := range s.all[i+1:] {
			rig.Eventually(s.t, 30*time.Second, func() error {
				if r := h.Weft("ping", "--stream", "-c", "1", "-W", "5s", o.Name); r.Code != 0 {
					return fmt.Errorf("%s opens no stream to %s: %s%s", h.Name, o.Name, r.Stdout, r.Stderr)
				}
				return nil
			})
		}
	}
	rig.Pause(s.t, 3*time.Second) // two that opened a session at the same time give one up
	var out []Sample
	for _, h := range s.all {
		now, err := look(h)
		for collections := now.collections; err == nil && now.collections < collections+2; {
			now, err = look(h) // each look makes some garbage
		}
		if err != nil {
			s.t.Fatalf("%s: %v", h.Name, err)
		}
		now.At = time.Since(began)
		out = append(out, now.Sample)
	}
	return out
}

// last is the latest sample in a few words.
func (s *soaking) last() string {
	all := All(s.found)
	v := all.Samples[len(all.Samples)-1]
	return fmt.Sprintf("RSS %.1f MB, heap %.2f MB, %d descriptors, %d goroutines", float64(v.RSS)/1e6, float64(v.Heap)/1e6, v.Descriptors, v.Goroutines)
}
