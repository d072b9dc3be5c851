package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Ruleset is a packet filter as a value: what Rules decides, String prints and a Guard installs.
type Ruleset struct{ Tables []Table }

// Table is an nft table with its named counters.
type Table struct {
	Family, Name string
	Counters     []string
	Sets         []Set
	Chains       []Chain
}

// Set is a named set; rules look keys up in it. Elements are in the kernel's form: each part of the key padded to 4 bytes.
type Set struct {
	Name     string
	Parts    []kind
	Size     uint32
	Limits   bool     // filled by rules: each element holds a rate limit and goes a minute after its last use
	Elements []string // sorted, without duplicates
}

// Chain is a list of rules, attached to a hook if Hook is set.
type Chain struct {
	Name     string
	Hook     string
	Priority int32
	Rules    []Rule
}

// Rule acts when all its matches hold. A match on bytes that the frame does not have fails the rule; every chain that
// decides therefore ends with a drop.
type Rule struct {
	Matches []match
	Limit   *limit // if set: acts only above the rate
	Counter string // counts before the verdict
	Verdict verdict
	Target  string // chain to jump or go to
}

type verdict string

const (
	accept verdict = "accept"
	drop   verdict = "drop"
	jump   verdict = "jump"
	goTo   verdict = "goto"
	back   verdict = "return"
)

// limit is a rate in frames per second per key, kept in a set.
type limit struct {
	set  string
	key  field
	rate uint32
}

// kind is how bytes of a frame read, by nft's name.
type kind string

const (
	kindName  kind = "ifname"
	kindMAC   kind = "ether_addr"
	kindIP4   kind = "ipv4_addr"
	kindIP6   kind = "ipv6_addr"
	kindProto kind = "inet_proto"
	kindU8    kind = "u8"
	kindU16   kind = "u16"
	kindVNI   kind = "vni"
	kindBytes kind = "bytes"
)

func (k kind) size() int {
	switch k {
	case kindName, kindIP6:
		return 16
	case kindMAC:
		return 6
	case kindIP4:
		return 4
	case kindVNI:
		return 3
	case kindU16:
		return 2
	case kindProto, kindU8:
		return 1
	}
	return 0
}

// source is where a field is read.
type source int

const (
	fromIIF    source = iota // name of the port a frame came by
	fromOIF                  // name of the port it leaves by
	fromProto                // transport protocol, IPv6 extension headers skipped; absent in malformed packets
	fromFamily               // address family of the packet, in tables of several
	fromType                 // packet type: to this host, broadcast, …
	fromLink                 // offset from the Ethernet header
	fromNet                  // offset from the network header
	fromTrans                // offset from the transport header; absent in fragments but the first
	fromFrag                 // offset into the IPv6 fragment header, wherever it is
	hasFrag                  // 1 if there is an IPv6 fragment header
)

// field is a part of a frame or of what the kernel knows about it.
type field struct {
	text string
	kind kind
	src  source
	off  uint32
	len  uint32
}

func at(text string, src source, off uint32, k kind) field {
	return field{text: text, kind: k, src: src, off: off, len: uint32(k.size())}
}

// Families of netfilter, as meta nfproto gives them.
const familyIP4, familyIP6 = 2, 10

// Offsets: Ethernet, RFC 826 (ARP), RFC 791, RFC 8200, RFC 4861 (neighbour discovery).
var (
	iifName    = at("iifname", fromIIF, 0, kindName)
	oifName    = at("oifname", fromOIF, 0, kindName)
	l4Proto    = at("meta l4proto", fromProto, 0, kindProto)
	family     = at("meta nfproto", fromFamily, 0, kindU8)
	packetType = at("meta pkttype", fromType, 0, kindU8)

	etherDst  = at("ether daddr", fromLink, 0, kindMAC)
	etherSrc  = at("ether saddr", fromLink, 6, kindMAC)
	etherType = at("ether type", fromLink, 12, kindU16)

	arpForm = field{"arp htype . ptype . hlen . plen", kindBytes, fromNet, 0, 6}
	arpOp   = at("arp operation", fromNet, 6, kindU16)
	arpMAC  = at("arp saddr ether", fromNet, 8, kindMAC)
	arpIP   = at("arp saddr ip", fromNet, 14, kindIP4)

	ip4Frag = at("ip frag-off", fromNet, 6, kindU16)
	ip4Src  = at("ip saddr", fromNet, 12, kindIP4)
	ip4Dst  = at("ip daddr", fromNet, 16, kindIP4)

	ip6Len    = at("ip6 length", fromNet, 4, kindU16)
	ip6Next   = at("ip6 nexthdr", fromNet, 6, kindProto)
	ip6Src    = at("ip6 saddr", fromNet, 8, kindIP6)
	ip6Dst    = at("ip6 daddr", fromNet, 24, kindIP6)
	fragThere = at("exthdr frag", hasFrag, 0, kindU8)
	fragOff   = at("frag frag-off", fromFrag, 2, kindU16)

	srcPort  = at("th sport", fromTrans, 0, kindU16)
	dstPort  = at("th dport", fromTrans, 2, kindU16)
	vxlanVNI = at("vxlan vni", fromTrans, 12, kindVNI) // RFC 7348 section 5
	igmpType = at("igmp type", fromTrans, 0, kindU8)
	icmpType = at("icmpv6 type", fromTrans, 0, kindU8)
	ndTarget = at("nd target", fromTrans, 8, kindIP6)

	// The first option of a solicitation or advertisement: type, length, then a MAC.
	ndOption    = at("nd option", fromTrans, 24, kindU16)
	ndOptionMAC = at("nd option lladdr", fromTrans, 26, kindMAC)
	rsOption    = at("rs option", fromTrans, 8, kindU16)
	rsOptionMAC = at("rs option lladdr", fromTrans, 10, kindMAC)
)

// match compares one field with a value (with a mask, or a prefix of a name), with one of several values, or
// looks several fields up in a named set. not turns it around.
type match struct {
	fields []field
	not    bool
	values [][]byte
	mask   []byte
	set    string
}

func is(f field, v []byte) match    { return match{fields: []field{f}, values: [][]byte{v}} }
func isNot(f field, v []byte) match { return match{fields: []field{f}, values: [][]byte{v}, not: true} }
func masked(f field, mask, v []byte) match {
	return match{fields: []field{f}, values: [][]byte{v}, mask: mask}
}

func maskedNot(f field, mask, v []byte) match {
	return match{fields: []field{f}, values: [][]byte{v}, mask: mask, not: true}
}

func oneOf(f field, vs ...byte) match {
	m := match{fields: []field{f}}
	for _, v := range vs {
		m.values = append(m.values, []byte{v})
	}
	return m
}
func in(set string, fs ...field) match    { return match{fields: fs, set: set} }
func notIn(set string, fs ...field) match { return match{fields: fs, set: set, not: true} }

// prefixed matches all interface names that begin so.
func prefixed(f field, prefix string) match { return is(f, []byte(prefix)) }

// within matches an address in a prefix.
func within(f field, p netip.Prefix) match {
	a := p.Masked().Addr().AsSlice()
	mask := make([]byte, len(a))
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return masked(f, mask, a)
}

func u24(v uint32) []byte { return []byte{byte(v >> 16), byte(v >> 8), byte(v)} }

func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// ifname is a name as the kernel compares it: IFNAMSIZ bytes.
func ifname(s string) []byte {
	b := make([]byte, kindName.size())
	copy(b[:maxName], s)
	return b
}

// key joins parts of a set's key, each padded to 4 bytes as in the kernel's registers.
func key(parts ...[]byte) string {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return string(b)
}

// String prints the ruleset in the manner of nft, for people and golden tests.
func (r *Ruleset) String() string { return r.text(true) }

// skeleton is the text without what Apply changes element by element: equal skeletons differ in set elements only.
func (r *Ruleset) skeleton() string { return r.text(false) }

func (r *Ruleset) text(elements bool) string {
	var b strings.Builder
	for i := range r.Tables {
		t := &r.Tables[i]
		fmt.Fprintf(&b, "table %s %s {\n", t.Family, t.Name)
		for _, c := range t.Counters {
			fmt.Fprintf(&b, "\tcounter %s { }\n", c)
		}
		for j := range t.Sets {
			t.Sets[j].text(&b, elements)
		}
		for _, c := range t.Chains {
			fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
			if c.Hook != "" {
				fmt.Fprintf(&b, "\t\ttype filter hook %s priority %d; policy accept;\n", c.Hook, c.Priority)
			}
			for j := range c.Rules {
				fmt.Fprintf(&b, "\t\t%s\n", c.Rules[j].text())
			}
			b.WriteString("\t}\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func (s *Set) text(b *strings.Builder, elements bool) {
	parts := make([]string, len(s.Parts))
	for i, p := range s.Parts {
		parts[i] = string(p)
	}
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n\t\tsize %d\n", s.Name, strings.Join(parts, " . "), s.Size)
	if s.Limits {
		b.WriteString("\t\tflags dynamic,timeout\n\t\ttimeout 1m\n")
	}
	if elements && len(s.Elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for _, e := range s.Elements {
			fmt.Fprintf(b, "\t\t\t%s,\n", s.element(e))
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

// element prints a key in the kernel's form.
func (s *Set) element(e string) string {
	var out []string
	for _, k := range s.Parts {
		n := k.size()
		out = append(out, k.text([]byte(e[:n])))
		e = e[(n+3)/4*4:]
	}
	return strings.Join(out, " . ")
}

func (r *Rule) text() string {
	var w []string
	for i := range r.Matches {
		w = append(w, r.Matches[i].text())
	}
	if l := r.Limit; l != nil {
		w = append(w, fmt.Sprintf("update @%s { %s limit rate over %d/second burst %d packets }", l.set, l.key.text, l.rate, l.rate))
	}
	if r.Counter != "" {
		w = append(w, fmt.Sprintf("counter name %q", r.Counter))
	}
	w = append(w, string(r.Verdict))
	if r.Target != "" {
		w = append(w, r.Target)
	}
	return strings.Join(w, " ")
}

func (m *match) text() string {
	var fs []string
	for _, f := range m.fields {
		fs = append(fs, f.text)
	}
	lhs, op := strings.Join(fs, " . "), " "
	if m.not {
		op = " != "
	}
	if m.set != "" {
		return lhs + op + "@" + m.set
	}
	k := m.fields[0].kind
	if m.mask != nil {
		if !m.not {
			op = " == "
		}
		return lhs + " & " + k.text(m.mask) + op + k.text(m.values[0])
	}
	var vs []string
	for _, v := range m.values {
		vs = append(vs, k.text(v))
	}
	if len(vs) == 1 {
		return lhs + op + vs[0]
	}
	return lhs + op + "{ " + strings.Join(vs, ", ") + " }"
}

// text prints a value of this kind.
func (k kind) text(v []byte) string {
	switch {
	case k == kindName && len(v) < k.size():
		return fmt.Sprintf("%q", string(v)+"*")
	case k == kindName:
		return fmt.Sprintf("%q", strings.TrimRight(string(v), "\x00"))
	case k == kindMAC && len(v) == 6:
		return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", v[0], v[1], v[2], v[3], v[4], v[5])
	case k == kindIP4 || k == kindIP6:
		if a, ok := netip.AddrFromSlice(v); ok {
			return a.String()
		}
	case k == kindVNI && len(v) == 3:
		return fmt.Sprint(uint32(v[0])<<16 | uint32(v[1])<<8 | uint32(v[2]))
	case k == kindU16 && len(v) == 2:
		return fmt.Sprintf("0x%04x", binary.BigEndian.Uint16(v))
	case (k == kindU8 || k == kindProto) && len(v) == 1:
		return fmt.Sprint(v[0])
	}
	return fmt.Sprintf("0x%x", v)
}
