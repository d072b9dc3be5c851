package bare

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// These tests run in a network namespace of their own, which goes with the process.
const inNamespace = "WEFT_BARE_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		// A fuzzer's workers are children and find the interfaces there.
		if _, err := net.InterfaceByName("lan0"); err != nil {
			for _, line := range []string{
				"link set lo up", "link add lan0 type veth peer name far0", "addr add 10.99.0.1/24 dev lan0",
				"addr add fe80::99/64 dev lan0 nodad", "link set far0 up", "link set lan0 up", "route add default dev lan0",
			} {
				if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
					fmt.Fprintf(os.Stderr, "ip %s: %v: %s", line, err, out)
					os.Exit(1)
				}
			}
		}
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // in place, so that the fuzzer's files stay open
	err := syscall.Unshare(syscall.CLONE_NEWNET)
	if err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inNamespace+"=1"))
	}
	fmt.Fprintln(os.Stderr, "these tests make a network namespace and need root:", err)
	os.Exit(1)
}

// zoned is where a program sends: in IPv6 it names the interface.
func zoned(a netip.Addr, port uint16) netip.AddrPort {
	if a.Is6() {
		a = a.WithZone("lan0")
	}
	return netip.AddrPortFrom(a, port)
}

// listenPlain is what a program does that knows nothing of us: it binds the group's port, alone, and sends from any.
func listenPlain(t *testing.T, group netip.AddrPort, ifi *net.Interface) net.PacketConn {
	t.Helper()
	network := "udp4"
	if group.Addr().Is6() {
		network = "udp6"
	}
	c, err := net.ListenPacket(network, fmt.Sprintf(":%d", group.Port()))
	if err != nil {
		t.Fatalf("a program cannot have the port: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	to := &net.UDPAddr{IP: group.Addr().AsSlice()}
	if group.Addr().Is4() {
		err = ipv4.NewPacketConn(c).JoinGroup(ifi, to)
	} else {
		err = ipv6.NewPacketConn(c).JoinGroup(ifi, to)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	return c
}

// An address that the kernel still looks whether another host has it cannot be sent from: another one is taken, and kept.
func TestTentativeAddress(t *testing.T) {
	const probes = "/proc/sys/net/ipv6/conf/lan0/dad_transmits"
	if err := os.WriteFile(probes, []byte("1000"), 0o600); err != nil { // a second each
		t.Fatal(err)
	}
	defer func() { _ = os.WriteFile(probes, []byte("1"), 0o600) }()
	for _, a := range []string{"fe80::1/64", "fe80::ffff/64"} { // before and after that which can be used, whatever the order
		for _, verb := range []string{"add", "del"} {
			args := []string{"addr", verb, a, "dev", "lan0"}
			if verb == "del" {
				defer func() { _ = exec.Command("ip", args...).Run() }()
			} else if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", args, err, out)
			}
		}
	}
	place := Place{Group: netip.MustParseAddrPort("[ff15::7]:5006"), Iface: "lan0", TTL: 1}
	s, err := Open(t.Context(), place)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	kept := netip.MustParseAddr("fe80::99")
	if _, from, err := find(place, kept); err != nil || from != kept {
		t.Errorf("%s instead of %s, %v", from, kept, err)
	}
}

// What a program of this host sends to a group is read, whole, whatever its size; what is sent is heard by the program, and comes
// back marked by its port. The program needs no option to share the port.
func TestSocket(t *testing.T) {
	for name, place := range map[string]Place{
		"by name":             {Group: netip.MustParseAddrPort("225.4.5.6:5000"), Iface: "lan0", TTL: 1},
		"by address":          {Group: netip.MustParseAddrPort("225.4.5.6:5001"), Iface: "10.99.0.1", TTL: 3},
		"by route":            {Group: netip.MustParseAddrPort("225.4.5.6:5002"), TTL: 1},
		"IPv6":                {Group: netip.MustParseAddrPort("[ff15::6]:5003"), Iface: "lan0", TTL: 1},
		"IPv6, of one link":   {Group: netip.MustParseAddrPort("[ff02::4:5:6]:5004"), Iface: "lan0", TTL: 1},
		"IPv6, by an address": {Group: netip.MustParseAddrPort("[ff15::6]:5005"), Iface: "fe80::99", TTL: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), place)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Interface() != "lan0" || s.Check() != nil {
				t.Errorf("on %s, %v", s.Interface(), s.Check())
			}
			ifi, err := net.InterfaceByName("lan0")
			if err != nil {
				t.Fatal(err)
			}
			plain := listenPlain(t, place.Group, ifi)
			read := func() datagram {
				t.Helper()
				buf := make([]byte, 64<<10)
				for {
					n, err := s.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					d, _, err := decodeUDP(buf[:n])
					if place.Group.Addr().Is4() {
						d, err = decode4(buf[:n])
					}
					if err != nil {
						t.Fatal(err)
					}
					if d.to == place.Group.Port() {
						return d
					}
				}
			}
			for _, size := range []int{0, 5, 1472, 60_000} {
				payload := bytes.Repeat([]byte("z"), size)
				if err := s.Send(payload, place.Group.Port()); err != nil {
					t.Fatal(err)
				}
				if d := read(); d.from != Port || !bytes.Equal(d.payload, payload) {
					t.Errorf("%d bytes came back from port %d, %d bytes", size, d.from, len(d.payload))
				}
				got := make([]byte, 64<<10)
				if n, _, err := plain.ReadFrom(got); err != nil || !bytes.Equal(got[:n], payload) {
					t.Errorf("a program heard %d of %d bytes, %v", n, size, err)
				}
				if _, err := plain.WriteTo(payload, net.UDPAddrFromAddrPort(zoned(place.Group.Addr(), place.Group.Port()))); err != nil {
					t.Fatal(err)
				}
				if d := read(); d.from != place.Group.Port() || !bytes.Equal(d.payload, payload) {
					t.Errorf("a program's %d bytes: %d from port %d", size, len(d.payload), d.from)
				}
				_, _, _ = plain.ReadFrom(got) // its own
			}
			if n := s.Drops(); n != 0 {
				t.Errorf("%d dropped", n)
			}
			// Other groups on the same port are not ours.
			other := zoned(place.Group.Addr().Next(), place.Group.Port())
			if _, err := plain.WriteTo([]byte("other group"), net.UDPAddrFromAddrPort(other)); err != nil {
				t.Fatal(err)
			}
			if err := s.Send([]byte("end"), place.Group.Port()); err != nil {
				t.Fatal(err)
			}
			if d := read(); string(d.payload) != "end" {
				t.Errorf("%q", d.payload)
			}
		})
	}
}

func TestPlaceRefused(t *testing.T) {
	g4, g6 := netip.MustParseAddrPort("225.4.5.6:5000"), netip.MustParseAddrPort("[ff15::6]:5000")
	for want, p := range map[string]Place{
		"there is none of that name":           {Group: g4, Iface: "eth9", TTL: 1},
		"no interface has the address":         {Group: g4, Iface: "192.0.2.1", TTL: 1},
		"interface far0 has no IPv4 address":   {Group: g4, Iface: "far0", TTL: 1},
		"interface lan0: 10.99.0.1 is no IPv6": {Group: g6, Iface: "10.99.0.1", TTL: 1},
	} {
		if _, err := Open(t.Context(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", p, err, want)
		}
	}
}

func TestCheckGroup(t *testing.T) {
	for g, ok := range map[string]bool{
		"225.4.5.6:5000": true, "[ff15::6]:5000": true, "10.0.0.1:5000": false, "225.4.5.6:0": false, "225.4.5.6:6786": false,
		"[ff02::6%eth0]:5000": false, "[::ffff:225.4.5.6]:5000": false,
	} {
		if err := CheckGroup(netip.MustParseAddrPort(g)); (err == nil) != ok {
			t.Errorf("%s: %v", g, err)
		}
	}
	for s, ok := range map[string]bool{"bare.chat": true, "a": true, "a.*": false, "$WEFT.x": false, "": false} {
		if err := CheckSubject(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
