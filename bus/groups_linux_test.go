package bus

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const inNamespace = "WEFT_BUS_TEST_NAMESPACE"

// alone runs a test in a network namespace of its own, in a process of its own: goroutines of a member look at interfaces, too. It is true there,
// when the lines were given to ip(8). It needs no root where users may make namespaces.
func alone(t *testing.T, lines ...string) bool {
	t.Helper()
	if os.Getenv(inNamespace) == t.Name() {
		for _, l := range lines {
			ip(t, l)
		}
		return true
	}
	self, err := os.Executable()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	cmd.Env = append(os.Environ(), inNamespace+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

func ip(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
}

// lan is a switch and n interfaces on it, e1 and so on, with addresses of both families or of IPv6 only.
func lan(n int, family Family) (lines []string) {
	lines = []string{"link set lo up", "link add sw type bridge mcast_snooping 0 forward_delay 0", "link set sw up"}
	for i := 1; i <= n; i++ {
		lines = append(lines, fmt.Sprintf("link add name e%d type veth peer name p%d", i, i), fmt.Sprintf("link set p%d master sw up", i),
			fmt.Sprintf("addr add fd77::%d/64 dev e%d nodad", i, i), fmt.Sprintf("link set e%d up", i))
		if family == IPv4 {
			lines = append(lines, fmt.Sprintf("addr add 10.77.0.%d/24 dev e%d", i, i))
		}
	}
	return lines
}

// port has a member use an interface of the switch.
func port(t *testing.T, i int) func(*Config) {
	t.Helper()
	name := fmt.Sprintf("e%d", i)
	for option, value := range map[string]string{name + "/accept_local": "1", name + "/rp_filter": "0", "all/rp_filter": "0"} {
		check(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+option, []byte(value), 0o644)) // a source that is one's own address is no error here
	}
	return func(c *Config) { c.Interface = name }
}

// TestFamilies: where there is IPv6 only, its group serves all; where there are both, that in IPv4 does, and nothing comes twice.
func TestFamilies(t *testing.T) {
	for _, family := range []Family{IPv4, IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			const messages, subscribers = 20_000, 3
			if !alone(t, lan(1+subscribers, family)...) {
				return
			}
			w := newWorld(t, true)
			a := w.join(port(t, 1))
			p := must(a.Publisher("x"))(t)
			var others []*Bus
			var subs []*Subscription
			for i := range subscribers {
				b := w.join(port(t, 2+i))
				others, subs = append(others, b), append(subs, must(b.Subscribe("x", WithSlow(SlowBlock)))(t))
			}
			check(t, p.Ready(within(t), subscribers))
			await(t, a, "multicast", func() bool {
				n := 0
				for _, m := range a.Members() {
					if m.HearsBy == family && m.HeardBy == family {
						n++
					}
				}
				return n == subscribers
			})
			// What comes by both groups comes twice each time; repairs that a busy machine asks for too early do not.
			twice := uint64(math.MaxUint64)
			for try := 0; try < 3 && twice > messages/100; try++ {
				before := duplicates(others)
				var wg sync.WaitGroup
				for _, s := range subs {
					wg.Go(func() { expect(t, s, messages) })
				}
				sendNumbered(t, p, 0, messages)
				check(t, p.Wait(within(t), All))
				wg.Wait()
				twice = 0
				for i, d := range duplicates(others) {
					twice = max(twice, d-before[i])
				}
			}
			if twice > messages/100 {
				t.Errorf("%d packets came twice", twice)
			}
			for i, g := range a.Groups() {
				f := IPv4 + Family(i)
				if joined := f == IPv6 || family == IPv4; g.Addr.Addr().Is6() != (f == IPv6) || (g.Interface == "e1") != joined || (g.Why == "") != joined || g.InUse != (f == family) {
					t.Errorf("%+v", g)
				}
			}
		})
	}
}

// duplicates returns how many packets of streams have come twice to each.
func duplicates(members []*Bus) (out []uint64) {
	for _, b := range members {
		out = append(out, b.Stats().Dropped["duplicate"])
	}
	return out
}

// TestGroupsFollow: an interface that comes after Join is used, in IPv4 and IPv6 as it has addresses, and missed by nobody when it goes.
func TestGroupsFollow(t *testing.T) {
	if !alone(t, "link set lo up") {
		return
	}
	a := newWorld(t, true).join(func(c *Config) { c.Interface, c.look = "", 50*time.Millisecond })
	state := func() (s string) {
		for _, g := range a.Groups() {
			s += fmt.Sprint(g.Interface, g.InUse, " ")
		}
		return s
	}
	seen := func(want string) {
		t.Helper()
		await(t, a, "groups "+want, func() bool { return state() == want })
	}
	seen("false false ")
	for _, g := range a.Groups() {
		if !strings.HasPrefix(g.Why, "no interface is up, can multicast and has an IPv") {
			t.Errorf("%q", g.Why)
		}
	}
	ip(t, "link add x0 type veth peer name y0")
	ip(t, "link set y0 up")
	ip(t, "link set x0 up")
	ip(t, "addr add fd88::1/64 dev x0") // tentative for a while
	seen("false x0true ")
	ip(t, "addr add 10.88.0.1/24 dev x0")
	seen("x0false x0true ") // what serves all is kept
	ip(t, "-6 addr del fd88::1/64 dev x0")
	seen("x0true false ")
	ip(t, "link del x0")
	seen("false false ")
	ip(t, "link add x1 type veth peer name y1")
	ip(t, "link set y1 up")
	ip(t, "addr add 10.88.0.2/24 dev x1")
	ip(t, "link set x1 up")
	seen("x1true false ")
}

// TestChoose: which interface is taken for a group.
func TestChoose(t *testing.T) {
	if !alone(t, "link set lo up", "link add name e1 type veth peer name p1", "link add name e2 type veth peer name p2", "link add name e3 type veth peer name p3", "link add name weft0 type veth peer name p4",
		"link set p1 up", "link set p2 up", "link set p3 up", "link set p4 up",
		"addr add 10.1.0.1/24 dev e1", "addr add fd01::1/64 dev e1 nodad", "addr add 10.2.0.1/24 dev e2", "addr add fd03::1/64 dev e3 nodad",
		"link set e1 up", "link set e2 up", "link set e3 up", "link set weft0 up", "addr add fd00::1/64 dev weft0 nodad", "route add 239.0.0.0/8 dev e2") {
		return
	}
	g4, g6 := netip.MustParseAddr("239.192.1.2"), netip.MustParseAddr("ff15::1:2")
	ifis, ips, err := interfaces()
	check(t, err)
	on4, err := choose(ifis, ips, "", g4, net.Interface{})
	if check(t, err); on4.Name != "e2" {
		t.Errorf("IPv4 on %s, the route says e2", on4.Name)
	}
	none, besides := net.Interface{}, map[string]net.Interface{}
	for _, ifi := range ifis {
		besides[ifi.Name] = ifi
	}
	for beside, want := range map[string]string{"": "e1", "e1": "e1", "e3": "e3", "weft0": "e1"} {
		on6, err := choose(ifis, ips, "", g6, besides[beside])
		if check(t, err); on6.Name != want {
			t.Errorf("IPv6 on %s beside IPv4 on %q, not %s", on6.Name, beside, want)
		}
	}
	if _, err := choose(ifis, ips, "", g6, besides["e2"]); err == nil || err.Error() != "interface e2 has no IPv6 address beyond the link's own" {
		t.Errorf("beside IPv4 on an interface without IPv6: %v", err)
	}
	for name, why := range map[string]string{"e2": "interface e2 has no IPv6 address beyond the link's own", "nope": "interface nope: there is none of that name"} {
		if _, err := choose(ifis, ips, name, g6, none); err == nil || err.Error() != why {
			t.Errorf("%s: %v", name, err)
		}
	}
	ip(t, "link set e2 down")
	ifis, ips, err = interfaces()
	check(t, err)
	if _, err := choose(ifis, ips, "e2", g4, none); err == nil || err.Error() != "interface e2 is down" {
		t.Error(err)
	}
}
