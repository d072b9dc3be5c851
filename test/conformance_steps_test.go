package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// stepChat: unmodified programs find each other in a group, in both families.
func stepChat(t *testing.T, s *side) {
	chat(t, s.h, s.engine, s.group4(1), "1234")
	chat(t, s.h, s.engine, s.group6(1), "1236")
}

// stepUnicast: ARP and neighbour discovery are answered without a word to the other host, and packets arrive with the TTL
// they were sent with, if it is the last.
func stepUnicast(t *testing.T, s *side) {
	from, to := s.a[0], s.a[2]
	dump := to.host.Start(to.beside("tcpdump", "-i", "weft0", "-n", "-l", "-Q", "in",
		"arp[6:2] == 1 or (icmp6 and (ip6[40] == 135 or ip6[40] == 128)) or icmp[0] == 8")...)
	rig.Eventually(t, 5*time.Second, func() error {
		if !strings.Contains(strings.Join(dump.Errors(), "\n"), "listening") {
			return fmt.Errorf("%s is not listening", dump)
		}
		return nil
	})
	for _, address := range []string{to.ip4(), to.ip6()} {
		for _, ttl := range []string{"1", "64"} {
			if n, out := from.ping(address, 2, 56, "-t", ttl); n != 2 || !strings.Contains(out, "ttl=64") {
				t.Errorf("pings to %s with TTL %s:\n%s", address, ttl, out)
			}
		}
		if out := from.host.MustExec(from.beside("ip", "neigh", "show", address)...); !strings.Contains(out, "lladdr") {
			t.Errorf("%s has no neighbour %s: %s", from.name, address, out)
		}
	}
	from.do("send %s straight-to-you", to.ip4())
	to.awaitGot("straight-to-you", 3*time.Second)
	rig.Eventually(t, 5*time.Second, func() error { // requests of pings are seen: neighbours' would be
		if n := dump.Count("echo request"); n < 8 {
			return fmt.Errorf("the capture has %d pings of 8", n)
		}
		return nil
	})
	dump.Stop(5 * time.Second)
	if n := dump.Count("who-has|neighbor solicitation"); n != 0 {
		t.Errorf("%d questions for neighbours reached %s:\n%s", n, to.host.Name, strings.Join(dump.Lines(), "\n"))
	}
}

// stepFullLength: programs see one MTU on every host, and frames of that length arrive whole; longer datagrams are
// the sender's own kernel's to cut.
func stepFullLength(t *testing.T, s *side) {
	from, to := s.a[0], s.a[1]
	for _, a := range s.a {
		if out := a.host.MustExec(a.beside("ip", "-o", "link", "show", "weft0")...); !hasMTU(out, s.mtu) {
			t.Errorf("%s: want MTU %d: %s", a.name, s.mtu, out)
		}
		all, err := a.host.Networks()
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			if n.MTU != s.mtu {
				t.Errorf("%s: network %s has MTU %d, want %d", a.host.Name, n.Name, n.MTU, s.mtu)
			}
		}
	}
	s.fullLength(t, "full")
	if n, out := from.ping(to.ip4(), 1, s.mtu-27); n != 0 || !strings.Contains(out, fmt.Sprintf("mtu=%d", s.mtu)) {
		t.Errorf("a ping one byte too long:\n%s", out)
	}
	to.do("join %s", s.group4(2))
	rig.AwaitMembers(t, 10*time.Second, from.host, s.group4(2), 1)
	from.do("send %s longer 20000", s.group4(2))
	to.awaitGot("longer", 5*time.Second)
	if to.Count("^got longer 20000 ") != 1 {
		t.Error("a datagram of 20000 bytes did not arrive whole")
	}
	to.do("leave %s", s.group4(2))
}

// hasMTU reads a line of ip link.
func hasMTU(line string, mtu int) bool { return strings.Contains(line, fmt.Sprintf(" mtu %d ", mtu)) }

// fullLength has frames of the network's MTU go from the first host to the second: unicast that must not be fragmented, and
// groups, in both families.
func (s *side) fullLength(t *testing.T, tag string) {
	t.Helper()
	from, to := s.a[0], s.a[1]
	for address, size := range map[string]int{to.ip4(): s.mtu - 28, to.ip6(): s.mtu - 48} {
		if n, out := from.ping(address, 3, size); n != 3 {
			t.Errorf("pings of %d bytes to %s:\n%s", size, address, out)
		}
	}
	for group, size := range map[string]int{s.group4(3): s.mtu - 28, s.group6(3): s.mtu - 48} {
		to.do("join %s", group)
		rig.AwaitMembers(t, 10*time.Second, from.host, group, 1)
		text := fmt.Sprintf("%s-%d", tag, size)
		from.do("send %s %s %d", group, text, size)
		to.awaitGot(text, 5*time.Second)
		if n := to.Count(fmt.Sprintf("^got %s %d ", text, size)); n != 1 {
			t.Errorf("%d bytes to %s arrived %d times whole", size, group, n)
		}
		to.do("leave %s", group)
	}
}

// stepSources: one wants a source, another all: the first hears one, the second both.
func stepSources(t *testing.T, s *side) {
	wanted, picky, other := s.a[0], s.a[1], s.a[2]
	for group, source := range map[string]string{s.ssm4(1): wanted.ip4(), s.ssm6(1): wanted.ip6()} {
		tag := strings.NewReplacer(":", "", ".", "").Replace(group)
		picky.do("join %s %s", group, source)
		for _, at := range []*rig.Host{wanted.host, other.host} {
			rig.Eventually(t, 10*time.Second, func() error { return sourceMember(at, group, source) })
		}
		other.do("send %s not-wanted%s", group, tag)
		wanted.do("send %s wanted%s", group, tag)
		picky.awaitGot("wanted"+tag, 5*time.Second)
		other.do("join %s", group)
		rig.Eventually(t, 10*time.Second, func() error { return sourceMember(wanted.host, group, "*") })
		wanted.do("send %s for-both%s", group, tag)
		picky.awaitGot("for-both"+tag, 5*time.Second)
		other.awaitGot("for-both"+tag, 5*time.Second)
		if picky.got("not-wanted"+tag) > 0 { // it has had as long as two others
			t.Errorf("a member of (%s,%s) got a datagram of another source", source, group)
		}
		picky.do("leave %s %s", group, source)
		other.do("leave %s", group)
	}
}

// stepCopies: only the member's host gets packets, until a second after it left, and only plain ones can be read on the way.
func stepCopies(t *testing.T, s *side) {
	const size = 700 // longer than what hosts say to each other when idle; probes of lengths are longer
	copies := fmt.Sprintf("udp and greater %d and less %d", size, size+300)
	sender, member, none := s.a[0], s.a[1], s.a[2]
	groups := map[string]string{"four": s.group4(4), "six": s.group6(4)}
	for _, group := range groups {
		member.do("join %s", group)
		rig.AwaitMembers(t, 10*time.Second, sender.host, group, 1)
	}
	at, beside := s.u.Capture(member.host), s.u.Capture(none.host)
	for text, group := range groups {
		sender.do("flow %s 400 4 %d a-copy-%s", group, size, text)
	}
	for text, group := range groups {
		member.awaitGot("a-copy-"+text+"-100", 5*time.Second)
		member.do("leave %s", group)
	}
	rig.Pause(t, time.Second)
	stopped := at.Count(copies)
	rig.Pause(t, 500*time.Millisecond)
	if later := at.Count(copies); later != stopped {
		t.Errorf("%d copies came later than 1 s after the leave", later-stopped)
	}
	sum := 0
	for text := range groups {
		got, all := member.flowed("a-copy-" + text)
		if got != all || got < 100 {
			t.Errorf("of %s the member got %d datagrams, %d in all", text, got, all)
		}
		sum += got
		if readable := at.Grep("a-copy-" + text); readable != s.plain() {
			t.Errorf("the payload of %s is readable on the underlay: %v", text, readable)
		}
	}
	if stopped < sum {
		t.Errorf("%d copies for %d datagrams: the capture proves nothing", stopped, sum)
	}
	if n := beside.Count(copies); n != 0 {
		t.Errorf("%s has no member and got %d copies", none.host.Name, n)
	}
	for range groups {
		sender.ExpectLine("^flowed a-copy-", 5*time.Second)
	}
	at.Stop()
	beside.Stop()
}

// stepAll: broadcast, and groups of the link, go to all hosts with attachments.
func stepAll(t *testing.T, s *side) {
	for _, a := range s.a[1:] {
		a.do("join 224.0.0.251")
		a.do("join ff02::1")
	}
	for i, to := range []string{s.broadcast(t), "224.0.0.251", "ff02::1%weft0"} {
		text := fmt.Sprintf("everyone-%d", i)
		s.a[0].do("send %s %s", to, text)
		for _, a := range s.a[1:] {
			a.awaitGot(text, 5*time.Second)
		}
	}
	for _, a := range s.a[1:] {
		a.do("leave 224.0.0.251")
		a.do("leave ff02::1")
	}
}

// broadcast is the address of all in the network's IPv4 subnet.
func (s *side) broadcast(t *testing.T) string {
	t.Helper()
	att, err := s.h[0].Attachment(s.a[0].name)
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range att.IPs {
		if p, err := netip.ParsePrefix(ip); err == nil && p.Addr().Is4() {
			b := p.Addr().As4()
			for i := p.Bits(); i < 32; i++ {
				b[i/8] |= 1 << (7 - i%8)
			}
			return netip.AddrFrom4(b).String()
		}
	}
	t.Fatalf("%s has no IPv4 subnet: %v", att.Name, att.IPs)
	return ""
}
