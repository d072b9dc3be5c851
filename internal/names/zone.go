package names

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/dns"
)

// TTL is how long answers hold, negative ones too, in seconds: what has died or moved is asked for again at once.
const TTL = 1

// Zone is where the names of a network are, and which addresses are its.
type Zone struct {
	domain  string
	apex    string // NETWORK.DOMAIN
	network string
	servers []netip.Addr
	own     []netip.Prefix
}

// NewZone returns the zone of a network. servers are the addresses of the name service in it, own those of which nobody else in
// the world knows the names.
func NewZone(network, domain string, servers []netip.Addr, own []netip.Prefix) *Zone {
	return &Zone{domain: domain, network: network, apex: network + "." + domain, servers: servers, own: own}
}

// Servers returns the addresses of the name service.
func (z *Zone) Servers() []netip.Addr { return z.servers }

// Apex returns NETWORK.DOMAIN, in which short names are looked for.
func (z *Zone) Apex() string { return z.apex }

// Verdict says what is to become of a query.
type Verdict int

// Verdicts.
const (
	Answered Verdict = iota // the response is the answer
	Foreign                 // not ours to know: others are to be asked
)

// Asker is what one who answers queries keeps from one to the next.
type Asker struct {
	// Turn says which of several addresses comes first. It moves on by a row of numbers that looks random, from wherever it is: programs
	// ask for addresses of both families in turn, so that counting would give each of them every other address.
	Turn  uint32
	addrs []netip.Addr
}

// maxHolders bounds the addresses in an answer: 64 KiB hold no more.
const maxHolders = 4096

// services is the name that lists which services there are (RFC 6763 section 9).
const services = "_services._dns-sd._udp"

// Answer answers a query as z's name service; r was begun with it.
func (t *Table) Answer(z *Zone, q *dns.Query, r *dns.Response, a *Asker) Verdict {
	a.Turn = a.Turn*1664525 + 1013904223                                  // Knuth and Lewis; the high bits are the good ones
	if q.Class != dns.ClassIN || q.Type >= 128 && q.Type != dns.TypeANY { // questions about messages, transfers of zones
		r.SetRcode(dns.Refused)
		return Answered
	}
	name := q.Name()
	if rel, ok := under(name, z.domain); ok {
		if inside, ok := under(rel, z.network); ok {
			t.inNetwork(z, inside, q, r, a)
		} else {
			t.inDomain(z, rel, q, r, a)
		}
		return Answered
	}
	if addr, ok := reverse(name); ok {
		return t.pointer(z, name, addr, q, r)
	}
	if len(name) > 0 && !slices.Contains(name, '.') && (q.Type == dns.TypeA || q.Type == dns.TypeAAAA) {
		// Short names are nobody's but ours: outside they would be taken for top level domains.
		if n := t.nodes[string(name)]; n != nil && n.lives() {
			t.say(z, n, q, r, a)
		} else {
			r.SetRcode(dns.NXDomain)
		}
		return Answered
	}
	return Foreign
}

// under takes a zone off the end of a name.
func under(name []byte, zone string) (rel []byte, ok bool) {
	n := len(name) - len(zone)
	switch {
	case n < 0 || string(name[n:]) != zone:
		return nil, false
	case n == 0:
		return nil, true
	}
	return name[:n-1], name[n-1] == '.'
}

// inNetwork answers for NETWORK.DOMAIN and what is in it.
func (t *Table) inNetwork(z *Zone, rel []byte, q *dns.Query, r *dns.Response, a *Asker) {
	exists := true
	switch {
	case len(rel) == 0:
		z.self(q, r, z.apex)
	case string(rel) == services:
		if wantsPTR(q) {
			t.list(z, r)
		}
	case isBrowse(rel):
		if wantsPTR(q) {
			r.Pointer(dns.Answer, dns.Name{}, dns.TypePTR, TTL, dns.Name{Tail: z.apex})
		}
	default:
		n := t.nodes[string(rel)]
		if n == nil && rel[0] == '_' {
			n = t.instance(rel)
		}
		if exists = n != nil && n.lives(); exists {
			t.say(z, n, q, r, a)
		}
	}
	negative(r, z, z.apex, exists)
}

// inDomain answers for DOMAIN, and for names in it that leave the network out.
func (t *Table) inDomain(z *Zone, rel []byte, q *dns.Query, r *dns.Response, a *Asker) {
	exists := true
	if len(rel) == 0 {
		z.self(q, r, z.domain)
	} else if n := t.nodes[string(rel)]; n != nil && n.lives() {
		t.say(z, n, q, r, a)
	} else {
		exists = false
	}
	negative(r, z, z.domain, exists)
}

// instance finds NAME._svc._proto by the name _svc._proto.NAME.
func (t *Table) instance(rel []byte) *node {
	dots := 0
	for i, c := range rel {
		if c != '.' {
			continue
		}
		if dots++; dots == 2 {
			var buf [dns.MaxName]byte
			name := append(append(append(buf[:0], rel[i+1:]...), '.'), rel[:i]...)
			return t.nodes[string(name)]
		}
	}
	return nil
}

// isBrowse reports whether a name asks in which domains to look (RFC 6763 section 11).
func isBrowse(rel []byte) bool {
	switch string(rel) {
	case "b._dns-sd._udp", "db._dns-sd._udp", "lb._dns-sd._udp":
		return true
	}
	return false
}

// wantsPTR reports whether a query is for pointers, too.
func wantsPTR(q *dns.Query) bool { return q.Type == dns.TypePTR || q.Type == dns.TypeANY }

// self answers for the top of a zone.
func (z *Zone) self(q *dns.Query, r *dns.Response, zone string) {
	switch q.Type {
	case dns.TypeSOA:
		z.soa(r, dns.Answer, zone)
	case dns.TypeNS:
		r.Pointer(dns.Answer, dns.Name{}, dns.TypeNS, TTL, dns.Name{Tail: z.apex})
		for _, s := range z.servers {
			r.Address(dns.Additional, dns.Name{Tail: z.apex}, TTL, s)
		}
	case dns.TypeA, dns.TypeAAAA:
		for _, s := range z.servers {
			if zone == z.apex && s.Is4() == (q.Type == dns.TypeA) {
				r.Address(dns.Answer, dns.Name{}, TTL, s)
			}
		}
	case dns.TypeANY:
		r.HINFO(dns.Answer, dns.Name{}, TTL)
	}
}

func (z *Zone) soa(r *dns.Response, s dns.Section, zone string) {
	r.SOA(s, dns.Name{Tail: zone}, TTL, dns.Name{Tail: z.apex}, dns.Name{Head: "hostmaster", Tail: z.apex})
}

// negative completes an answer without records: the name is not there, or has none of that type (RFC 2308).
func negative(r *dns.Response, z *Zone, zone string, exists bool) {
	if r.Len(dns.Answer) > 0 || r.Truncated() {
		return
	}
	if !exists {
		r.SetRcode(dns.NXDomain)
	}
	z.soa(r, dns.Authority, zone)
}

// lives reports whether a host that is alive says something of a name, or of one that ends in it.
func (n *node) lives() bool {
	for i := range n.entries {
		if n.entries[i].host.alive {
			return true
		}
	}
	if n.serving != nil {
		for i := range n.serving.offers {
			if n.serving.offers[i].host.alive {
				return true
			}
		}
		return n.offered()
	}
	return n.below > 0
}

// offered reports whether a service has a living instance.
func (n *node) offered() bool {
	return slices.ContainsFunc(n.serving.instances, func(i *node) bool { return i.lives() })
}

// say answers with what is known of a name.
func (t *Table) say(z *Zone, n *node, q *dns.Query, r *dns.Response, a *Asker) {
	switch q.Type {
	case dns.TypeA, dns.TypeAAAA:
		t.addresses(n, q.Type == dns.TypeA, r, dns.Answer, dns.Name{}, a)
	case dns.TypeANY:
		r.HINFO(dns.Answer, dns.Name{}, TTL)
	case dns.TypePTR:
		t.instances(z, n, r, a)
	case dns.TypeSRV:
		t.places(z, n, r, a)
	case dns.TypeTXT:
		if n.serving == nil {
			return
		}
		for i := range n.serving.offers {
			if o := &n.serving.offers[i]; o.host.alive {
				r.TXT(dns.Answer, dns.Name{}, TTL, o.Texts)
				return // one record: several would be lists of which nobody knows which holds
			}
		}
	}
}

// addresses adds the addresses of one family that a name has.
func (t *Table) addresses(n *node, four bool, r *dns.Response, s dns.Section, owner dns.Name, a *Asker) {
	n.collect(four, a)
	count := len(a.addrs)
	if count == 0 {
		return
	}
	first := int(a.Turn>>16) % count
	for i := range count {
		if !r.Address(s, owner, TTL, a.addrs[(first+i)%count]) {
			return
		}
	}
}

// collect fills a.addrs with the addresses of one family that a name has.
func (n *node) collect(four bool, a *Asker) {
	a.addrs = a.addrs[:0]
	for i := range n.entries {
		e := &n.entries[i]
		switch {
		case !e.host.alive:
		case e.kind == alias:
			for j := range e.of.entries {
				if o := &e.of.entries[j]; o.host == e.host && o.kind == attached {
					a.collect(o.addrs, four)
				}
			}
		default:
			a.collect(e.addrs, four)
		}
	}
}

// compareAll is up to how many addresses one that is there is looked for: two hosts seldom say the same.
const compareAll = 32

func (a *Asker) collect(addrs []netip.Addr, four bool) {
	for _, x := range addrs {
		if x.Is4() != four || len(a.addrs) >= maxHolders || len(a.addrs) < compareAll && slices.Contains(a.addrs, x) {
			continue
		}
		a.addrs = append(a.addrs, x)
	}
}

// list names the services there are.
func (t *Table) list(z *Zone, r *dns.Response) {
	for _, n := range t.types {
		if n.offered() && !r.Pointer(dns.Answer, dns.Name{}, dns.TypePTR, TTL, dns.Name{Head: n.name, Tail: z.apex}) {
			return
		}
	}
}

// maxBeside is of how many instances all is told that somebody who browses asks next (RFC 6763 section 12.1).
const maxBeside = 8

// instances names who offers a service.
func (t *Table) instances(z *Zone, n *node, r *dns.Response, a *Asker) {
	if n.serving == nil {
		return
	}
	all := n.serving.instances
	for _, i := range all {
		if i.lives() && !r.Pointer(dns.Answer, dns.Name{}, dns.TypePTR, TTL, dns.Name{Head: i.name, Tail: z.apex}) {
			return
		}
	}
	if len(all) > maxBeside {
		return
	}
	for _, i := range all {
		for k := range i.serving.offers {
			o, owner := &i.serving.offers[k], dns.Name{Head: i.name, Tail: z.apex}
			if !o.host.alive {
				continue
			}
			target := i.target()
			r.SRV(dns.Additional, owner, TTL, o.Priority, o.Weight, o.Port, dns.Name{Head: target, Tail: z.apex})
			r.TXT(dns.Additional, owner, TTL, o.Texts)
			t.beside(z, target, r, a)
			break
		}
	}
}

// places adds where a service is: one instance's, or all of them.
func (t *Table) places(z *Zone, n *node, r *dns.Response, a *Asker) {
	if n.serving == nil {
		return
	}
	ok := locate(z, n, r)
	for _, i := range n.serving.instances {
		ok = ok && locate(z, i, r)
	}
	if !ok || len(n.serving.instances) > maxBeside {
		return
	}
	if len(n.serving.offers) > 0 {
		t.beside(z, n.target(), r, a)
	}
	for _, i := range n.serving.instances {
		t.beside(z, i.target(), r, a)
	}
}

// target returns the name at whose addresses an instance of a service is.
func (n *node) target() string {
	if i := strings.Index(n.name, "._"); i >= 0 { // no label of a name begins so but those of the service
		return n.name[:i]
	}
	return n.name
}

// locate adds where an instance is, hosts that say the same once. It reports whether all fitted.
func locate(z *Zone, n *node, r *dns.Response) bool {
	told := -1
	for k := range n.serving.offers {
		o := &n.serving.offers[k]
		if !o.host.alive || told >= 0 && o.same(&n.serving.offers[told].Service) {
			continue
		}
		if !r.SRV(dns.Answer, dns.Name{}, TTL, o.Priority, o.Weight, o.Port, dns.Name{Head: n.target(), Tail: z.apex}) {
			return false
		}
		told = k
	}
	return true
}

func (s *Service) same(o *Service) bool {
	return s.Port == o.Port && s.Priority == o.Priority && s.Weight == o.Weight
}

// beside adds the addresses of a service's name, as far as there is room.
func (t *Table) beside(z *Zone, name string, r *dns.Response, a *Asker) {
	n := t.nodes[name]
	if n == nil {
		return
	}
	for _, four := range [...]bool{true, false} {
		t.addresses(n, four, r, dns.Additional, dns.Name{Head: name, Tail: z.apex}, a)
	}
}

// pointer answers for the name of an address.
func (t *Table) pointer(z *Zone, name []byte, addr netip.Addr, q *dns.Query, r *dns.Response) Verdict {
	ours := slices.Contains(z.servers, addr) || slices.ContainsFunc(z.own, func(p netip.Prefix) bool { return p.Contains(addr) })
	exists := false
	if slices.Contains(z.servers, addr) {
		exists = true
		if wantsPTR(q) {
			r.Pointer(dns.Answer, dns.Name{}, dns.TypePTR, TTL, dns.Name{Tail: z.apex})
		}
	}
	places := t.back[addr]
	for i, p := range places {
		if !p.host.alive || slices.ContainsFunc(places[:i], func(o place) bool { return o.node == p.node && o.host.alive }) {
			continue
		}
		exists = true
		if wantsPTR(q) && !r.Pointer(dns.Answer, dns.Name{}, dns.TypePTR, TTL, dns.Name{Head: p.node.name, Tail: z.apex}) {
			break
		}
	}
	if !ours && !exists {
		return Foreign
	}
	if r.Len(dns.Answer) == 0 && !r.Truncated() {
		negative(r, z, string(parent(name, addr)), exists)
	}
	return Answered
}

// reverse reads an address out of the name under which its name is found (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverse(name []byte) (netip.Addr, bool) {
	if rel, ok := under(name, "in-addr.arpa"); ok {
		return reverse4(rel)
	}
	rel, ok := under(name, "ip6.arpa")
	if !ok || len(rel) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		c := rel[62-2*i]
		var v byte
		switch {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		default:
			return netip.Addr{}, false
		}
		if i < 31 && rel[61-2*i] != '.' {
			return netip.Addr{}, false
		}
		a[i/2] = a[i/2]<<4 | v
	}
	return netip.AddrFrom16(a), true
}

func reverse4(rel []byte) (netip.Addr, bool) {
	var a [4]byte
	at, digits, v := 3, 0, 0
	for i := 0; i <= len(rel); i++ {
		if i < len(rel) && rel[i] != '.' {
			c := rel[i]
			if c < '0' || c > '9' || digits == 3 || digits == 1 && v == 0 {
				return netip.Addr{}, false
			}
			v, digits = 10*v+int(c-'0'), digits+1
			continue
		}
		if digits == 0 || v > 255 || at < 0 {
			return netip.Addr{}, false
		}
		a[at] = byte(v)
		at, digits, v = at-1, 0, 0
	}
	return netip.AddrFrom4(a), at == -1
}

// parent returns the zone that is named as the authority for an address: of its /24 or /64.
func parent(name []byte, addr netip.Addr) []byte {
	if addr.Is4() {
		return name[slices.Index(name, '.')+1:]
	}
	return name[32:]
}
