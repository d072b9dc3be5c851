package names

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/weft-net/weft/internal/dns"
	"github.com/weft-net/weft/internal/ident"
)

var (
	h1, h2, h3 = ident.HostID{1}, ident.HostID{2}, ident.HostID{3}
	server     = addr("10.32.0.1")
	server6    = addr("fd00::a20:1")
	zone       = NewZone("net", "weft.internal", []netip.Addr{server, server6}, []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12"), netip.MustParsePrefix("fd00::/48")})
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

// world has three living hosts.
func world(t testing.TB) *Table {
	t.Helper()
	w := New()
	w.SetAlive(map[ident.HostID]bool{h1: true, h2: true, h3: true})
	return w
}

func apply(t testing.TB, w *Table, by ident.HostID, key string, v interface{ Check() error }) {
	t.Helper()
	b, err := Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Apply(by, key, b, false); err != nil {
		t.Fatal(err)
	}
}

var types = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "PTR": dnsmessage.TypePTR, "SRV": dnsmessage.TypeSRV, "TXT": dnsmessage.TypeTXT,
	"NS": dnsmessage.TypeNS, "SOA": dnsmessage.TypeSOA, "ANY": dnsmessage.TypeALL, "MX": dnsmessage.TypeMX, "AXFR": dnsmessage.TypeAXFR,
}

func packet(t testing.TB, question string) []byte {
	t.Helper()
	name, typ, _ := strings.Cut(question, " ")
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: types[typ], Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var asker Asker

// ask returns an answer as lines: the rcode, then records with the mark of their section; "foreign" for what others are to be asked.
func ask(t testing.TB, w *Table, question string) []string {
	t.Helper()
	var q dns.Query
	if err := dns.ParseQuery(packet(t, question), &q); err != nil {
		t.Fatal(err)
	}
	var r dns.Response
	r.Begin(&q, nil, dns.MaxTCP)
	if w.Answer(zone, &q, &r, &asker) == Foreign {
		return []string{"foreign"}
	}
	var m dnsmessage.Message
	b := r.Finish()
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%s: %v in %x", question, err, b)
	}
	out := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	for mark, list := range map[string][]dnsmessage.Resource{"": m.Answers, "authority ": m.Authorities, "beside ": m.Additionals} {
		for _, x := range list {
			out = append(out, mark+text(x))
		}
	}
	slices.Sort(out[1:])
	return out
}

// text shows a record; of an owner that is the name asked for only "@".
func text(x dnsmessage.Resource) string {
	owner := strings.TrimSuffix(x.Header.Name.String(), ".") + " "
	if x.Header.TTL != TTL {
		owner += fmt.Sprintf("TTL %d ", x.Header.TTL)
	}
	name := func(n dnsmessage.Name) string { return strings.TrimSuffix(n.String(), ".") }
	switch b := x.Body.(type) {
	case *dnsmessage.AResource:
		return owner + netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return owner + netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.PTRResource:
		return owner + "-> " + name(b.PTR)
	case *dnsmessage.NSResource:
		return owner + "NS " + name(b.NS)
	case *dnsmessage.SRVResource:
		return owner + fmt.Sprintf("%d %d %s:%d", b.Priority, b.Weight, name(b.Target), b.Port)
	case *dnsmessage.TXTResource:
		return owner + fmt.Sprintf("%q", b.TXT)
	case *dnsmessage.SOAResource:
		return owner + fmt.Sprintf("SOA %s %d", name(b.NS), b.MinTTL)
	}
	return owner + x.Header.Type.String()
}

func expect(t *testing.T, w *Table, question string, want ...string) {
	t.Helper()
	slices.Sort(want[1:])
	if got := ask(t, w, question); !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant\n  %s", question, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

const nothing = "authority net.weft.internal SOA net.weft.internal 1"

func TestAddresses(t *testing.T) {
	w := world(t)
	w.Attach(h1, "web", addrs("10.32.0.5", "fd00::a20:5"))
	apply(t, w, h2, KeyGiven+"printer.office", Given{Addrs: addrs("192.0.2.7")})
	expect(t, w, "web.net.weft.internal A", "Success", "web.net.weft.internal 10.32.0.5")
	expect(t, w, "WEB.Net.Weft.INTERNAL AAAA", "Success", "WEB.Net.Weft.INTERNAL fd00::a20:5")
	expect(t, w, "web.weft.internal A", "Success", "web.weft.internal 10.32.0.5")
	expect(t, w, "web A", "Success", "web 10.32.0.5")
	expect(t, w, "web.net.weft.internal ANY", "Success", "web.net.weft.internal TypeHINFO")
	expect(t, w, "web.net.weft.internal MX", "Success", nothing)
	expect(t, w, "printer.office.net.weft.internal A", "Success", "printer.office.net.weft.internal 192.0.2.7")
	expect(t, w, "printer.office.net.weft.internal AAAA", "Success", nothing)
	expect(t, w, "office.net.weft.internal A", "Success", nothing) // RFC 8020: something is below it
	expect(t, w, "nobody.net.weft.internal A", "NameError", nothing)
	expect(t, w, "nobody.weft.internal A", "NameError", "authority weft.internal SOA net.weft.internal 1")
	expect(t, w, "x.other.weft.internal A", "NameError", "authority weft.internal SOA net.weft.internal 1")
	expect(t, w, "nobody A", "NameError")
	expect(t, w, "com NS", "foreign")
	expect(t, w, "web.net.weft.internal AXFR", "Refused")
	for _, foreign := range []string{"example.com A", "xweft.internal A", "weft.internal.example.com A"} {
		expect(t, w, foreign, "foreign")
	}
	expect(t, w, "net.weft.internal A", "Success", "net.weft.internal 10.32.0.1")
	expect(t, w, "net.weft.internal SOA", "Success", "net.weft.internal SOA net.weft.internal 1")
	expect(t, w, "net.weft.internal NS", "Success", "beside net.weft.internal 10.32.0.1", "beside net.weft.internal fd00::a20:1", "net.weft.internal NS net.weft.internal")
	expect(t, w, "weft.internal SOA", "Success", "weft.internal SOA net.weft.internal 1")
	expect(t, w, "weft.internal A", "Success", "authority weft.internal SOA net.weft.internal 1")
	w.Detach(h1, "web")
	if err := w.Apply(h2, KeyGiven+"printer.office", nil, true); err != nil {
		t.Fatal(err)
	}
	expect(t, w, "web.net.weft.internal A", "NameError", nothing)
	expect(t, w, "office.net.weft.internal A", "NameError", nothing)
	if w.entries != 0 || len(w.nodes)+len(w.back)+len(w.hosts) != 0 {
		t.Errorf("left: %d entries, %v %v %v", w.entries, w.nodes, w.back, w.hosts)
	}
}

func TestReverse(t *testing.T) {
	w := world(t)
	w.Attach(h1, "web", addrs("10.32.0.5", "fd00::a20:5"))
	apply(t, w, h2, KeyGiven+"web", Given{Addrs: addrs("10.32.0.5", "192.0.2.7")})
	expect(t, w, "5.0.32.10.in-addr.arpa PTR", "Success", "5.0.32.10.in-addr.arpa -> web.net.weft.internal")
	expect(t, w, "5.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR", "Success",
		"5.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa -> web.net.weft.internal")
	expect(t, w, "1.0.32.10.in-addr.arpa PTR", "Success", "1.0.32.10.in-addr.arpa -> net.weft.internal")
	expect(t, w, "7.2.0.192.in-addr.arpa PTR", "Success", "7.2.0.192.in-addr.arpa -> web.net.weft.internal")
	expect(t, w, "6.0.32.10.in-addr.arpa PTR", "NameError", "authority 0.32.10.in-addr.arpa SOA net.weft.internal 1")
	expect(t, w, "5.0.32.10.in-addr.arpa A", "Success", "authority 0.32.10.in-addr.arpa SOA net.weft.internal 1")
	expect(t, w, "6.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR", "NameError",
		"authority 0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa SOA net.weft.internal 1")
	for _, s := range []string{
		"8.2.0.192.in-addr.arpa", "0.32.10.in-addr.arpa", "05.0.32.10.in-addr.arpa", "256.0.32.10.in-addr.arpa", "1.5.0.32.10.in-addr.arpa", "x.0.32.10.in-addr.arpa",
		"in-addr.arpa", "ip6.arpa", "g.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", "55.0.0.0.2.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
	} {
		expect(t, w, s+" PTR", "foreign")
	}
}

func TestServices(t *testing.T) {
	w := world(t)
	w.Attach(h1, "web", addrs("10.32.0.5"))
	apply(t, w, h1, ServiceKey("_http._tcp", "web"), Service{Port: 80, Texts: []string{"path=/"}})
	apply(t, w, h2, ServiceKey("_http._tcp", "shop.two"), Service{Port: 8080, Priority: 1, Weight: 2})
	apply(t, w, h2, ServiceKey("_ipp._udp", "printer"), Service{Port: 631})
	const n = "net.weft.internal"
	expect(t, w, "_services._dns-sd._udp."+n+" PTR", "Success", "_services._dns-sd._udp."+n+" -> _http._tcp."+n, "_services._dns-sd._udp."+n+" -> _ipp._udp."+n)
	for _, b := range []string{"b._dns-sd._udp", "db._dns-sd._udp", "lb._dns-sd._udp"} {
		expect(t, w, b+"."+n+" PTR", "Success", b+"."+n+" -> "+n)
	}
	expect(t, w, "_http._tcp."+n+" PTR", "Success",
		"_http._tcp."+n+" -> shop.two._http._tcp."+n, "_http._tcp."+n+" -> web._http._tcp."+n,
		"beside shop.two._http._tcp."+n+` [""]`, "beside shop.two._http._tcp."+n+" 1 2 shop.two."+n+":8080",
		"beside web."+n+" 10.32.0.5", "beside web._http._tcp."+n+` ["path=/"]`, "beside web._http._tcp."+n+" 0 0 web."+n+":80")
	expect(t, w, "_http._tcp."+n+" SRV", "Success",
		"_http._tcp."+n+" 0 0 web."+n+":80", "_http._tcp."+n+" 1 2 shop.two."+n+":8080", "beside web."+n+" 10.32.0.5")
	expect(t, w, "web._http._tcp."+n+" SRV", "Success", "beside web."+n+" 10.32.0.5", "web._http._tcp."+n+" 0 0 web."+n+":80")
	expect(t, w, "_http._tcp.web."+n+" SRV", "Success", "_http._tcp.web."+n+" 0 0 web."+n+":80", "beside web."+n+" 10.32.0.5")
	expect(t, w, "_http._tcp.shop.two."+n+" TXT", "Success", "_http._tcp.shop.two."+n+` [""]`)
	expect(t, w, "web._http._tcp."+n+" TXT", "Success", "web._http._tcp."+n+` ["path=/"]`)
	expect(t, w, "_tcp."+n+" A", "Success", nothing)
	expect(t, w, "_ftp._tcp."+n+" PTR", "NameError", nothing)
	expect(t, w, "_http._tcp.nobody."+n+" SRV", "NameError", nothing)
	// A second host offers the same.
	apply(t, w, h3, ServiceKey("_http._tcp", "web"), Service{Port: 80, Texts: []string{"path=/"}})
	expect(t, w, "web._http._tcp."+n+" SRV", "Success", "beside web."+n+" 10.32.0.5", "web._http._tcp."+n+" 0 0 web."+n+":80")
	// Changed, then gone.
	apply(t, w, h2, ServiceKey("_ipp._udp", "printer"), Service{Port: 632})
	expect(t, w, "printer._ipp._udp."+n+" SRV", "Success", "printer._ipp._udp."+n+" 0 0 printer."+n+":632")
	for key, by := range map[string]ident.HostID{ServiceKey("_ipp._udp", "printer"): h2, ServiceKey("_http._tcp", "shop.two"): h2} {
		if err := w.Apply(by, key, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, w, "_services._dns-sd._udp."+n+" PTR", "Success", "_services._dns-sd._udp."+n+" -> _http._tcp."+n)
	w.SetAlive(map[ident.HostID]bool{})
	expect(t, w, "_services._dns-sd._udp."+n+" PTR", "Success", nothing)
	expect(t, w, "_http._tcp."+n+" PTR", "NameError", nothing)
	for _, by := range []ident.HostID{h1, h3} {
		if err := w.Apply(by, ServiceKey("_http._tcp", "web"), nil, true); err != nil {
			t.Fatal(err)
		}
	}
	w.Detach(h1, "web")
	if w.entries != 0 || len(w.nodes)+len(w.types)+len(w.hosts) != 0 {
		t.Errorf("left: %d entries, %v %v %v", w.entries, w.nodes, w.types, w.hosts)
	}
}

func TestAliases(t *testing.T) {
	w := world(t)
	apply(t, w, h1, KeyAliases+"task-1", Aliases{Names: []string{"shop", "tasks.shop", "shop"}}) // before its attachment
	expect(t, w, "shop A", "Success")
	w.Attach(h1, "task-1", addrs("10.32.0.5"))
	w.Attach(h2, "task-2", addrs("10.32.0.6"))
	apply(t, w, h2, KeyAliases+"task-2", Aliases{Names: []string{"shop"}})
	expect(t, w, "shop A", "Success", "shop 10.32.0.5", "shop 10.32.0.6")
	if got := fmt.Sprint(w.Addresses("shop"), w.Addresses("nobody"), w.Names(addr("10.32.0.5")), w.Names(addr("10.32.0.1"))); got != "[10.32.0.5 10.32.0.6] [] [task-1] []" {
		t.Errorf("looked up %s", got)
	}
	expect(t, w, "tasks.shop.net.weft.internal A", "Success", "tasks.shop.net.weft.internal 10.32.0.5")
	apply(t, w, h1, KeyAliases+"task-1", Aliases{Names: []string{"shop"}})
	expect(t, w, "tasks.shop.net.weft.internal A", "NameError", nothing)
	w.Attach(h1, "task-1", addrs("10.32.0.9"))
	expect(t, w, "shop A", "Success", "shop 10.32.0.6", "shop 10.32.0.9")
	w.Detach(h1, "task-1")
	expect(t, w, "shop A", "Success", "shop 10.32.0.6")
	expect(t, w, "task-1 A", "NameError")
	for by, key := range map[ident.HostID]string{h1: "task-1", h2: "task-2"} {
		if err := w.Apply(by, KeyAliases+key, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	w.Detach(h2, "task-2")
	if w.entries != 0 || len(w.nodes)+len(w.aliases)+len(w.hosts)+len(w.back) != 0 {
		t.Errorf("left: %d entries, %v %v %v", w.entries, w.nodes, w.aliases, w.hosts)
	}
}

// What dead hosts said is not said any more, at once; and is again when they are back.
func TestDeath(t *testing.T) {
	w := world(t)
	w.Attach(h1, "web", addrs("10.32.0.5"))
	w.Attach(h2, "web", addrs("10.32.0.6"))
	apply(t, w, h1, KeyGiven+"alone", Given{Addrs: addrs("10.32.0.7")})
	w.SetAlive(map[ident.HostID]bool{h2: true})
	expect(t, w, "web A", "Success", "web 10.32.0.6")
	expect(t, w, "alone A", "NameError")
	expect(t, w, "7.0.32.10.in-addr.arpa PTR", "NameError", "authority 0.32.10.in-addr.arpa SOA net.weft.internal 1")
	w.Attach(h3, "new", addrs("10.32.0.8")) // nobody knows yet that it is alive
	expect(t, w, "new A", "NameError")
	w.SetAlive(map[ident.HostID]bool{h1: true, h2: true, h3: true})
	expect(t, w, "web A", "Success", "web 10.32.0.5", "web 10.32.0.6")
	expect(t, w, "new A", "Success", "new 10.32.0.8")
}

// Each address comes first about as often, whatever is asked for in between.
func TestTurns(t *testing.T) {
	w := world(t)
	for i := range 4 {
		apply(t, w, h1, KeyGiven+"web", Given{Addrs: addrs("10.32.0.5", "10.32.0.6", "10.32.0.7", "10.32.0.8")[:i+1]})
	}
	first := map[netip.Addr]int{}
	var q dns.Query
	var r dns.Response
	var a Asker
	for i := range 4000 {
		typ := "A"
		if i%2 == 1 {
			typ = "AAAA"
		}
		if err := dns.ParseQuery(packet(t, "web "+typ), &q); err != nil {
			t.Fatal(err)
		}
		r.Begin(&q, nil, dns.MinUDP)
		w.Answer(zone, &q, &r, &a)
		if b := r.Finish(); typ == "A" {
			first[netip.AddrFrom4([4]byte(b[len(b)-4*16+12:]))]++
		}
	}
	for x, n := range first {
		if len(first) != 4 || n < 400 || n > 600 {
			t.Errorf("%v comes first %d of 2000 times, of %v", x, n, first)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, s := range []string{"", "a..b", ".a", "a.", "-a", "a-", "A", "a b", "ä", "_a", "a._b", "localhost", strings.Repeat("a", 64), strings.Repeat("a.", 40) + "a"} {
		if CheckName(s) == nil {
			t.Errorf("name %q is taken", s)
		}
	}
	for _, s := range []string{"a", "a_b", "1", "a.b-c.d", strings.Repeat("a", 63)} {
		if err := CheckName(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "http._tcp", "_http", "_http._sctp", "_._tcp", "_http._tcp.x", "_0123456789abcdef._tcp", "_a_b._tcp", "_services._udp", "_Http._tcp"} {
		if CheckService(s) == nil {
			t.Errorf("service %q is taken", s)
		}
	}
	for _, v := range []interface{ Check() error }{
		Given{},
		Given{Addrs: make([]netip.Addr, 1)},
		Given{Addrs: addrs("0.0.0.0")},
		Given{Addrs: addrs("fe80::1%eth0")},
		Given{Addrs: addrs("224.0.0.1")},
		Given{Addrs: slices.Repeat(addrs("10.0.0.1"), MaxAddrs+1)},
		Service{},
		Service{Port: 1, Texts: []string{"=x"}},
		Service{Port: 1, Texts: []string{"a\x00=x"}},
		Service{Port: 1, Texts: []string{strings.Repeat("x", 256)}},
		Service{Port: 1, Texts: slices.Repeat([]string{"a"}, MaxTexts+1)},
		Service{Port: 1, Texts: slices.Repeat([]string{strings.Repeat("x", 250)}, 5)},
		Aliases{},
		Aliases{Names: []string{"-"}},
	} {
		if _, err := Encode(v); err == nil {
			t.Errorf("%+v is taken", v)
		}
	}
}

func TestBadRecords(t *testing.T) {
	w := world(t)
	apply(t, w, h1, KeyGiven+"web", Given{Addrs: addrs("10.32.0.5")})
	for _, key := range []string{KeyGiven + "web", KeyGiven + "-", KeyService + "_http._tcp", KeyService + "x/y", KeyAliases + "web", KeyAliases} {
		if err := w.Apply(h1, key, []byte{0xff}, false); err == nil {
			t.Errorf("%s: taken", key)
		}
	}
	expect(t, w, "web A", "NameError") // its last word was nonsense
	if c := w.Counts(); c.Bad != 6 || w.Entries() != 0 || len(w.nodes) != 0 {
		t.Errorf("%+v, %d entries, %v", c, w.Entries(), w.nodes)
	}
}

func TestBounded(t *testing.T) {
	w := world(t)
	a := addrs("10.32.0.5")
	for i := range MaxEntries {
		w.Attach(h1, fmt.Sprint("n", i), a[:0])
	}
	w.Attach(h2, "more", a)
	apply(t, w, h2, KeyAliases+"x", Aliases{Names: []string{"y"}})
	apply(t, w, h2, ServiceKey("_http._tcp", "more"), Service{Port: 1})
	if w.Entries() != MaxEntries || w.Counts().Full != 3 || len(w.nodes) != MaxEntries || len(w.hosts) != 1 || len(w.back)+len(w.aliases)+len(w.types) != 0 {
		t.Errorf("%d entries, %+v, %d names", w.Entries(), w.Counts(), len(w.nodes))
	}
	w.Detach(h1, "n0")
	w.Attach(h2, "more", a)
	expect(t, w, "more A", "Success", "more 10.32.0.5")
}

// full makes a table of many names, as attachments have them.
func full(t testing.TB, n int) *Table {
	w := world(t)
	hosts := []ident.HostID{h1, h2, h3}
	for i := range n {
		var v4 [4]byte
		binary.BigEndian.PutUint32(v4[:], 10<<24|32<<16|uint32(i))
		v6 := [16]byte{0: 0xfd, 12: v4[0], 13: v4[1], 14: v4[2], 15: v4[3]}
		w.Attach(hosts[i%3], fmt.Sprintf("service-%d", i), []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)})
	}
	return w
}

// TestMemory: 100,000 names of an IPv4 and an IPv6 address each take less than 100 MB.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w := full(t, 100_000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	size := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d bytes a name", size/100_000)
	if size > 60<<20 {
		t.Errorf("100,000 names take %d MB", size>>20)
	}
	runtime.KeepAlive(w)
}

func TestNoAllocation(t *testing.T) {
	w := full(t, 1000)
	apply(t, w, h1, ServiceKey("_http._tcp", "service-1"), Service{Port: 80, Texts: []string{"a=b"}})
	for _, question := range []string{
		"service-500.net.weft.internal A", "service-500.net.weft.internal AAAA", "nobody.net.weft.internal A", "_http._tcp.net.weft.internal PTR",
		"_http._tcp.net.weft.internal SRV", "service-1._http._tcp.net.weft.internal TXT", "5.0.32.10.in-addr.arpa PTR", "example.com A",
	} {
		b, out := packet(t, question), make([]byte, 0, dns.MaxUDP)
		var q dns.Query
		var r dns.Response
		var a Asker
		if n := testing.AllocsPerRun(100, func() {
			if dns.ParseQuery(b, &q) != nil {
				t.Fatal("not read")
			}
			r.Begin(&q, out, dns.MaxUDP)
			w.Answer(zone, &q, &r, &a)
			_ = r.Finish()
		}); n != 0 {
			t.Errorf("%s: %v allocations", question, n)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	w := full(b, 100_000)
	var packets [][]byte
	for i := range 1000 {
		packets = append(packets, packet(b, fmt.Sprintf("service-%d.net.weft.internal A", i*97)))
	}
	var q dns.Query
	var r dns.Response
	var a Asker
	out := make([]byte, 0, dns.MaxUDP)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_ = dns.ParseQuery(packets[i%len(packets)], &q)
		r.Begin(&q, out, dns.MaxUDP)
		w.Answer(zone, &q, &r, &a)
		_ = r.Finish()
	}
}

// FuzzApply: whatever hosts publish, the table stays whole, and empty when all of it has gone.
func FuzzApply(f *testing.F) {
	for _, v := range []interface{ Check() error }{Given{Addrs: addrs("10.0.0.1", "fd00::1")}, Service{Port: 1, Texts: []string{"a=b"}}, Aliases{Names: []string{"a", "b.c"}}} {
		b, err := Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(KeyGiven+"a", b, KeyService+"_http._tcp/a", b)
		f.Add(KeyAliases+"a.b", b, KeyService+"_http._udp/b.c", b)
	}
	f.Fuzz(func(t *testing.T, k1 string, v1 []byte, k2 string, v2 []byte) {
		for _, v := range [][]byte{v1, v2} {
			_, _ = DecodeGiven(v)
			_, _ = DecodeService(v)
			_, _ = DecodeAliases(v)
		}
		w := world(t)
		_ = w.Apply(h1, k1, v1, false)
		_ = w.Apply(h2, k2, v2, false)
		_ = w.Apply(h1, k2, v2, false)
		_ = w.Apply(h2, k1, v2, false)
		w.Attach(h1, "a", addrs("10.0.0.1"))
		var q dns.Query
		var r dns.Response
		for _, n := range w.nodes {
			for typ := range types {
				if dns.ParseQuery(packet(t, n.name+".net.weft.internal "+typ), &q) != nil {
					t.Fatalf("name %q cannot be asked for", n.name)
				}
				r.Begin(&q, nil, dns.MaxUDP)
				w.Answer(zone, &q, &r, &asker)
				var m dnsmessage.Message
				if err := m.Unpack(r.Finish()); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, h := range []ident.HostID{h1, h2} {
			for _, k := range []string{k1, k2} {
				_ = w.Apply(h, k, nil, true)
			}
		}
		w.Detach(h1, "a")
		if len(w.nodes)+len(w.back)+len(w.hosts)+len(w.aliases)+len(w.types)+w.entries != 0 {
			t.Fatalf("left: %v %v %v", w.nodes, w.back, w.aliases)
		}
	})
}
