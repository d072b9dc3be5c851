package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// busGroups4 and busGroups6 are the ranges of buses' groups.
const busGroups4, busGroups6 = "239.192.0.0/14", "ff15::/64"

// withoutIPv4 takes a host's IPv4 address away.
func withoutIPv4(hosts ...*rig.Host) {
	for _, h := range hosts {
		h.MustExec("ip", "-4", "addr", "flush", "dev", "eth0")
	}
}

// groupBytes is how much data a host sends to a bus's groups, in IPv4 and IPv6, and to others in unicast. Beacons and confirmations are short.
func groupBytes(c *rig.Capture, from *rig.Host) (v4, v6, unicast int) {
	return c.Bytes(fmt.Sprintf("udp and src host %s and dst net %s and greater 200", from.IP, busGroups4)),
		c.Bytes(fmt.Sprintf("udp and src host %s and dst net %s and greater 200", from.IP6, busGroups6)),
		c.Bytes(fmt.Sprintf("udp and (src host %s or src host %s) and (dst net 10.0.0.0/8 or dst net fc00::/7) and greater 200", from.IP, from.IP6))
}

// TestBusOnIPv6LAN: hosts that have IPv6 only, on a LAN that carries its multicast: one packet serves all. One of them starts before its address may be used
// (RFC 4862 section 5.4). In mid-stream multicast is cut off for one: it gets copies, and is without messages for less than a second.
func TestBusOnIPv6LAN(t *testing.T) {
	w := rig.New(t)
	u := w.LAN(rig.LANOptions{})
	hosts := busHosts(u, 4)
	withoutIPv4(hosts...)
	if !rig.Heard(t, hosts[0], hosts[1], netip.MustParseAddrPort("[ff15::7777]:7777")) {
		t.Fatal("this underlay carries no multicast in IPv6: the test proves nothing")
	}
	tentative := hosts[3]
	tentative.MustExec("ip", "addr", "del", tentative.IP6.String()+"/64", "dev", "eth0")
	tentative.MustExec("ip", "addr", "add", tentative.IP6.String()+"/64", "dev", "eth0")
	c := u.Capture(hosts[0])
	r := startBusAt(t, hosts[0].IP6, hosts, 1, 3, times(50_000, 1_000_000), 0)
	r.finish(2 * time.Minute)
	c.Stop()
	_, group, unicast := groupBytes(c, hosts[0])
	t.Logf("%d bytes by multicast, %d by unicast", group, unicast)
	if group < 60*r.messages || group > 100*r.messages || unicast > group/5 {
		t.Errorf("%d bytes by multicast, %d by unicast, for %d messages: it was not served by multicast", group, unicast, r.messages)
	}
	if c.Grep("load.x") {
		t.Error("the subject is on the wire in the clear")
	}

	const rate, seconds = 5000, 6
	r = startBusAt(t, hosts[0].IP6, hosts, 1, 3, rate*seconds, rate)
	rig.Pause(t, time.Second)
	u.Deafen(hosts[2])
	if ms := slices.Max(r.finish(time.Minute)); ms >= 1000 {
		t.Errorf("a subscriber was without messages for %d ms", ms)
	}
}

// TestBusOnBothFamilies: on a LAN with IPv4 and IPv6 packets are multicast in IPv4 and nothing comes twice. In mid-stream the LAN ceases to carry that to
// two of three subscribers: they get copies within a second, and all are served by multicast in IPv6 after that.
func TestBusOnBothFamilies(t *testing.T) {
	w := rig.New(t)
	u := w.LAN(rig.LANOptions{})
	hosts := busHosts(u, 4)
	const rate, seconds = 5000, 20
	r := startBus(t, hosts, 1, 3, rate*seconds, rate)
	look := func(when string, in4 bool) {
		t.Helper()
		c, there := u.Capture(hosts[0]), u.Capture(hosts[3])
		rig.Pause(t, 2*time.Second)
		c.Stop()
		there.Stop()
		used, other, unicast := groupBytes(c, hosts[0])
		if !in4 {
			used, other = other, used
		}
		t.Logf("%s: %d bytes by the group that should be in use, %d by the other, %d by unicast", when, used, other, unicast)
		if used < rate*60 || other > used/50 || unicast > used/5 {
			t.Errorf("%s: %d bytes by the group that should be in use, %d by the other, %d by unicast", when, used, other, unicast)
		}
		if got := there.Bytes(fmt.Sprintf("udp and not src host %s and not src host %s and greater 200", hosts[3].IP, hosts[3].IP6)); got > used+used/10 {
			t.Errorf("%s: %d bytes come to a subscriber, %d are sent: something comes twice", when, got, used)
		}
	}
	look("at first", true)
	u.DeafenIPv4(hosts[1])
	u.DeafenIPv4(hosts[2])
	rig.Pause(t, 10*time.Second)
	look("without multicast in IPv4 for two", false)
	if ms := slices.Max(r.finish(time.Minute)); ms >= 1000 {
		t.Errorf("a subscriber was without messages for %d ms", ms)
	}
	for _, s := range r.subs {
		for _, line := range s.Lines() {
			_, n, ok := strings.Cut(line, ", duplicate ")
			if n, _, _ = strings.Cut(n, ","); !ok {
				continue
			}
			if k, err := strconv.Atoi(n); err != nil || k > rate*seconds/200 { // packets hold ten messages and more
				t.Errorf("%s: packets came twice", line)
			}
		}
	}
}

// TestBusOnMixedLAN: of three subscribers on a LAN one has IPv6 only: multicast in IPv6 serves all of them by one packet.
func TestBusOnMixedLAN(t *testing.T) {
	w := rig.New(t)
	u := w.LAN(rig.LANOptions{})
	hosts := busHosts(u, 4)
	withoutIPv4(hosts[3])
	c := u.Capture(hosts[0])
	r := startBusAt(t, hosts[0].IP6, hosts, 1, 3, times(50_000, 1_000_000), 0)
	r.finish(2 * time.Minute)
	c.Stop()
	v4, v6, unicast := groupBytes(c, hosts[0])
	t.Logf("%d bytes by multicast in IPv4, %d in IPv6, %d by unicast", v4, v6, unicast)
	if v6 < 60*r.messages || v4 > v6/50 || unicast > v6/5 {
		t.Errorf("%d bytes by multicast in IPv4, %d in IPv6, %d by unicast", v4, v6, unicast)
	}
}
