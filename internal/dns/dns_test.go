package dns

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// ask makes a query by another hand.
func ask(t testing.TB, name string, typ dnsmessage.Type, edns int) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(edns, dnsmessage.RCodeSuccess, true); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 10, Data: []byte("12345678")}}}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read unpacks an answer by another hand.
func read(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%v in %x", err, b)
	}
	return m
}

func TestQueriesAreRead(t *testing.T) {
	var q Query
	b := ask(t, "Web.Weft.WEFT.internal.", dnsmessage.TypeAAAA, 4096)
	if err := ParseQuery(b, &q); err != nil {
		t.Fatal(err)
	}
	if string(q.Name()) != "web.weft.weft.internal" || q.ID != 7 || q.Type != TypeAAAA || q.Class != ClassIN || !q.EDNS || q.Size != 4096 || !q.DO || !q.Recursive() {
		t.Errorf("read %q %+v", q.Name(), q)
	}
	if err := ParseQuery(ask(t, ".", dnsmessage.TypeNS, 0), &q); err != nil || len(q.Name()) != 0 || q.EDNS || q.Size != MinUDP {
		t.Errorf("the root: %v, %q, %+v", err, q.Name(), q)
	}
}

// Packets that are no query: each with what is said of it.
func TestBadQueries(t *testing.T) {
	good := ask(t, "a.b.", dnsmessage.TypeA, 1232)
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	set := func(at int, v ...byte) []byte {
		return change(func(b []byte) []byte { copy(b[at:], v); return b })
	}
	opt := len(good) - optLen - 12 // the option takes 12 bytes
	for name, c := range map[string]struct {
		packet []byte
		want   error
	}{
		"nothing":             {nil, ErrShort},
		"half a header":       {good[:11], ErrShort},
		"a response":          {set(2, 0x80), ErrResponse},
		"an update":           {set(2, 5<<3), ErrOpcode},
		"no question":         {set(4, 0, 0), ErrForm},
		"two questions":       {set(4, 0, 2), ErrForm},
		"65535 questions":     {set(4, 0xff, 0xff), ErrForm},
		"an answer":           {set(6, 0, 1), ErrForm},
		"authority":           {set(8, 0, 1), ErrForm},
		"a pointer to itself": {set(HeaderLen, 0xc0, HeaderLen), ErrForm},
		"a pointer forward":   {set(HeaderLen, 0xc0, 40), ErrForm},
		"label type 01":       {set(HeaderLen, 0x41), ErrForm},
		"label type 10":       {set(HeaderLen, 0x80), ErrForm},
		"a label too long":    {set(HeaderLen, 64), ErrForm},
		"a label past the end": {change(func(b []byte) []byte {
			b[HeaderLen] = 60
			return b[:HeaderLen+20]
		}), ErrForm},
		"a name of 256": {append(append(append([]byte{}, good[:10]...), 0, 0), strings.Repeat("\x3f"+strings.Repeat("x", 63), 4)+"\x00\x00\x01\x00\x01"...), ErrForm},
		"no type":       {good[:HeaderLen+5], ErrForm},
		"no class":      {good[:HeaderLen+5+2], ErrForm},
		"no EDNS":       {good[:opt], ErrForm},
		"EDNS cut":      {good[:len(good)-1], ErrForm},
		"EDNS by name":  {change(func(b []byte) []byte { return append(append(b[:opt:opt], 1, 'x'), b[opt:]...) }), ErrForm},
		"EDNS twice":    {change(func(b []byte) []byte { b[11] = 2; return append(b, b[opt:]...) }), ErrForm},
		"much beside":   {set(10, 0, 3), ErrForm},
	} {
		var q Query
		if err := ParseQuery(c.packet, &q); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if errors.Is(c.want, ErrForm) || errors.Is(c.want, ErrOpcode) {
			if m := read(t, q.AppendFail(nil, FormErr)); m.ID != 7 || m.RCode != dnsmessage.RCodeFormatError || !m.Response {
				t.Errorf("%s: answered %+v", name, m)
			}
		}
	}
	// A name of 255 bytes is one.
	long := append(append([]byte{}, good[:10]...), 0, 0)
	for range 3 {
		long = append(append(long, 63), strings.Repeat("x", 63)...)
	}
	long = append(append(append(long, 61), strings.Repeat("y", 61)...), 0, 0, 1, 0, 1)
	var q Query
	if err := ParseQuery(long, &q); err != nil || len(q.Name()) != 253 {
		t.Errorf("a name of 255 bytes: %v, %d", err, len(q.Name()))
	}
	dotted := append(append([]byte{}, good[:10]...), 0, 0, 3, 'a', '.', 'b', 0, 0, 1, 0, 1)
	if err := ParseQuery(dotted, &q); err != nil || string(q.Name()) != "a\x00b" {
		t.Errorf("a dot in a label: %v, %q", err, q.Name())
	}
}

func TestAnswersAreWritten(t *testing.T) {
	var q Query
	if err := ParseQuery(ask(t, "_http._tcp.Net.Example.", dnsmessage.TypePTR, 1232), &q); err != nil {
		t.Fatal(err)
	}
	var r Response
	r.Begin(&q, []byte("before"), MaxUDP)
	ok := r.Pointer(Answer, Name{}, TypePTR, 1, Name{"web._http._tcp", "net.example"})
	ok = r.SOA(Authority, Name{"net.example", ""}, 1, Name{"", "net.example"}, Name{"hostmaster", "net.example"}) && ok
	ok = r.SRV(Additional, Name{"web._http._tcp", "net.example"}, 1, 1, 2, 80, Name{"web", "net.example"}) && ok
	ok = r.TXT(Additional, Name{"web._http._tcp", "net.example"}, 1, []string{"a=b", "c"}) && ok
	ok = r.TXT(Additional, Name{"none", "net.example"}, 1, nil) && ok
	ok = r.Address(Additional, Name{"web", "net.example"}, 1, netip.MustParseAddr("10.32.0.5")) && ok
	ok = r.Address(Additional, Name{"web", "net.example"}, 1, netip.MustParseAddr("fd00::5")) && ok
	ok = r.HINFO(Additional, Name{"", "net.example"}, 1) && ok
	if r.Pointer(Authority, Name{}, TypeNS, 1, Name{Tail: "x"}) {
		t.Error("a record behind its section is taken")
	}
	b := r.Finish()
	if !ok || !bytes.HasPrefix(b, []byte("before")) {
		t.Fatalf("%v, %x", ok, b)
	}
	m := read(t, b[len("before"):])
	text := strings.NewReplacer("dnsmessage.", "", `\x5f`, "_", `\x3d`, "=").Replace(m.GoString())
	for _, want := range []string{
		`Name: MustNewName("_http._tcp.Net.Example.")`, `PTR: MustNewName("web._http._tcp.Net.Example.")`,
		`SRVResource{Priority: 1, Weight: 2, Port: 80, Target: MustNewName("web.net.example.")}`, `TXT: []string{"a=b", "c"}`, `TXT: []string{""}`,
		`A: [4]byte{10, 32, 0, 5}`, `SOAResource{NS: MustNewName("Net.Example."), MBox: MustNewName("hostmaster.Net.Example.")`, `MinTTL: 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if !m.Authoritative || !m.RecursionAvailable || !m.RecursionDesired || m.Truncated || len(m.Additionals) != 7 || len(m.Authorities) != 1 || m.ID != 7 {
		t.Errorf("header %+v, %d additional", m.Header, len(m.Additionals))
	}
}

func TestTruncation(t *testing.T) {
	var q Query
	if err := ParseQuery(ask(t, "many.net.", dnsmessage.TypeA, 0), &q); err != nil {
		t.Fatal(err)
	}
	var r Response
	r.Begin(&q, nil, MinUDP)
	for i := range 100 {
		r.Address(Answer, Name{}, 1, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	b := r.Finish()
	m := read(t, b)
	if !m.Truncated || len(b) > MinUDP || len(b) < MinUDP-16 || len(m.Answers) != r.Len(Answer) {
		t.Errorf("%d bytes, %d answers, %+v", len(b), len(m.Answers), m.Header)
	}
	// What is beside the answer may be missing without a word (RFC 2181 section 9).
	r.Begin(&q, nil, HeaderLen+len(q.Question())+10)
	r.Address(Additional, Name{}, 1, netip.AddrFrom4([4]byte{10, 0, 0, 1}))
	if m := read(t, r.Finish()); m.Truncated || len(m.Additionals) != 0 {
		t.Errorf("%+v", m)
	}
}

func TestForwarding(t *testing.T) {
	var q, up Query
	if err := ParseQuery(ask(t, "WwW.Example.", dnsmessage.TypeA, 4096), &q); err != nil {
		t.Fatal(err)
	}
	b := q.AppendQuery(nil, 99)
	if err := ParseQuery(b, &up); err != nil || up.ID != 99 || up.Size != MaxUDP || !up.DO || !up.Recursive() || string(up.Name()) != "www.example" {
		t.Fatalf("asked %v, %+v", err, up)
	}
	if m := read(t, b); len(m.Additionals) != 1 || len(m.Additionals[0].Body.(*dnsmessage.OPTResource).Options) != 0 {
		t.Errorf("the asker's options went along: %+v", m)
	}
	var r Response
	r.Begin(&up, nil, MaxUDP)
	r.Address(Answer, Name{}, 1, netip.MustParseAddr("192.0.2.1"))
	got := bytes.Replace(r.Finish(), []byte("WwW"), []byte("www"), 1)
	if rc, ok := q.Answers(got, 99); !ok || rc != NoError {
		t.Errorf("the answer is not taken: %v %v", rc, ok)
	}
	for name, other := range map[string][]byte{
		"another id":   append([]byte{0, 98}, got[2:]...),
		"a query":      b,
		"cut":          got[:HeaderLen+3],
		"another name": bytes.Replace(got, []byte("www"), []byte("wwx"), 1),
		"another type": bytes.Replace(got, []byte("\x00\x00\x01\x00\x01\xc0"), []byte("\x00\x00\x1c\x00\x01\xc0"), 1),
	} {
		if _, ok := q.Answers(other, 99); ok {
			t.Errorf("%s is taken for the answer", name)
		}
	}
	short := q.Readdress(bytes.Clone(got), 20)
	if m := read(t, short); !m.Truncated || m.ID != 7 || len(m.Answers)+len(m.Additionals) != 0 {
		t.Errorf("cut: %+v", m)
	}
	if m := read(t, q.Readdress(got, MaxUDP)); m.ID != 7 || m.Questions[0].Name.String() != "WwW.Example." || len(m.Answers) != 1 {
		t.Errorf("passed on: %+v", m)
	}
}

func TestNoAllocation(t *testing.T) {
	b := ask(t, "web.weft.weft.internal.", dnsmessage.TypeA, 1232)
	var q Query
	var r Response
	out := make([]byte, 0, MaxUDP)
	addr := netip.MustParseAddr("10.32.0.5")
	if n := testing.AllocsPerRun(100, func() {
		if ParseQuery(b, &q) != nil {
			t.Fatal("not read")
		}
		r.Begin(&q, out, MaxUDP)
		r.Address(Answer, Name{}, 1, addr)
		r.Pointer(Answer, Name{"other", "weft.internal"}, TypePTR, 1, Name{"web", "weft.weft.internal"})
		_ = r.Finish()
	}); n != 0 {
		t.Errorf("%v allocations a query", n)
	}
}

// FuzzQuery: what is read agrees with another reader, and what is said to anything is well formed.
func FuzzQuery(f *testing.F) {
	f.Add(ask(f, "web.weft.weft.internal.", dnsmessage.TypeA, 1232), "a.b", uint16(512))
	f.Add(ask(f, ".", dnsmessage.TypeNS, 0), "", uint16(20))
	f.Add([]byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), "x", uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, name string, limit uint16) {
		var q Query
		err := ParseQuery(b, &q)
		if errors.Is(err, ErrShort) || errors.Is(err, ErrResponse) {
			return
		}
		if err != nil {
			read(t, q.AppendFail(nil, FormErr))
			return
		}
		if bytes.IndexByte(q.Name(), 0) >= 0 {
			return // a label with a dot or a zero, which the other reader refuses
		}
		var p dnsmessage.Parser
		if _, err := p.Start(b); err != nil {
			t.Fatalf("read what has no header: %v", err)
		}
		other, err := p.Question()
		if err != nil || uint16(other.Type) != q.Type || uint16(other.Class) != q.Class ||
			!strings.EqualFold(strings.TrimSuffix(other.Name.String(), "."), string(q.Name())) {
			t.Fatalf("read %q %d %d, another %v, %v", q.Name(), q.Type, q.Class, other, err)
		}
		read(t, q.AppendFail(nil, BadVers))
		up := q.AppendQuery(nil, 3)
		var again Query
		if err := ParseQuery(up, &again); err != nil || !bytes.Equal(again.Name(), q.Name()) {
			t.Fatalf("asked on: %v, %q of %q", err, again.Name(), q.Name())
		}
		var r Response
		r.Begin(&q, nil, int(limit))
		if !valid(name) {
			name = "a"
		}
		r.Pointer(Answer, Name{}, TypePTR, 1, Name{Tail: name})
		r.SRV(Answer, Name{Head: name}, 1, 0, 0, 1, Name{Head: name, Tail: "x.y"})
		r.SOA(Authority, Name{Tail: name}, 1, Name{Head: name}, Name{Tail: name})
		out := r.Finish()
		read(t, out)
		if _, ok := again.Answers(out, q.ID); !ok {
			t.Fatal("our own answer is none")
		}
		_ = q.Readdress(out, int(limit))
	})
}

// valid reports whether a text is a name as Response takes it.
func valid(s string) bool {
	if len(s) > 200 {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if len(l) == 0 || len(l) > maxLabel {
			return false
		}
	}
	return true
}
