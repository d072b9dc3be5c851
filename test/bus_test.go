package test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/bus"
	"github.com/weft-net/weft/test/rig"
)

// busMember starts this test binary as a member on a host.
func busMember(t *testing.T, h *rig.Host, role string, args ...any) *rig.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return busMemberOf(self, h, role, args...)
}

func busMemberOf(binary string, h *rig.Host, role string, args ...any) *rig.Process {
	h.Setenv(busVariable+"="+role, longVariable+"="+os.Getenv(longVariable)) // a host passes no others of ours on
	cmd := []string{binary}
	for _, a := range args {
		cmd = append(cmd, fmt.Sprint(a))
	}
	return h.Start(cmd...)
}

// busRun is one publisher on the first of some hosts and subscribers on the rest.
type busRun struct {
	t        *testing.T
	pub      *rig.Process
	subs     []*rig.Process
	messages int
}

// startBus starts a run: hearing is how many subscribers must hear multicast before it begins, the rate is in messages a second, 0: all it can.
// confirm is how many must confirm in the end, all if it is not there.
func startBus(t *testing.T, hosts []*rig.Host, each, hearing, messages, rate int, confirm ...any) *busRun {
	t.Helper()
	return startBusAt(t, hosts[0].IP, hosts, each, hearing, messages, rate, confirm...)
}

// startBusAt is startBus with an address of the first host at which the others look for it.
func startBusAt(t *testing.T, seed netip.Addr, hosts []*rig.Host, each, hearing, messages, rate int, confirm ...any) *busRun {
	t.Helper()
	token := bus.NewToken()
	r := &busRun{t: t, messages: messages}
	receivers := each * (len(hosts) - 1)
	r.pub = busMember(t, hosts[0], "publish", append([]any{token, "-", receivers, hearing, messages, rate}, confirm...)...)
	for _, h := range hosts[1:] {
		for range each {
			s := busMember(t, h, "subscribe", token, seed, messages)
			r.subs = append(r.subs, s)
		}
	}
	for _, s := range r.subs {
		s.ExpectLine("^subscribed$", 20*time.Second)
	}
	r.pub.ExpectLine("^ready$", 60*time.Second)
	return r
}

// finish waits for the end and shows that all have what was sent, in its order; it returns the longest silence of each
// subscriber in milliseconds.
func (r *busRun) finish(d time.Duration) (silence []int) {
	r.t.Helper()
	sent := r.pub.ExpectLine("^sent ", d)
	r.t.Log(sent)
	want := strings.Join(strings.Fields(sent)[1:3], " ")
	if !strings.HasPrefix(want, strconv.Itoa(r.messages)+" ") {
		r.t.Fatalf("the publisher sent %s", want)
	}
	for _, s := range r.subs {
		line := s.ExpectLine("^got ", 20*time.Second)
		r.t.Log(line)
		if f := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == ',' }); strings.Join(f[1:3], " ") != want {
			r.t.Errorf("%s: %s, the publisher sent %s", s, line, want)
		} else if ms, err := strconv.Atoi(f[5]); err != nil {
			r.t.Error(err)
		} else {
			silence = append(silence, ms)
		}
	}
	for _, p := range append([]*rig.Process{r.pub}, r.subs...) {
		if code := p.Wait(20 * time.Second); code != 0 {
			r.t.Errorf("%s ended with %d: %v", p, code, p.Errors())
		}
	}
	return silence
}

func busHosts(u *rig.Underlay, n int) (hosts []*rig.Host) {
	for i := range n {
		hosts = append(hosts, u.Host(fmt.Sprintf("h%d", i+1)))
	}
	return hosts
}

// TestBusOnLAN: where the underlay carries multicast, subscribers on other hosts get one packet for all, and with loss, duplicates and
// changed bytes the same messages in the same order.
func TestBusOnLAN(t *testing.T) {
	w := rig.New(t)
	u := w.LAN(rig.LANOptions{})
	hosts := busHosts(u, 4)
	if !rig.Heard(t, hosts[0], hosts[1], netip.MustParseAddrPort("239.255.77.77:7777")) {
		t.Fatal("this underlay carries no multicast: the test proves nothing")
	}
	c := u.Capture(hosts[0])
	r := startBus(t, hosts, 1, 3, times(50_000, 1_000_000), 0)
	r.finish(2 * time.Minute)
	c.Stop()
	group := c.Bytes(fmt.Sprintf("src host %s and dst net 239.192.0.0/14", hosts[0].IP))
	unicast := c.Bytes(fmt.Sprintf("udp and src host %s and dst net 10.0.0.0/8", hosts[0].IP))
	twice := c.Bytes("ip6 and dst net " + busGroups6) // beacons
	t.Logf("%d bytes by multicast, %d by unicast, %d by multicast in IPv6", group, unicast, twice)
	if group < 60*r.messages || unicast > group/5 || twice > group/100 {
		t.Errorf("%d bytes by multicast, %d by unicast, %d by multicast in IPv6: it was not served by multicast in IPv4", group, unicast, twice)
	}
	if c.Grep("load.x") {
		t.Error("the subject is on the wire in the clear")
	}

	u.Loss(10)
	u.Dup(5)
	u.Corrupt(5)
	startBus(t, hosts, 1, 0, times(50_000, 1_000_000), 0).finish(2 * time.Minute)
}

// TestBusInCloud: where multicast is dropped and every host is in a subnet of its own, copies do the same.
func TestBusInCloud(t *testing.T) {
	w := rig.New(t)
	u := w.Cloud()
	hosts := busHosts(u, 4)
	rig.MulticastProbe(t, hosts[0], hosts[1])
	startBus(t, hosts, 2, 0, times(50_000, 1_000_000), 0).finish(2 * time.Minute)
	u.Loss(10)
	u.Dup(5)
	u.Corrupt(5)
	startBus(t, hosts, 2, 0, times(50_000, 1_000_000), 0).finish(2 * time.Minute)
}

// TestBusIslands: three subnets that carry multicast, and none between them: a packet crosses to each of the others once. The process that
// passes packets on in one of them is killed in mid-stream: nobody else loses a message or is without any for a second, and again one copy crosses.
func TestBusIslands(t *testing.T) {
	w := rig.New(t)
	cloud := w.Cloud()
	var hosts []*rig.Host
	var us []*rig.Underlay
	for i := range 3 {
		u := cloud.Segment(fmt.Sprintf("lan%d", i), rig.LANOptions{})
		us = append(us, u)
		hosts = append(hosts, hostsOn(u, fmt.Sprintf("h%d", i), 3)...)
	}
	rig.MulticastProbe(t, hosts[0], hosts[3])
	// Who is put off for a moment, by other work on the machine, just when it is to pass on, is not asked again for half a minute.
	upToThrice(t, func(int) error { return busIslands(t, us, hosts) })
}

// busIslands has a bus on three subnets: what the publisher's packets cost, before and after the host that passes most of them on is killed.
func busIslands(t *testing.T, us []*rig.Underlay, hosts []*rig.Host) error {
	t.Helper()
	const rate, seconds = 2000, 20
	r := startBus(t, hosts, 1, 2, rate*seconds, rate, len(hosts)-2)
	// crossing is how many bytes leave the publisher's host for other subnets, for each that it multicasts, and to which host there most go.
	crossing := func() (ratio float64, relay int) {
		c := us[0].Capture(hosts[0])
		rig.Pause(t, time.Second)
		c.Stop()
		most, sum := 0, 0
		for i := 3; i < len(hosts); i++ {
			n := c.Bytes(fmt.Sprintf("udp and src host %s and dst host %s and greater 200", hosts[0].IP, hosts[i].IP))
			if sum += n; i < 6 && n > most {
				most, relay = n, i
			}
		}
		group := c.Bytes(fmt.Sprintf("udp and src host %s and dst net 239.192.0.0/14 and greater 200", hosts[0].IP))
		return float64(sum) / float64(group), relay
	}
	rig.Pause(t, 4*time.Second)
	ratio, relay := crossing()
	t.Logf("%.2f bytes cross for each that is multicast; %s passes on", ratio, hosts[relay].Name)
	if ratio > 2.2 || ratio < 1.8 {
		t.Errorf("%.2f bytes cross to two subnets for each that is multicast", ratio)
	}
	r.subs[relay-1].Kill9()
	r.subs = slices.Delete(r.subs, relay-1, relay)
	rig.Pause(t, 5*time.Second)
	ratio, _ = crossing()
	if ms := slices.Max(r.finish(time.Minute)); ms >= 1000 {
		t.Errorf("a subscriber was without messages for %d ms", ms)
	}
	if ratio > 2.2 || ratio < 1.8 {
		return fmt.Errorf("%.2f bytes cross to two subnets for each that is multicast, after one that passed on was killed", ratio)
	}
	return nil
}

// TestBusMulticastEnds: in mid-stream the underlay ceases to carry multicast to one host, and then to all: nobody loses a message or
// is without any for a second.
func TestBusMulticastEnds(t *testing.T) {
	w := rig.New(t)
	u := w.LAN(rig.LANOptions{})
	hosts := busHosts(u, 4)
	const rate, seconds = 5000, 6
	r := startBus(t, hosts, 1, 3, rate*seconds, rate)
	rig.Pause(t, time.Second)
	u.Deafen(hosts[2])
	rig.Pause(t, 2*time.Second)
	u.Deafen(hosts[1])
	u.Deafen(hosts[3])
	if ms := slices.Max(r.finish(time.Minute)); ms >= 1000 {
		t.Errorf("a subscriber was without messages for %d ms", ms)
	}
}

// TestBusStopped: a subscriber's process that is stopped for three seconds holds the others up for half a second at most, and gets
// everything when it goes on, for the publisher's window is larger than what was sent.
func TestBusStopped(t *testing.T) {
	w := rig.New(t)
	u := w.Cloud()
	hosts := busHosts(u, 4)
	const rate, seconds = 5000, 6
	r := startBus(t, hosts, 1, 0, rate*seconds, rate)
	rig.Pause(t, time.Second)
	stopped := r.subs[1]
	stopped.Signal(syscall.SIGSTOP)
	rig.Pause(t, 3*time.Second)
	stopped.Signal(syscall.SIGCONT)
	for i, ms := range r.finish(time.Minute) {
		if r.subs[i] == stopped && ms < 2500 || r.subs[i] != stopped && ms >= 1000 {
			t.Errorf("subscriber %d was without messages for %d ms", i, ms)
		}
	}
}
