package names

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ident"
)

// MaxEntries bounds a table: attachments, names given by hand, aliases and services together. What is beyond is not known until
// something else goes and the host says it again.
const MaxEntries = 1 << 17

// Table holds the names of one network. It has one owner at a time; Answer may run beside Answer.
type Table struct {
	nodes   map[string]*node
	back    map[netip.Addr][]place
	hosts   map[ident.HostID]*host
	alive   map[ident.HostID]bool
	aliases map[holder][]string
	types   map[string]*node // of services
	entries int
	counts  Counts
}

// Counts are what a table refused.
type Counts struct {
	Bad  uint64 // records that are none
	Full uint64 // entries beyond MaxEntries
}

// host is one that has said something.
type host struct {
	id    ident.HostID
	alive bool
	says  int // entries
}

// holder is an attachment.
type holder struct {
	host ident.HostID
	name string
}

// node is a name that is there, or that others end in.
type node struct {
	name    string
	entries []entry
	below   int // names that have one label more
	held    int // hosts that have aliases of an attachment of this name
	serving *serving
}

// entry is what one host says of a name.
type entry struct {
	host  *host
	kind  kind
	addrs []netip.Addr
	of    *node // an alias: the attachment's own name
}

type kind byte

const (
	attached kind = iota
	given
	alias
)

// serving is what nodes of services have.
type serving struct {
	instances []*node // of a service: who offers it
	offers    []offer // of one who does
}

type offer struct {
	host *host
	Service
}

// place is a name that an address has.
type place struct {
	node *node
	host *host
}

// New returns an empty table.
func New() *Table {
	return &Table{
		nodes: map[string]*node{}, back: map[netip.Addr][]place{}, hosts: map[ident.HostID]*host{},
		alive: map[ident.HostID]bool{}, aliases: map[holder][]string{}, types: map[string]*node{},
	}
}

// Entries returns how many entries there are, of MaxEntries.
func (t *Table) Entries() int { return t.entries }

// Counts returns what was refused so far.
func (t *Table) Counts() Counts { return t.counts }

// SetAlive says which hosts count. A host that is not in the map does not.
func (t *Table) SetAlive(alive map[ident.HostID]bool) {
	t.alive = alive
	for id, h := range t.hosts {
		h.alive = alive[id]
	}
}

// Attach says that an attachment is there, or what has become of its addresses.
func (t *Table) Attach(by ident.HostID, name string, addrs []netip.Addr) {
	t.put(by, name, attached, addrs, nil)
}

// Detach says that an attachment has gone.
func (t *Table) Detach(by ident.HostID, name string) { t.remove(by, name, attached, nil) }

// Apply takes a change of a record of this package.
func (t *Table) Apply(by ident.HostID, key string, value []byte, gone bool) error {
	var err error
	switch {
	case strings.HasPrefix(key, KeyGiven):
		err = t.applyGiven(by, key[len(KeyGiven):], value, gone)
	case strings.HasPrefix(key, KeyService):
		err = t.applyService(by, key, value, gone)
	case strings.HasPrefix(key, KeyAliases):
		err = t.applyAliases(by, key[len(KeyAliases):], value, gone)
	}
	if err != nil {
		t.counts.Bad++
	}
	return err
}

// A record that is none counts as gone: what it replaces is no longer said.

func (t *Table) applyGiven(by ident.HostID, name string, value []byte, gone bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	g, err := DecodeGiven(value)
	if gone || err != nil {
		t.remove(by, name, given, nil)
		if gone {
			return nil
		}
		return err
	}
	t.put(by, name, given, g.Addrs, nil)
	return nil
}

func (t *Table) applyAliases(by ident.HostID, of string, value []byte, gone bool) error {
	if err := CheckName(of); err != nil {
		return err
	}
	a, err := DecodeAliases(value)
	if gone || err != nil {
		a.Names = nil
	}
	key := holder{by, of}
	old := t.aliases[key]
	delete(t.aliases, key)
	own := t.node(of) // aliases may come before their attachment does
	for _, name := range old {
		if !slices.Contains(a.Names, name) {
			t.remove(by, name, alias, own)
		}
	}
	var kept []string
	for _, name := range a.Names {
		if name != of && !slices.Contains(kept, name) && t.put(by, name, alias, nil, own) {
			kept = append(kept, name)
		}
	}
	if len(kept) > 0 {
		t.aliases[key] = kept
	}
	switch {
	case len(old) == 0 && len(kept) > 0:
		own.held++
	case len(old) > 0 && len(kept) == 0:
		own.held--
	}
	t.tidy(own)
	if gone {
		return nil
	}
	return err
}

func (t *Table) applyService(by ident.HostID, key string, value []byte, gone bool) error {
	service, name, err := SplitService(key)
	if err != nil {
		return err
	}
	s, err := DecodeService(value)
	if gone || err != nil {
		t.withdraw(by, service, name)
		if gone {
			return nil
		}
		return err
	}
	t.offer(by, service, name, s)
	return nil
}

// offer puts a service where it is found.
func (t *Table) offer(by ident.HostID, service, name string, s Service) {
	n := t.node(name + "." + service)
	if n.serving == nil {
		n.serving = &serving{}
	}
	is := func(o offer) bool { return o.host.id == by }
	if i := slices.IndexFunc(n.serving.offers, is); i >= 0 {
		n.serving.offers[i].Service = s
		return
	}
	if !t.room() {
		t.tidy(n)
		return
	}
	if len(n.serving.offers) == 0 {
		typ := t.node(service)
		if typ.serving == nil {
			typ.serving = &serving{}
			t.types[service] = typ
		}
		typ.serving.instances = append(typ.serving.instances, n)
	}
	n.serving.offers = append(n.serving.offers, offer{t.speaks(by), s})
}

func (t *Table) withdraw(by ident.HostID, service, name string) {
	n := t.nodes[name+"."+service]
	if n == nil || n.serving == nil {
		return
	}
	i := slices.IndexFunc(n.serving.offers, func(o offer) bool { return o.host.id == by })
	if i < 0 {
		return
	}
	t.falls(n.serving.offers[i].host)
	n.serving.offers = slices.Delete(n.serving.offers, i, i+1)
	if len(n.serving.offers) > 0 {
		return
	}
	typ := t.nodes[service]
	typ.serving.instances = slices.DeleteFunc(typ.serving.instances, func(o *node) bool { return o == n })
	if len(typ.serving.instances) == 0 {
		delete(t.types, service)
	}
	t.tidy(n)
	t.tidy(typ)
}

// put adds or changes an entry. It reports whether it is there.
func (t *Table) put(by ident.HostID, name string, k kind, addrs []netip.Addr, of *node) bool {
	n := t.node(name)
	if e := n.find(by, k, of); e != nil {
		t.forget(n, e)
		e.addrs = addrs
		t.note(n, e)
		return true
	}
	if !t.room() {
		t.tidy(n)
		return false
	}
	n.entries = append(n.entries, entry{host: t.speaks(by), kind: k, addrs: addrs, of: of})
	t.note(n, &n.entries[len(n.entries)-1])
	return true
}

func (t *Table) remove(by ident.HostID, name string, k kind, of *node) {
	n := t.nodes[name]
	if n == nil {
		return
	}
	e := n.find(by, k, of)
	if e == nil {
		return
	}
	t.forget(n, e)
	t.falls(e.host)
	n.entries = slices.DeleteFunc(n.entries, func(o entry) bool { return o.host.id == by && o.kind == k && o.of == of })
	t.tidy(n)
}

func (n *node) find(by ident.HostID, k kind, of *node) *entry {
	for i := range n.entries {
		if e := &n.entries[i]; e.host.id == by && e.kind == k && e.of == of {
			return e
		}
	}
	return nil
}

// note keeps the way back from an entry's addresses to its name, and forget ends it.
func (t *Table) note(n *node, e *entry) {
	for _, a := range e.addrs {
		if p := (place{n, e.host}); !slices.Contains(t.back[a], p) {
			t.back[a] = append(t.back[a], p)
		}
	}
}

func (t *Table) forget(n *node, e *entry) {
	for _, a := range e.addrs {
		if slices.ContainsFunc(n.entries, func(o entry) bool { return o.host == e.host && o.kind != e.kind && slices.Contains(o.addrs, a) }) {
			continue // said in another way, too
		}
		left := slices.DeleteFunc(t.back[a], func(p place) bool { return p.node == n && p.host == e.host })
		if len(left) == 0 {
			delete(t.back, a)
			continue
		}
		t.back[a] = left
	}
}

// room reports whether one more entry fits.
func (t *Table) room() bool {
	if t.entries >= MaxEntries {
		t.counts.Full++
		return false
	}
	return true
}

// speaks counts an entry of a host's, and falls one less.
func (t *Table) speaks(id ident.HostID) *host {
	h := t.hosts[id]
	if h == nil {
		h = &host{id: id, alive: t.alive[id]}
		t.hosts[id] = h
	}
	h.says++
	t.entries++
	return h
}

func (t *Table) falls(h *host) {
	t.entries--
	if h.says--; h.says == 0 {
		delete(t.hosts, h.id)
	}
}

// node returns a name's node, and makes it with those that it ends in.
func (t *Table) node(name string) *node {
	n := t.nodes[name]
	if n == nil {
		n = &node{name: name}
		t.nodes[name] = n
		if _, rest, ok := strings.Cut(name, "."); ok {
			t.node(rest).below++
		}
	}
	return n
}

// tidy removes a node that says nothing any more, with those that were there for it.
func (t *Table) tidy(n *node) {
	for n != nil && t.nodes[n.name] == n && len(n.entries) == 0 && n.below+n.held == 0 && (n.serving == nil || len(n.serving.offers)+len(n.serving.instances) == 0) {
		delete(t.nodes, n.name)
		_, rest, ok := strings.Cut(n.name, ".")
		if !ok {
			return
		}
		if n = t.nodes[rest]; n != nil {
			n.below--
		}
	}
}

// Addresses returns the addresses that a name has now, IPv4 first.
func (t *Table) Addresses(name string) []netip.Addr {
	n := t.nodes[name]
	if n == nil {
		return nil
	}
	var a Asker
	var out []netip.Addr
	for _, four := range [...]bool{true, false} {
		n.collect(four, &a)
		slices.SortFunc(a.addrs, netip.Addr.Compare)
		out = append(out, slices.Compact(a.addrs)...)
	}
	return out
}

// Names returns the names that an address has now, sorted.
func (t *Table) Names(addr netip.Addr) []string {
	var out []string
	for _, p := range t.back[addr] {
		if p.host.alive {
			out = append(out, p.node.name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
