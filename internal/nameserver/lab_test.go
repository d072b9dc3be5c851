package nameserver

import (
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/weft-net/weft/internal/dns"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/names"
)

// upstream is a resolver that a test answers for.
type upstream struct {
	at     netip.AddrPort
	asked  atomic.Int64
	answer func(q dnsmessage.Message, tcp bool) []byte // nil: nothing
}

// resolve starts a resolver on loopback.
func resolve(t testing.TB, answer func(q dnsmessage.Message, tcp bool) []byte) *upstream {
	t.Helper()
	u := &upstream{answer: answer}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	u.at = l.Addr().(*net.TCPAddr).AddrPort()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(u.at))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = c.Close(); _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if out := u.take(b[:n], false); out != nil {
				_, _ = c.WriteToUDPAddrPort(out, from)
			}
		}
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, dns.MaxTCP)
			if n, err := readAnswer(conn, b); err == nil {
				if out := u.take(b[:n], true); out != nil {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
				}
			}
			_ = conn.Close()
		}
	})
	return u
}

func (u *upstream) take(b []byte, tcp bool) []byte {
	u.asked.Add(1)
	var m dnsmessage.Message
	if m.Unpack(b) != nil {
		return nil
	}
	return u.answer(m, tcp)
}

// reply makes an answer of addresses.
func reply(m dnsmessage.Message, addrs ...string) []byte {
	m.Response = true
	m.Additionals = nil
	for _, a := range addrs {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()},
		})
	}
	b, _ := m.Pack()
	return b
}

// serve starts a server on loopback with a name in it.
func serve(t testing.TB, own func(netip.Addr) bool, upstreams ...netip.AddrPort) *Server {
	t.Helper()
	s := New(Config{Upstream: func() []netip.AddrPort { return upstreams }, Own: own, Log: slog.New(slog.DiscardHandler)})
	s.port = 0
	t.Cleanup(s.Close)
	s.SetAlive(map[ident.HostID]bool{self: true})
	s.Change(vni, func(w *names.Table) { w.Attach(self, "web", []netip.Addr{netip.MustParseAddr("10.32.0.5")}) })
	zone := names.NewZone("net", "weft.internal", []netip.Addr{here}, nets)
	if err := s.Serve(vni, zone, nets, func(f func() error) error { return f() }); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Server) at(network string) string {
	l := s.network(vni).up.Load()
	if network == "tcp" {
		return l.tcp[0].Addr().String()
	}
	return l.udp[0].LocalAddr().String()
}

// dial opens a socket of a program that asks.
func dial(t testing.TB, s *Server, network string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, s.at(network))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func query(t testing.TB, name string, id uint16) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exchange asks and waits for the answer.
func exchange(t testing.TB, c net.Conn, packet []byte) dnsmessage.Message {
	t.Helper()
	if c.RemoteAddr().Network() == "tcp" {
		packet = append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	}
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
	return receive(t, c)
}

func receive(t testing.TB, c net.Conn) (m dnsmessage.Message) {
	t.Helper()
	b := make([]byte, dns.MaxTCP)
	var n int
	var err error
	if c.RemoteAddr().Network() == "tcp" {
		n, err = readAnswer(c, b)
	} else {
		n, err = c.Read(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Unpack(b[:n]); err != nil {
		t.Fatal(err)
	}
	return m
}

func addresses(m dnsmessage.Message) (out []string) {
	for _, a := range m.Answers {
		if v, ok := a.Body.(*dnsmessage.AResource); ok {
			out = append(out, netip.AddrFrom4(v.A).String())
		}
	}
	return out
}

// await polls until something is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); !so(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func (s *Server) dropped(reason string) uint64 { return s.Counts().Drops[reason] }
