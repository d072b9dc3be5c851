package vnet_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/vnet"
)

// underlay joins host a to others, each with an address of its own and routes on both sides. It returns the last.
func underlay(t *testing.T, a netns.Namespace, addrs ...netip.Addr) []netns.Namespace {
	t.Helper()
	var out []netns.Namespace
	inside(t, a, "ip", "link", "set", "lo", "up")
	inside(t, a, "ip", "addr", "add", vtep1.String()+"/32", "dev", "lo")
	for i, addr := range addrs {
		b := newNS(t)
		near, far := fmt.Sprintf("u%d", i), "eth0"
		inside(t, a, "ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), b.FD()))
		inside(t, a, "ip", "link", "set", near, "up")
		inside(t, b, "ip", "link", "set", "lo", "up")
		inside(t, b, "ip", "addr", "add", addr.String()+"/32", "dev", far)
		inside(t, b, "ip", "link", "set", far, "up")
		inside(t, a, "ip", "route", "add", addr.String(), "dev", near, "src", vtep1.String())
		inside(t, b, "ip", "route", "add", vtep1.String(), "dev", far)
		out = append(out, b)
	}
	return out
}

// listener records the VXLAN packets that a host without the network gets.
type listener struct {
	mu      sync.Mutex
	packets [][]byte
}

func listen(t *testing.T, ns netns.Namespace) *listener {
	t.Helper()
	c, l := socket(t, ns, "udp4", fmt.Sprintf("0.0.0.0:%d", vnet.VXLANPort)), &listener{}
	go func() {
		for {
			b := make([]byte, 2048)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.packets = append(l.packets, b[:n])
			l.mu.Unlock()
		}
	}()
	return l
}

func (l *listener) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, p := range l.packets {
		if bytes.Contains(p, []byte(text)) {
			n++
		}
	}
	return n
}

func plainWorld(t *testing.T, host netns.Namespace, local netip.Addr) *world {
	t.Helper()
	w := &world{t: t, host: host}
	w.start()
	s := plainSpec
	s.Local = local
	if _, err := w.v.Ensure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestPlainKernel: two kernels carry a plain network between them; a third host, which has an attachment and one
// membership, gets what is for it and no more.
func TestPlainKernel(t *testing.T) {
	hostA := newNS(t)
	others := underlay(t, hostA, vtep2, vtep3)
	a, b := plainWorld(t, hostA, vtep1), plainWorld(t, others[0], vtep2)
	third := listen(t, others[1])
	if err := a.v.ProbePlain(); err != nil {
		t.Fatal(err)
	}
	nsA, nsB := a.attach("a", 1), b.attach("b", 2)
	remote := func(n byte, vtep netip.Addr) vnet.Remote {
		return vnet.Remote{MAC: mac(n), IPs: []netip.Addr{ip4(n), ip6(n)}, VTEP: vtep}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set := func(_ []nl.Neighbour, err error) { t.Helper(); check(err) }
	set(a.v.SetRemotes(spec.VNI, []vnet.Remote{remote(2, vtep2), remote(3, vtep3)}))
	set(b.v.SetRemotes(spec.VNI, []vnet.Remote{remote(1, vtep1)}))
	wanted := []vnet.Group{
		{Addr: netip.MustParseAddr("239.1.2.3"), At: []vnet.At{{VTEP: vtep2}}},
		{Addr: netip.MustParseAddr("232.1.1.1"), At: []vnet.At{{VTEP: vtep2}, {VTEP: vtep3, Sources: []netip.Addr{ip4(1)}}}},
		{Addr: netip.MustParseAddr("ff15::1234"), At: []vnet.At{{VTEP: vtep2}}},
	}
	check(a.v.SetWanted(spec.VNI, wanted))

	sb, sb6 := socket(t, nsB, "udp4", "0.0.0.0:4711"), socket(t, nsB, "udp6", "[::]:4712")
	for _, g := range []string{"239.1.2.3", "232.1.1.1"} {
		join4(t, sb, g)
	}
	join6(t, sb6, "ff15::1234")
	b.awaitMembers(2*time.Second, "b 232.1.1.1 any", "b 239.1.2.3 any", "b ff15::1234 any")
	sa, sa6 := socket(t, nsA, "udp4", "0.0.0.0:0"), socket(t, nsA, "udp6", "[::]:0")
	control(t, sa, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })

	// Until the bridge selects by membership it floods, to hosts with attachments.
	round := 0
	eventually(t, 5*time.Second, "bridge selects", func() error {
		round++
		text := fmt.Sprintf("unwanted-%d.", round)
		send(t, sa, "239.9.9.9:9", text)
		send(t, sa6, "[ff15::9999]:9", text)
		send(t, sa, "224.0.0.251:9", "end-"+text)
		eventually(t, time.Second, "224.0.0.251 at the third host", func() error {
			if third.count("end-"+text) == 0 {
				return fmt.Errorf("nothing")
			}
			return nil
		})
		if third.count(text) > 1 {
			return fmt.Errorf("still floods")
		}
		return nil
	})

	send(t, sa, "10.32.0.2:4711", "unicast")
	received(t, sb, "unicast", time.Second)
	send(t, sa6, fmt.Sprintf("[%s]:4712", ip6(2)), "unicast6")
	received(t, sb6, "unicast6", time.Second)
	send(t, sa, "239.1.2.3:4711", "group")
	received(t, sb, "group", time.Second)
	send(t, sa6, "[ff15::1234]:4712", "group6")
	received(t, sb6, "group6", time.Second)
	send(t, sa, "232.1.1.1:4711", "source")
	received(t, sb, "source", time.Second)
	send(t, sa, "10.32.15.255:4711", "broadcast")
	received(t, sb, "broadcast", time.Second)
	eventually(t, time.Second, "broadcast at the third host", func() error {
		if third.count("source") != 1 || third.count("broadcast") != 1 {
			return fmt.Errorf("%d of the source, %d broadcasts", third.count("source"), third.count("broadcast"))
		}
		return nil
	})
	for _, text := range []string{"unicast", "group"} {
		if n := third.count(text); n != 0 {
			t.Errorf("the third host got %d packets of %q", n, text)
		}
	}

	// The daemon ends and another one begins: nothing changes in the kernel, frames go on all the while.
	device := func() string {
		return inside(t, hostA, "ip", "-o", "link", "show", "dev", vnet.VXLANName(spec.VNI)) +
			inside(t, hostA, "bridge", "fdb", "show", "dev", vnet.VXLANName(spec.VNI))
	}
	was := device()
	a.stop()
	send(t, sa, "239.1.2.3:4711", "alone")
	received(t, sb, "alone", time.Second)
	report := a.start()
	if len(report.Adopted) != 1 || len(report.Removed) != 0 {
		t.Errorf("found %+v", report)
	}
	if _, err := a.v.Ensure(t.Context(), plainSpec); err != nil {
		t.Fatal(err)
	}
	send(t, sa, "239.1.2.3:4711", "adopted")
	received(t, sb, "adopted", time.Second)
	if now := device(); now != was {
		t.Errorf("device and entries:\n%s\nwere:\n%s", now, was)
	}
	set(a.v.SetRemotes(spec.VNI, nil))
	check(a.v.SetWanted(spec.VNI, nil))
	if now := device(); strings.Contains(now, "dst") {
		t.Errorf("entries after withdrawal:\n%s", now)
	}
	if _, err := a.v.Clean(); err != nil {
		t.Error(err)
	}
	if left := inside(t, hostA, "ip", "-o", "link"); strings.Contains(left, " w") {
		t.Errorf("left after clean:\n%s", left)
	}
}

// TestPlainPortTaken: the port of another program is the reason that is given.
func TestPlainPortTaken(t *testing.T) {
	host := newNS(t)
	w := &world{t: t, host: host}
	w.start()
	c := socket(t, host, "udp4", fmt.Sprintf("0.0.0.0:%d", vnet.VXLANPort))
	if _, err := w.v.Ensure(t.Context(), plainSpec); err == nil || !strings.Contains(err.Error(), "port is taken") {
		t.Errorf("ensure: %v", err)
	}
	if left := inside(t, host, "ip", "-o", "link", "show", "type", "vxlan"); left != "" {
		t.Errorf("left: %s", left)
	}
	_ = c.Close()
	if _, err := w.v.Ensure(t.Context(), plainSpec); err != nil {
		t.Error(err)
	}
}
