package guard

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The bridge's own queries reach attachments, and never an uplink.
func TestOwnQueriesStayOffTheUplink(t *testing.T) {
	l := newLab(t)
	g := l.open(desired())
	out, err := exec.Command("ip", "link", "set", labBridge, "type", "bridge",
		"mcast_snooping", "1", "mcast_startup_query_interval", "10", "mcast_querier", "1").CombinedOutput()
	if err != nil {
		t.Fatalf("ip link: %v: %s", err, out)
	}
	isQuery := func(f []byte) bool { return len(f) > 14+24 && f[12] == 8 && f[13] == 0 && f[14+9] == protoIGMP }
	for !isQuery(l.b.receive()) {
	}
	l.until("a query dropped on its way to the uplink", func() bool { return l.counter(g, dropUplinkIGMP) > 0 })
	for _, f := range l.arrivals(l.a, l.up) {
		if isQuery(f) {
			t.Errorf("a query at the uplink: %x", f)
		}
	}
}

// member is a real attachment: a namespace with the kernel's own IP stack behind a port. do runs there.
type member struct{ do func(func() error) error }

func (l *lab) member(name string, mac [6]byte, addrs ...string) *member {
	l.t.Helper()
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: l.bridge.Index}, PeerName: "far",
		PeerHardwareAddr: net.HardwareAddr(mac[:]),
	}
	l.check(netlink.LinkAdd(v))
	l.check(netlink.LinkSetUp(v))
	peer, err := netlink.LinkByName("far")
	l.check(err)

	work, result := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the namespace goes with the thread
		result <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range work {
			result <- f()
		}
	}()
	l.check(<-result)
	l.t.Cleanup(func() { close(work) })
	m := &member{do: func(f func() error) error { work <- f; return <-result }}
	var ns *os.File
	l.check(m.do(func() (err error) { ns, err = os.Open("/proc/thread-self/ns/net"); return err }))
	defer func() { _ = ns.Close() }()
	l.check(netlink.LinkSetNsFd(peer, int(ns.Fd())))
	l.check(m.do(func() error {
		far, err := netlink.LinkByName("far")
		if err != nil {
			return err
		}
		for _, s := range addrs {
			a, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(far, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(far)
	}))
	return m
}

// Real IP stacks get along with the guard: ARP, duplicate address detection, neighbour discovery, reports, groups, fragments.
func TestRealStacksLoseNothing(t *testing.T) {
	l := newLab(t)
	for _, f := range []string{"iptables", "ip6tables", "arptables"} {
		l.sysctl("bridge/bridge-nf-call-"+f, "0")
	}
	macC, macD := [6]byte{2, 0, 0, 0, 0, 0xc}, [6]byte{2, 0, 0, 0, 0, 0xd}
	port := func(name string, mac [6]byte, ips ...string) Port {
		p := Port{Name: name, Bridge: labBridge, MAC: mac}
		for _, s := range ips {
			p.IPs = append(p.IPs, netip.MustParseAddr(s))
		}
		return p
	}
	g := l.open(desired(func(d *Desired) {
		d.Ports = append(d.Ports, port("wv3", macC, "10.32.0.12", "fd00:9::c"), port("wv4", macD, "10.32.0.13", "fd00:9::d"))
	}))
	c := l.member("wv3", macC, "10.32.0.12/12", "fd00:9::c/64")
	d := l.member("wv4", macD, "10.32.0.13/12", "fd00:9::d/64")

	const port9 = 9999
	for _, to := range []string{"10.32.0.13", "fd00:9::d", linkLocal(macD).String() + "%far", "239.1.2.3", "ff15::1"} {
		addr := netip.MustParseAddr(to)
		network := "udp6"
		if addr.Is4() {
			network = "udp4"
		}
		var rx, tx *net.UDPConn
		l.check(d.do(func() (err error) {
			if !addr.IsMulticast() {
				rx, err = net.ListenUDP(network, &net.UDPAddr{Port: port9})
				return err
			}
			far, err := net.InterfaceByName("far")
			if err != nil {
				return err
			}
			rx, err = net.ListenMulticastUDP(network, far, &net.UDPAddr{IP: addr.AsSlice(), Port: port9})
			return err
		}))
		l.check(c.do(func() (err error) {
			far, err := netlink.LinkByName("far")
			if err != nil {
				return err
			}
			// A route for groups; "exists" the second time.
			_ = netlink.RouteAdd(&netlink.Route{LinkIndex: far.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(224, 0, 0, 0).To4(), Mask: net.CIDRMask(4, 32)}})
			tx, err = net.ListenUDP(network, &net.UDPAddr{})
			return err
		}))
		if err := rx.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// Until one arrives: addresses are tentative for a second (RFC 4862), during which sends fail.
		ctx, cancel := context.WithCancel(t.Context())
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			dst := net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port9))
			for ctx.Err() == nil {
				_ = c.do(func() error { _, err := tx.WriteToUDP(make([]byte, 3000), dst); return err }) // in fragments
				<-tick.C
			}
		}()
		buf := make([]byte, 4000)
		if n, _, err := rx.ReadFrom(buf); n != 3000 || err != nil {
			t.Errorf("to %s: %d bytes, %v", to, n, err)
		}
		cancel()
		<-sent
		_, _ = rx.Close(), tx.Close()
	}
	cs, err := g.Counters()
	l.check(err)
	for _, name := range bridgeDrops {
		if name != dropUplinkIGMP && name != dropUplinkMLD && cs[name].Packets != 0 {
			t.Errorf("%s dropped %d packets of real stacks", name, cs[name].Packets)
		}
	}
	if cs[dropUplinkMLD].Packets == 0 {
		t.Error("no MLD report was kept off the uplink: the stacks have not spoken")
	}
}

// The host is no router between networks, nor out of one.
func TestHostDoesNotForward(t *testing.T) {
	l := newLab(t)
	l.sysctl("ipv4/ip_forward", "1")
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wb2b"}}
	l.check(netlink.LinkAdd(other))
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wv9", MasterIndex: other.Index}, PeerName: "p9"}
	l.check(netlink.LinkAdd(v))
	far, err := netlink.LinkByName("p9")
	l.check(err)
	for _, x := range []netlink.Link{v, far, other} {
		l.check(netlink.LinkSetUp(x))
	}
	for link, s := range map[netlink.Link]string{l.bridge: "10.32.0.1/24", other: "10.33.0.1/24"} {
		a, err := netlink.ParseAddr(s)
		l.check(err)
		l.check(netlink.AddrAdd(link, a))
	}
	dst := netip.MustParseAddr("10.33.0.2")
	l.check(netlink.NeighAdd(&netlink.Neigh{LinkIndex: other.Attrs().Index, State: netlink.NUD_PERMANENT, IP: dst.AsSlice(), HardwareAddr: macX[:]}))
	w := openWire(t, far.Attrs().Index)
	frame := from(macA, hostMAC(l), 0x0800, ipv4(ip4A, dst, 17, udp(1, 1, []byte("across"))))
	// Without a guard it goes across.
	l.until("routing between bridges", func() bool { l.a.send(frame); return w.poll() != nil })
	g := l.open(desired(func(d *Desired) { d.Networks = append(d.Networks, Network{Bridge: "wb2b"}) }))
	l.until("the drop", func() bool { l.a.send(frame); return l.counter(g, dropForward) > 0 })
}
