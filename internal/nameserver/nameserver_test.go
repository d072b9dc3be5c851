package nameserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/dns"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/names"
)

var (
	self     = ident.HostID{1}
	loopback = netip.MustParseAddr("127.0.0.1")
	here     = netip.MustParseAddr("127.0.0.2") // of the name service
	nets     = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
)

const vni = 7

// TestAnswers: names by UDP and TCP, several queries on one connection; what is no query is answered with what is wrong, or with nothing.
func TestAnswers(t *testing.T) {
	s := serve(t, nil)
	for _, network := range []string{"udp", "tcp"} {
		c := dial(t, s, network)
		for i := range uint16(3) {
			if m := exchange(t, c, query(t, "web.net.weft.internal.", i)); m.ID != i || !slices.Equal(addresses(m), []string{"10.32.0.5"}) {
				t.Errorf("%s: %+v", network, m)
			}
		}
		if m := exchange(t, c, query(t, "nobody.net.weft.internal.", 9)); m.RCode != dnsmessage.RCodeNameError || len(m.Authorities) != 1 {
			t.Errorf("%s: %+v", network, m)
		}
		bad := query(t, "web.", 4)
		bad[5] = 2
		if m := exchange(t, c, bad); m.RCode != dnsmessage.RCodeFormatError {
			t.Errorf("%s: two questions: %+v", network, m.Header)
		}
		update := query(t, "web.", 4)
		update[2] |= 5 << 3
		if m := exchange(t, c, update); m.RCode != dnsmessage.RCodeNotImplemented {
			t.Errorf("%s: an update: %+v", network, m.Header)
		}
		version := append(query(t, "web.", 4), 0, 0, 41, 4, 0, 0, 1, 0, 0, 0, 0)
		version[11] = 1
		if m := exchange(t, c, version); m.Additionals[0].Header.ExtendedRCode(m.RCode) != 16 {
			t.Errorf("%s: EDNS 1: %+v", network, m)
		}
	}
	c := dial(t, s, "udp")
	for _, b := range [][]byte{nil, []byte("short"), append([]byte{0, 1, 0x80}, make([]byte, 20)...), make([]byte, maxQuery+1)} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if m := exchange(t, c, query(t, "web.", 5)); m.ID != 5 { // nothing came before it
		t.Errorf("%+v", m)
	}
	d := s.Counts().Drops
	if d[dropMalformed] != 5 || d[dropResponse] != 1 || d[dropOperation] != 2 {
		t.Errorf("drops %v", d)
	}
}

// TestOthersAreRefused: only sources of the network are answered.
func TestOthersAreRefused(t *testing.T) {
	s := serve(t, nil)
	zone := names.NewZone("net", "weft.internal", []netip.Addr{here}, nets)
	if err := s.Serve(vni, zone, []netip.Prefix{netip.MustParsePrefix("10.32.0.0/20")}, func(f func() error) error { return f() }); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s, "tcp")
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a stranger's connection stays")
	}
	u := dial(t, s, "udp")
	if _, err := u.Write(query(t, "web.", 1)); err != nil {
		t.Fatal(err)
	}
	await(t, "two drops", func() bool { return s.dropped(dropForeign) == 2 })
}

// TestForward: what is not ours is asked of the host's resolvers, once for all who ask the same meanwhile.
func TestForward(t *testing.T) {
	release := make(chan struct{})
	up := resolve(t, func(m dnsmessage.Message, tcp bool) []byte {
		name := m.Questions[0].Name.String()
		switch {
		case strings.EqualFold(name, "slow.example."):
			<-release
		case name == "long.example." && !tcp:
			m.Truncated = true
			return reply(m)
		case name == "long.example.":
			return reply(m, slices.Repeat([]string{"192.0.2.9"}, 500)...)
		case name == "wide.example.":
			return reply(m, slices.Repeat([]string{"192.0.2.9"}, 50)...)
		case name == "nowhere.example.":
			m.RCode = dnsmessage.RCodeNameError
			return reply(m)
		}
		return reply(m, "192.0.2.1")
	})
	s := serve(t, nil, up.at)
	for _, network := range []string{"udp", "tcp"} {
		c := dial(t, s, network)
		if m := exchange(t, c, query(t, "WwW.Example.", 3)); m.ID != 3 || !slices.Equal(addresses(m), []string{"192.0.2.1"}) || m.Questions[0].Name.String() != "WwW.Example." {
			t.Errorf("%s: %+v", network, m)
		}
		if m := exchange(t, c, query(t, "nowhere.example.", 3)); m.RCode != dnsmessage.RCodeNameError {
			t.Errorf("%s: %+v", network, m)
		}
		m := exchange(t, c, query(t, "long.example.", 3))
		if network == "udp" && !m.Truncated || network == "tcp" && len(m.Answers) != 500 {
			t.Errorf("%s: %+v, %d answers", network, m.Header, len(m.Answers))
		}
		m = exchange(t, c, query(t, "wide.example.", 3))
		if network == "udp" && (!m.Truncated || len(m.Answers) != 0) || network == "tcp" && len(m.Answers) != 50 {
			t.Errorf("%s: %+v, %d answers", network, m.Header, len(m.Answers))
		}
	}
	before := up.asked.Load()
	var all []net.Conn
	for i := range 20 {
		c := dial(t, s, "udp")
		name := "slow.example."
		if i%2 == 1 {
			name = "SLOW.Example."
		}
		if _, err := c.Write(query(t, name, uint16(i))); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	await(t, "twenty that wait", func() bool { return s.Counts().Waiting == 20 })
	close(release)
	for i, c := range all {
		if m := receive(t, c); m.ID != uint16(i) || strings.HasPrefix(m.Questions[0].Name.String(), "SLOW") != (i%2 == 1) || len(m.Answers) != 1 {
			t.Errorf("%d: %+v", i, m)
		}
	}
	if n := up.asked.Load() - before; n != 1 {
		t.Errorf("asked %d times for 20", n)
	}
	norecursion := query(t, "www.example.", 8)
	norecursion[2] = 0
	if m := exchange(t, all[0], norecursion); m.RCode != dnsmessage.RCodeRefused {
		t.Errorf("without recursion: %+v", m.Header)
	}
	if c := s.Counts(); c.Waiting != 0 || len(s.forward.flights)+len(s.forward.by)+s.forward.count != 0 {
		t.Errorf("left: %+v", c)
	}
}

// TestForwardElsewhere: a resolver that is not there, refuses or lies does not count while another answers.
func TestForwardElsewhere(t *testing.T) {
	refuses := resolve(t, func(m dnsmessage.Message, _ bool) []byte { m.RCode = dnsmessage.RCodeRefused; return reply(m) })
	answers := resolve(t, func(m dnsmessage.Message, _ bool) []byte { return reply(m, "192.0.2.1") })
	closed, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = closed.Close()
	s := serve(t, nil, gone, refuses.at, answers.at)
	c := dial(t, s, "udp")
	if m := exchange(t, c, query(t, "www.example.", 1)); len(m.Answers) != 1 {
		t.Errorf("%+v", m)
	}
	before := refuses.asked.Load()
	if m := exchange(t, c, query(t, "www.example.", 2)); len(m.Answers) != 1 || refuses.asked.Load() != before {
		t.Errorf("who answered last is not asked first: %+v", m)
	}
	poor := serve(t, nil, gone, refuses.at)
	if m := exchange(t, dial(t, poor, "udp"), query(t, "www.example.", 1)); m.RCode != dnsmessage.RCodeRefused {
		t.Errorf("only one says something, and it refuses: %+v", m.Header)
	}
	none := serve(t, nil)
	if m := exchange(t, dial(t, none, "tcp"), query(t, "www.example.", 1)); m.RCode != dnsmessage.RCodeServerFailure || none.dropped(dropNoServer) != 1 {
		t.Errorf("without resolvers: %+v", m.Header)
	}
	nobody := serve(t, nil, gone)
	if m := exchange(t, dial(t, nobody, "udp"), query(t, "www.example.", 1)); m.RCode != dnsmessage.RCodeServerFailure || nobody.dropped(dropFailed) != 1 {
		t.Errorf("nobody there: %+v", m.Header)
	}
}

// TestForged: answers with another id or question are none.
func TestForged(t *testing.T) {
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	s := serve(t, nil, socket.LocalAddr().(*net.UDPAddr).AddrPort())
	c := dial(t, s, "udp")
	if _, err := c.Write(query(t, "www.example.", 1)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	_ = socket.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, from, err := socket.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(b[:n]); err != nil {
		t.Fatal(err)
	}
	forged := m
	forged.ID++
	other := m
	other.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("other.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
	for _, x := range [][]byte{reply(forged, "192.0.2.66"), reply(other, "192.0.2.66"), b[:n], []byte("x"), reply(m, "192.0.2.1")} {
		if _, err := socket.WriteToUDPAddrPort(x, from); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, c); !slices.Equal(addresses(got), []string{"192.0.2.1"}) || s.dropped(dropForged) != 4 {
		t.Errorf("%+v, %d forged", got, s.dropped(dropForged))
	}
}

// TestLoop: our own addresses are never asked, and a query that comes back by way of the host ends at once.
func TestLoop(t *testing.T) {
	var at atomic.Pointer[string]
	var inner atomic.Int32                                       // the rcode with which the query that came back ended
	up := resolve(t, func(m dnsmessage.Message, _ bool) []byte { // as a resolver on the host that is set to ask us
		c, err := net.Dial("udp", *at.Load())
		if err != nil {
			return nil
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 512)
		if _, err := c.Write(query(t, m.Questions[0].Name.String(), 77)); err != nil {
			return nil
		}
		if n, err := c.Read(b); err == nil && n > 3 {
			inner.Store(int32(b[3] & 15))
		}
		m.RCode = dnsmessage.RCodeServerFailure
		return reply(m)
	})
	var fromHost atomic.Bool
	s := serve(t, func(netip.Addr) bool { return fromHost.Load() }, up.at)
	asked := s.at("udp")
	at.Store(&asked)
	c := dial(t, s, "udp")
	fromHost.Store(true) // all come from the host: the first one is no loop
	if m := exchange(t, c, query(t, "www.example.", 1)); m.RCode != dnsmessage.RCodeServerFailure || dnsmessage.RCode(inner.Load()) != dnsmessage.RCodeServerFailure {
		t.Errorf("%+v, inside %d", m.Header, inner.Load())
	}
	if s.dropped(dropLoop) != 1 || up.asked.Load() != 1 {
		t.Errorf("drops %v, asked %d times", s.Counts().Drops, up.asked.Load())
	}
	own := serve(t, nil, netip.AddrPortFrom(here, 53))
	if m := exchange(t, dial(t, own, "udp"), query(t, "www.example.", 1)); m.RCode != dnsmessage.RCodeServerFailure || own.dropped(dropNoServer) != 1 {
		t.Errorf("%+v, %v", m.Header, own.Counts().Drops)
	}
}

// TestBounds: one source cannot have everything that waits, nor all connections.
func TestBounds(t *testing.T) {
	up := resolve(t, func(dnsmessage.Message, bool) []byte { return nil })
	s := serve(t, nil, up.at)
	c := dial(t, s, "udp")
	for i := range maxSource + 10 {
		if _, err := c.Write(query(t, fmt.Sprintf("x%d.example.", i), uint16(i))); err != nil {
			t.Fatal(err)
		}
		if i%16 == 15 { // the socket's queue is shorter than this test
			if m := exchange(t, dial(t, s, "udp"), query(t, "web.", 1)); len(m.Answers) != 1 {
				t.Fatal("names are not answered meanwhile")
			}
		}
	}
	for range 10 {
		if m := receive(t, c); m.RCode != dnsmessage.RCodeServerFailure || m.ID < maxSource {
			t.Errorf("%+v", m.Header)
		}
	}
	if n := s.Counts(); n.Waiting != maxSource || n.Drops[dropSource] != 10 {
		t.Errorf("%+v", n)
	}
	var conns []net.Conn
	for range maxConnsSource {
		x := dial(t, s, "tcp")
		if m := exchange(t, x, query(t, "web.", 1)); len(m.Answers) != 1 {
			t.Fatal("not answered")
		}
		conns = append(conns, x)
	}
	if _, err := dial(t, s, "tcp").Read(make([]byte, 1)); err == nil || s.dropped(dropTCPFull) != 1 {
		t.Errorf("a connection too many: %v, %v", err, s.Counts().Drops)
	}
	_ = conns[0].Close()
	await(t, "a place that is free again", func() bool {
		x, b := dial(t, s, "tcp"), query(t, "web.", 1)
		_, err := x.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
		if err == nil {
			_, err = x.Read(make([]byte, 2))
		}
		return err == nil
	})
	l := s.network(vni).up.Load()
	s.Close()
	if len(l.conns.all) != 0 || len(l.conns.by) != 0 || s.Counts().Waiting != 0 {
		t.Errorf("left: %d connections, %v, %d wait", len(l.conns.all), l.conns.by, s.Counts().Waiting)
	}
}

// TestSlowConnections: who drips bytes, says nothing or a length that no query has is not waited for.
func TestSlowConnections(t *testing.T) {
	for name, c := range map[string]struct {
		send  []byte
		every time.Duration
		want  time.Duration
	}{
		"silent":    {nil, 0, idleTime},
		"dripping":  {append([]byte{0, 200}, make([]byte, 200)...), time.Second, slowTime},
		"half":      {[]byte{0, 40, 1, 2, 3}, 0, slowTime},
		"no length": {[]byte{0, 0}, 0, 0},
		"too long":  {[]byte{0xff, 0xff}, 0, 0},
		"whole":     {append([]byte{0, 30}, make([]byte, 30)...), 100 * time.Millisecond, 3100 * time.Millisecond},
	} {
		bubbletest.Run(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer func() { _ = far.Close() }()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for i := range c.send {
					if i > 0 {
						time.Sleep(c.every)
					}
					if _, err := far.Write(c.send[i : i+1]); err != nil {
						return
					}
				}
			})
			began := time.Now()
			b, err := read(near, make([]byte, maxQuery+2))
			if took := time.Since(began); took != c.want || (err == nil) != (name == "whole") {
				t.Errorf("%s: %d bytes after %v, want %v, %v", name, len(b), took, c.want, err)
			}
			_ = near.Close()
		})
	}
}

func TestResolvers(t *testing.T) {
	list := parseResolvers("# c\nnameserver 127.0.0.53\n options edns0\nnameserver fe80::1%eth0 \n;nameserver 1.1.1.1\nnameserver x\nnameserver\nnameserver 0.0.0.0\nnameserver 9.9.9.9")
	if got := fmt.Sprint(list); got != "[127.0.0.53:53 [fe80::1%eth0]:53 127.0.0.1:53]" {
		t.Errorf("read %s", got)
	}
	path := t.TempDir() + "/resolv.conf"
	r := NewResolvers(path)
	if r.List() != nil {
		t.Error("a file that is not there names somebody")
	}
	if err := os.WriteFile(path, []byte("nameserver 10.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r.List() != nil {
		t.Error("looked again at once")
	}
	for _, want := range []string{"10.0.0.1", "10.0.0.22"} {
		if err := os.WriteFile(path, []byte("nameserver "+want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.next = time.Time{}
		if got := fmt.Sprint(r.List()); got != "["+want+":53]" {
			t.Errorf("read %s, want %s", got, want)
		}
	}
}

// FuzzServe: whatever comes is answered with something well formed, or with nothing.
func FuzzServe(f *testing.F) {
	f.Add(query(f, "web.net.weft.internal.", 1), true)
	f.Add(query(f, "www.example.", 1), false)
	s := serve(f, nil)
	n := s.network(vni)
	l := n.up.Load()
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		if len(b) > maxQuery {
			return
		}
		d := newDesk(0)
		answer, pass := n.answer(l, d, b, tcp)
		if pass {
			c := d.q.Clone()
			answer = c.AppendFail(nil, dns.ServFail)
		}
		var m dnsmessage.Message
		if answer == nil || bytes.IndexByte(d.q.Name(), 0) >= 0 {
			return
		}
		if err := m.Unpack(answer); err != nil || !m.Response || m.ID != binary.BigEndian.Uint16(b) {
			t.Fatalf("%x is answered by %x: %v", b, answer, err)
		}
	})
}

// BenchmarkServe asks for 100,000 names, 20,000 queries a second by UDP, and tells how long the slowest hundredth takes.
func BenchmarkServe(b *testing.B) {
	s := serve(b, nil)
	s.Change(vni, func(w *names.Table) {
		for i := range 100_000 {
			var v4 [4]byte
			binary.BigEndian.PutUint32(v4[:], 10<<24|32<<16|uint32(i))
			w.Attach(self, fmt.Sprint("service-", i), []netip.Addr{netip.AddrFrom4(v4)})
		}
	})
	var packets [][]byte
	for i := range 1 << 16 {
		packets = append(packets, query(b, fmt.Sprintf("service-%d.net.weft.internal.", i), uint16(i)))
	}
	c := dial(b, s, "udp").(*net.UDPConn)
	_ = c.SetDeadline(time.Time{})
	_ = c.SetReadBuffer(4 << 20)
	sent := make([]atomic.Int64, 1<<16)
	var took []time.Duration
	done := make(chan struct{})
	began := time.Now()
	const rate = 20_000
	total := 0
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for len(took) < b.N {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			n, err := c.Read(buf)
			if err != nil || n < 2 {
				return
			}
			took = append(took, time.Since(began)-time.Duration(sent[binary.BigEndian.Uint16(buf)].Load()))
		}
	}()
	b.ResetTimer()
	// What is due is sent each millisecond. To wait for each query's time by looking at the clock would take one of two cores away, and
	// the kernel lets what has just woken there wait for 3 ms.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for total < b.N {
		<-tick.C
		for due := min(b.N, int(time.Since(began)*rate/time.Second)); total < due; total++ {
			sent[total&0xffff].Store(int64(time.Since(began)))
			if _, err := c.Write(packets[total&0xffff]); err != nil {
				b.Fatal(err)
			}
		}
	}
	<-done
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/time.Since(began).Seconds(), "answers/s")
	b.ReportMetric(float64(b.N-len(took)), "lost")
	if len(took) > 0 {
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
	}
}
