package rig

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// probeTTL lets plain multicast cross any underlay here that would let it.
const probeTTL = 8

// programVariable makes this test binary one of the small programs below instead of a run of tests.
const programVariable = "WEFT_RIG_PROGRAM"

// program runs one of the rig's own programs when this process was started as one.
func program() bool {
	switch os.Getenv(programVariable) {
	case "":
		return false
	case "hear":
		fatal(hear(os.Args[1], os.Args[2]))
	case "say":
		fatal(say(os.Args[1], os.Args[2], os.Args[3]))
	case "storm":
		fatal(storm(os.Args[1], os.Args[2], os.Args[3], os.Args[4]))
	case "tcp":
		fatal(dialAndSend(os.Args[1], os.Args[2]))
	case "stream":
		fatal(stream(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	case "member":
		fatal(member(os.Args[1]))
	case "tally":
		fatal(tally(os.Args[1]))
	case "answer":
		fatal(answer())
	case "ask":
		fatal(ask(os.Args[1], os.Args[2], os.Args[3]))
	default:
		fatal(fmt.Errorf("no program %q", os.Getenv(programVariable)))
	}
	return true
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hear joins a group on an interface and prints every datagram as a line.
func hear(group, iface string) error {
	ap, err := netip.ParseAddrPort(group)
	if err != nil {
		return err
	}
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return err
	}
	c, err := net.ListenMulticastUDP("udp", ifi, net.UDPAddrFromAddrPort(ap))
	if err != nil {
		return err
	}
	_, _ = os.Stdout.WriteString("ready\n")
	buf := make([]byte, 64<<10)
	for {
		n, _, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		_, _ = os.Stdout.WriteString("got " + string(buf[:n]) + "\n")
	}
}

// say sends text to an address every 100 ms, as often as told. An IPv6 group carries its interface as the zone.
func say(to, text, times string) error {
	ap, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(ap))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	// A hop limit of 1, the default, would end at the first router whatever it does.
	if ap.Addr().Is4() {
		err = ipv4.NewPacketConn(c).SetMulticastTTL(probeTTL)
	} else {
		err = ipv6.NewPacketConn(c).SetMulticastHopLimit(probeTTL)
	}
	if err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range n {
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		<-tick.C
	}
	return nil
}

// answerPort is where every host that was asked once echoes datagrams: a ping that needs no ping.
const answerPort = 7

// answer echoes every datagram, for ever.
func answer() error {
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: answerPort})
	if err != nil {
		return err
	}
	_, _ = os.Stdout.WriteString("ready\n")
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		_, _ = c.WriteToUDPAddrPort(buf[:n], from)
	}
}

// ask sends n datagrams of a size to an answerer and prints how many answers came, distinct ones, within half a second
// of the last.
func ask(to, times, size string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	c, err := net.Dial("udp", net.JoinHostPort(to, strconv.Itoa(answerPort)))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	seen := make(map[byte]bool)
	buf := make([]byte, 64<<10)
	copy(buf[1:], "weft rig asks")
	for i := range n {
		buf[0] = byte(i)
		_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := c.Write(buf[:length]); err != nil {
			continue // an ICMP error for an earlier one, or no route
		}
		if i < n-1 {
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		}
		for len(seen) <= i {
			got := make([]byte, len(buf))
			if m, err := c.Read(got); err != nil || m == 0 {
				break
			}
			seen[got[0]] = true
		}
	}
	_, _ = fmt.Fprintf(os.Stdout, "answers %d\n", len(seen))
	return nil
}

// Reached returns how many of n datagrams (at most 256) of size bytes that one host sends to an address of another are
// answered.
func Reached(t testing.TB, from, to *Host, address netip.Addr, n, size int) int {
	t.Helper()
	if to.answers == nil {
		to.answers = to.rigProgram("answer")
		to.answers.ExpectLine("^ready$", 5*time.Second)
	}
	var got int
	line := from.rigProgram("ask", address.String(), strconv.Itoa(n), strconv.Itoa(size)).ExpectLine("^answers ", 20*time.Second)
	if _, err := fmt.Sscanf(line, "answers %d", &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// rigProgram starts one of the programs above on a host.
func (h *Host) rigProgram(name string, args ...string) *Process {
	h.w.T.Helper()
	self, err := os.Executable()
	if err != nil {
		h.w.T.Fatal(err)
	}
	return h.w.start(h.NS, name+" on "+h.Name, h.env(programVariable+"="+name), append([]string{self}, args...)...)
}

// Heard tells whether plain datagrams from one host to address arrive at the other, which has joined it on eth0 when it
// is a group. It takes about a second when nothing arrives.
func Heard(t testing.TB, from, at *Host, address netip.AddrPort) bool {
	t.Helper()
	listen, to := address.String(), address.String()
	if address.Addr().Is6() && address.Addr().IsMulticast() {
		to = netip.AddrPortFrom(address.Addr().WithZone("eth0"), address.Port()).String()
	}
	if !address.Addr().IsMulticast() {
		t.Fatalf("%s is no group", address)
	}
	if address.Addr().Is4() {
		from.w.batch(from.NS, "route replace 224.0.0.0/4 dev eth0\n")
		defer from.w.batch(from.NS, "route del 224.0.0.0/4 dev eth0\n")
	}
	hearer := at.rigProgram("hear", listen, "eth0")
	hearer.ExpectLine("^ready$", 5*time.Second)
	text := "probe from " + from.Name
	sayer := from.rigProgram("say", to, text, "8")
	_, err := hearer.AwaitLine("^got "+text+"$", 1200*time.Millisecond)
	if code := sayer.Wait(5 * time.Second); code != 0 {
		t.Fatalf("%s could not send: %v", from.Name, sayer.Errors())
	}
	hearer.Stop(time.Second)
	return err == nil
}

// MulticastProbe proves that plain multicast between two hosts does not arrive on this underlay, in either family: a test
// that shows weft delivering it would pass without weft otherwise.
func MulticastProbe(t testing.TB, from, at *Host) {
	t.Helper()
	for _, g := range []string{"239.255.77.77:7777", "[ff15::7777]:7777"} {
		if Heard(t, from, at, netip.MustParseAddrPort(g)) {
			t.Fatalf("plain multicast to %s from %s reaches %s: this underlay proves nothing", g, from.Name, at.Name)
		}
	}
}
