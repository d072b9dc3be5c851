package vnet_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/vnet"
)

// soon is far below what the kernel's own times would make of a leave (10 s and more), and above what a busy machine takes for what is done in 20 to 200 ms.
const soon = 3 * time.Second

func TestMemberships(t *testing.T) {
	w := newWorld(t)
	a, b := w.attach("a", 1), w.attach("b", 2)
	w.awaitMembers(2 * time.Second) // published at start, and empty: own solicited-node groups are left out

	sa := socket(t, a, "udp4", "0.0.0.0:0")
	join4(t, sa, "239.1.2.3")
	t.Logf("join seen after %v", w.awaitMembers(soon, "a 239.1.2.3 any"))

	sb := socket(t, b, "udp4", "0.0.0.0:0")
	source4(t, sb, unix.IP_ADD_SOURCE_MEMBERSHIP, "232.1.1.1", "10.32.0.9")
	w.awaitMembers(soon, "a 239.1.2.3 any", "b 232.1.1.1 10.32.0.9")
	source4(t, sb, unix.IP_ADD_SOURCE_MEMBERSHIP, "232.1.1.1", "10.32.0.8")
	w.awaitMembers(soon, "a 239.1.2.3 any", "b 232.1.1.1 10.32.0.8 10.32.0.9")
	source4(t, sb, unix.IP_DROP_SOURCE_MEMBERSHIP, "232.1.1.1", "10.32.0.9")
	t.Logf("dropped source seen after %v", w.awaitMembers(soon, "a 239.1.2.3 any", "b 232.1.1.1 10.32.0.8"))

	s6 := socket(t, b, "udp6", "[::]:0")
	join6(t, s6, "ff15::1234")
	w.awaitMembers(soon, "a 239.1.2.3 any", "b 232.1.1.1 10.32.0.8", "b ff15::1234 any")

	_ = sa.Close()
	t.Logf("leave seen after %v", w.awaitMembers(soon, "b 232.1.1.1 10.32.0.8", "b ff15::1234 any"))
	_ = s6.Close()
	t.Logf("IPv6 leave seen after %v", w.awaitMembers(soon, "b 232.1.1.1 10.32.0.8"))

	ssm6 := socket(t, b, "udp6", "[::]:0")
	source6(t, ssm6, unix.MCAST_JOIN_SOURCE_GROUP, "ff3e::1", "fd00:9::9")
	w.awaitMembers(soon, "b 232.1.1.1 10.32.0.8", "b ff3e::1 fd00:9::9")
	source6(t, ssm6, unix.MCAST_LEAVE_SOURCE_GROUP, "ff3e::1", "fd00:9::9")
	t.Logf("IPv6 SSM leave seen after %v", w.awaitMembers(soon, "b 232.1.1.1 10.32.0.8"))

	if err := w.v.Detach(spec.Name, "b"); err != nil {
		t.Fatal(err)
	}
	w.awaitMembers(soon)
}

// TestFirstSecond: a bridge ignores its MDB until its first query was answered; a group
// opened meanwhile must be served all the same, in both directions.
func TestFirstSecond(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", 1)
	s := socket(t, a, "udp4", "0.0.0.0:4711")
	join4(t, s, "239.1.2.3")
	send(t, s, "239.7.7.7:9", "early4")
	s6 := socket(t, a, "udp6", "[::]:4711")
	join6(t, s6, "ff15::1234")
	send(t, s6, "[ff15::7777]:9", "early6")
	eventually(t, time.Second, "early frames at the uplink", func() error {
		if w.payload("early4") == 0 || w.payload("early6") == 0 {
			return errors.New("not there")
		}
		return nil
	})
	if _, err := w.dev.Write([][]byte{append(make([]byte, gso.HeaderLen), udp4(mac(9), ip4(9), "239.1.2.3", 4711, "for a")...)}); err != nil {
		t.Fatal(err)
	}
	received(t, s, "for a", time.Second)
}

func TestWantedGroupsReachUplink(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", 1)
	b := w.attach("b", 2)
	asm := socket(t, b, "udp4", "0.0.0.0:4711")
	join4(t, asm, "232.1.1.1")
	if err := w.v.SetWanted(spec.VNI, []vnet.Group{
		{Addr: netip.MustParseAddr("239.1.2.3")},
		{Addr: netip.MustParseAddr("232.1.1.1"), Sources: []netip.Addr{ip4(77)}},
		{Addr: netip.MustParseAddr("232.1.1.2"), Sources: []netip.Addr{ip4(1)}},
		{Addr: netip.MustParseAddr("ff15::1234")},
		{Addr: netip.MustParseAddr("ff02::fb")},
		{Addr: netip.MustParseAddr("224.0.0.251")}, // for all hosts anyhow: no error
	}); err != nil {
		t.Fatal(err)
	}
	w.selective(a)
	c4, c6 := socket(t, a, "udp4", "0.0.0.0:0"), socket(t, a, "udp6", "[::]:0")
	wanted := map[string]string{"239.1.2.3:1": "w1.", "232.1.1.2:1": "w2.", "224.0.0.251:1": "w3.", "10.32.15.255:1": "w4."}
	unwanted := map[string]string{"239.1.2.4:1": "u1.", "232.1.1.1:4711": "u2.", "239.255.255.250:1900": "u3."}
	wanted6 := map[string]string{"[ff15::1234]:1": "w5.", "[ff02::fb%weft0]:1": "w6.", "[ff02::1%weft0]:1": "w7."}
	unwanted6 := map[string]string{"[ff15::1235]:1": "u4.", "[ff02::c%weft0]:1900": "u5."}
	control(t, c4, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
	index := w.innerIndex(a, "weft0")
	for _, set := range []map[string]string{unwanted, wanted} {
		for to, text := range set {
			send(t, c4, to, text)
		}
	}
	for _, set := range []map[string]string{unwanted6, wanted6} {
		for to, text := range set {
			send(t, c6, strings.Replace(to, "weft0", strconv.Itoa(index), 1), text)
		}
	}
	eventually(t, time.Second, "wanted groups at the uplink", func() error {
		for _, set := range []map[string]string{wanted, wanted6} {
			for to, text := range set {
				if w.payload(text) != 1 {
					return fmt.Errorf("%s: %d", to, w.payload(text))
				}
			}
		}
		return nil
	})
	for _, set := range []map[string]string{unwanted, unwanted6} {
		for to, text := range set {
			if n := w.payload(text); n != 0 {
				t.Errorf("%s: %d frames at the uplink, nobody wants it", to, n)
			}
		}
	}
	// An entry with a source list on the uplink takes nothing from the local member of (*,G).
	received(t, asm, "u2.", time.Second)

	// Differences only: withdrawn groups stop, the rest goes on.
	if err := w.v.SetWanted(spec.VNI, []vnet.Group{{Addr: netip.MustParseAddr("ff15::1234")}}); err != nil {
		t.Fatal(err)
	}
	send(t, c4, "239.1.2.3:1", "late.")
	send(t, c6, "[ff15::1234]:1", "still.")
	eventually(t, time.Second, "the group that is still wanted", func() error {
		if w.payload("still.") != 1 {
			return errors.New("nothing")
		}
		return nil
	})
	if w.payload("late.") != 0 {
		t.Error("a withdrawn group still reaches the uplink")
	}
}

func (w *world) innerIndex(ns netns.Namespace, name string) int {
	w.t.Helper()
	var index int
	if err := ns.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return index
}

// TestControlFramesAtUplink lists what of IGMP, MLD and ND still comes out of the uplink
// after the first seconds: the datapath drops it.
func TestControlFramesAtUplink(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", 1)
	w.selective(a)
	w.mu.Lock()
	w.frames = nil
	w.mu.Unlock()
	s := socket(t, a, "udp4", "0.0.0.0:0")
	join4(t, s, "239.1.2.3")
	s6 := socket(t, a, "udp6", "[::]:0")
	join6(t, s6, "ff15::1234")
	w.awaitMembers(time.Second, "a 239.1.2.3 any", "a ff15::1234 any")
	w.selective(a)
	seen := map[string]int{}
	uplink := 0
	w.count(func(b []byte) bool {
		if kind, ok := isIGMP(b); ok {
			seen[fmt.Sprintf("igmp 0x%x", kind)]++
		}
		if kind, ok := icmp6(b); ok {
			seen[fmt.Sprintf("icmpv6 %d", kind)]++
		}
		if src := nl.MAC(b[6:12]); src != mac(1) && src != (nl.MAC{0x06, 0x77, 0x66, 0x0a, 0xbc, 0xde}) {
			uplink++ // neither the attachment nor the bridge: a port spoke for itself
			t.Errorf("frame from %s: % x", src, b)
		}
		return false
	})
	t.Logf("control frames at the uplink: %v", seen)
	for _, kind := range []string{"icmpv6 133", "icmpv6 134"} {
		if seen[kind] > 0 {
			t.Errorf("%d router messages at the uplink", seen[kind])
		}
	}
}

func TestARPAndNDAnswered(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", 1)
	if _, err := w.v.SetRemotes(spec.VNI, []vnet.Remote{{MAC: mac(50), IPs: []netip.Addr{ip4(50), ip6(50)}}}); err != nil {
		t.Fatal(err)
	}
	c4, c6 := socket(t, a, "udp4", "0.0.0.0:0"), socket(t, a, "udp6", "[::]:0")
	index := w.innerIndex(a, "weft0")
	send(t, c4, "10.32.0.50:9", "to 50 v4")
	send(t, c6, "["+ip6(50).String()+"]:9", "to 50 v6")
	send(t, c6, fmt.Sprintf("[%s%%%d]:9", mac(50).LinkLocal(), index), "to 50 ll")
	eventually(t, 2*time.Second, "unicast at the uplink", func() error {
		for _, text := range []string{"to 50 v4", "to 50 v6", "to 50 ll"} {
			if w.count(func(b []byte) bool { return nl.MAC(b[:6]) == mac(50) && strings.Contains(string(b), text) }) != 1 {
				return errors.New(text)
			}
		}
		return nil
	})
	if n := w.count(isARP); n != 0 {
		t.Errorf("%d ARP frames at the uplink", n)
	}
	if n := w.count(func(b []byte) bool { k, ok := icmp6(b); return ok && k == 135 }); n != 0 {
		t.Errorf("%d neighbour solicitations at the uplink", n)
	}
	// Local ones too are found without asking outside.
	b := w.attach("b", 2)
	s := socket(t, b, "udp4", "0.0.0.0:4711")
	send(t, c4, "10.32.0.2:4711", "to b")
	received(t, s, "to b", time.Second)
	if n := w.count(isARP); n != 0 {
		t.Errorf("%d ARP frames for a local attachment at the uplink", n)
	}
	// A remote that has gone is no longer answered for.
	if _, err := w.v.SetRemotes(spec.VNI, nil); err != nil {
		t.Fatal(err)
	}
	if got := inside(t, w.host, "ip", "neigh", "show", "nud", "permanent", "dev", vnet.BridgeName(spec.VNI)); strings.Contains(got, "10.32.0.50") || !strings.Contains(got, "10.32.0.2 ") {
		t.Errorf("neighbours of the bridge:\n%s", got)
	}
}

// TestManyJoins: one attachment joins 10,000 groups; the kernel would switch snooping off
// for the whole network without the port's limit.
func TestManyJoins(t *testing.T) {
	w := newWorld(t)
	a, b := w.attach("a", 1), w.attach("b", 2)
	if err := w.v.SetWanted(spec.VNI, []vnet.Group{{Addr: netip.MustParseAddr("239.1.2.3")}}); err != nil {
		t.Fatal(err)
	}
	quiet := socket(t, b, "udp4", "0.0.0.0:4711")
	join4(t, quiet, "239.1.2.3")
	if err := a.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/igmp_max_memberships", []byte("20000"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	w.selective(b)
	const sockets, each = 50, 200 // the kernel limits the memory of one socket
	for k := range sockets {
		control(t, socket(t, a, "udp4", "0.0.0.0:0"), func(fd int) error {
			for i := k * each; i < (k+1)*each; i++ {
				g := [4]byte{239, 100, byte(i >> 8), byte(i)}
				if err := unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: g}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	eventually(t, 5*time.Second, "memberships up to the limit", func() error {
		n := 0
		for _, m := range w.memberships() {
			if strings.HasPrefix(m, "a 239.100.") {
				n++
			}
		}
		if n < 32 || n > nl.PortGroups {
			return fmt.Errorf("%d groups of a", n)
		}
		return nil
	})
	if !slices.Contains(w.memberships(), "b 239.1.2.3 any") {
		t.Error("b's membership is gone")
	}
	if out := inside(t, w.host, "ip", "-d", "link", "show", vnet.BridgeName(spec.VNI)); !strings.Contains(out, "mcast_snooping 1") {
		t.Errorf("snooping is off:\n%s", out)
	}
	if n := w.v.Stats().SnoopingRestored; n != 0 {
		t.Errorf("snooping was restored %d times", n)
	}
	w.selective(b)
	c := socket(t, a, "udp4", "0.0.0.0:0")
	send(t, c, "239.1.2.3:4711", "for b")
	received(t, quiet, "for b", time.Second)
}

func TestSnoopingIsRestored(t *testing.T) {
	w := newWorld(t)
	inside(t, w.host, "ip", "link", "set", vnet.BridgeName(spec.VNI), "type", "bridge", "mcast_snooping", "0")
	eventually(t, 10*time.Second, "snooping restored", func() error {
		if w.v.Stats().SnoopingRestored == 0 {
			return errors.New("not yet")
		}
		if out := inside(t, w.host, "ip", "-d", "link", "show", vnet.BridgeName(spec.VNI)); !strings.Contains(out, "mcast_snooping 1") {
			return errors.New(out)
		}
		return nil
	})
}

func TestWantedIsFast(t *testing.T) {
	w := newWorld(t)
	groups := make([]vnet.Group, 2000)
	for i := range groups {
		groups[i] = vnet.Group{Addr: netip.AddrFrom4([4]byte{239, 50, byte(i >> 8), byte(i)})}
	}
	began := time.Now()
	if err := w.v.SetWanted(spec.VNI, groups); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("2,000 groups took %v", d)
	} else {
		t.Logf("2,000 groups took %v", d)
	}
	there := map[string]bool{} // the kernel shows the table in pieces, and an entry twice where it changes meanwhile
	for word := range strings.FieldsSeq(inside(t, w.host, "bridge", "mdb", "show")) {
		if strings.HasPrefix(word, "239.50.") {
			there[word] = true
		}
	}
	if len(there) != 2000 {
		t.Errorf("%d groups in the MDB", len(there))
	}
	began = time.Now()
	if err := w.v.SetWanted(spec.VNI, groups); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 500*time.Millisecond {
		t.Errorf("no difference, but %v", d)
	}
}
