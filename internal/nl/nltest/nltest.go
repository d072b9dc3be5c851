// Package nltest is an nl.System in memory: namespaces, links and tables whose state reads as text.
package nltest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
)

// ErrInjected is what FailAt makes a call return.
var ErrInjected = errors.New("injected failure")

// Net is the fake kernel.
type Net struct {
	mu       sync.Mutex
	next     int
	links    map[int]*link
	fdb      map[nl.FDBEntry]bool
	neighs   map[int]map[netip.Addr]nl.MAC
	mdb      []nl.MDBEntry
	watchers []*watcher

	changes int // mutating calls so far
	failAt  int // the change that fails; 0: none
	dead    bool
	crash   bool
}

type link struct {
	nl.Link
	ns    netns.ID
	peer  int
	addrs []netip.Prefix
	reach []netip.Prefix
	port  string // "uplink", "attachment"
	route bool

	tunnel *tunnel // of a VXLAN device
}

var _ nl.System = (*Net)(nil)

// New returns a kernel without any link.
func New() *Net {
	return &Net{next: 1, links: map[int]*link{}, fdb: map[nl.FDBEntry]bool{}, neighs: map[int]map[netip.Addr]nl.MAC{}}
}

// FailAt makes the n-th change from now fail, once; 0 none.
func (n *Net) FailAt(i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failAt, n.crash, n.dead = 0, false, false
	if i > 0 {
		n.failAt = n.changes + i
	}
}

// CrashAt makes the n-th change from now and all calls after it fail, as for a process that
// was killed; Revive ends it.
func (n *Net) CrashAt(i int) {
	n.FailAt(i)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.crash = true
}

// Revive ends what FailAt and CrashAt began and reports whether the failure happened.
func (n *Net) Revive() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	happened := n.dead || n.failAt != 0 && n.changes >= n.failAt
	n.failAt, n.crash, n.dead = 0, false, false
	return happened
}

// change counts a mutating call. Precondition: n.mu must be locked.
func (n *Net) change() error {
	n.changes++
	if n.dead || n.changes == n.failAt {
		n.dead = n.crash
		return ErrInjected
	}
	return nil
}

// AddLink makes a link, such as the TAP that package tap would make.
func (n *Net) AddLink(ns netns.ID, name, kind string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.add(ns, name, kind)
	n.tell(nl.LinksChanged)
}

func (n *Net) add(ns netns.ID, name, kind string) *link {
	l := &link{Link: nl.Link{Index: n.next, Name: name, Kind: kind, MTU: 1500}, ns: ns}
	n.next++
	n.links[l.Index] = l
	return l
}

// RemoveLink removes a link, as the kernel does when a namespace or a TAP ends.
func (n *Net) RemoveLink(ns netns.ID, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.find(ns, name); l != nil {
		n.remove(l)
	}
}

// Move puts a link into another namespace, under another name, as Docker does.
func (n *Net) Move(from netns.ID, name string, to netns.ID, as string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.find(from, name); l != nil {
		l.ns, l.Name, l.Up = to, as, false
	}
	n.tell(nl.LinksChanged)
}

// Join sets what a port wants; a zero Group in e leaves all.
func (n *Net) Join(ns netns.ID, port string, e nl.MDBEntry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.find(ns, port)
	e.Port, e.Bridge = l.Index, l.Master
	n.mdb = slices.DeleteFunc(n.mdb, func(o nl.MDBEntry) bool {
		return o.Port == e.Port && (o.Group == e.Group || !e.Group.IsValid())
	})
	if e.Group.IsValid() {
		n.mdb = append(n.mdb, e)
	}
	n.tell(nl.GroupsChanged)
}

// SetSnooping switches a bridge's snooping, without telling anyone.
func (n *Net) SetSnooping(ns netns.ID, bridge string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.find(ns, bridge).Snooping = on
}

// String lists what exists, a line each, in the order of names.
func (n *Net) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var lines []string
	name := func(i int) string {
		if l := n.links[i]; l != nil {
			return l.Name
		}
		return fmt.Sprintf("gone:%d", i)
	}
	for _, l := range n.links {
		var s strings.Builder
		fmt.Fprintf(&s, "%s link %s %s", l.ns, l.Name, l.Kind)
		if l.Master != 0 {
			s.WriteString(" " + l.port + " of " + name(l.Master))
		}
		if l.Up {
			s.WriteString(" up")
		}
		for _, a := range l.addrs {
			s.WriteString(" " + a.String())
		}
		for _, p := range l.reach {
			s.WriteString(" to " + p.String())
		}
		if l.route {
			s.WriteString(" groups")
		}
		lines = append(lines, s.String())
		if l.tunnel != nil {
			for e := range l.tunnel.entries {
				lines = append(lines, fmt.Sprintf("tunnel %s %s to %s", l.Name, e.MAC, e.VTEP))
			}
			for e := range l.tunnel.groups {
				source := "*"
				if e.Source.IsValid() {
					source = e.Source.String()
				}
				lines = append(lines, fmt.Sprintf("tunnel %s (%s,%s) to %s", l.Name, source, e.Group, e.VTEP))
			}
		}
	}
	for e := range n.fdb {
		lines = append(lines, fmt.Sprintf("fdb %s %s", name(e.Port), e.MAC))
	}
	for i, table := range n.neighs {
		for ip, mac := range table {
			lines = append(lines, fmt.Sprintf("neigh %s %s %s", name(i), ip, mac))
		}
	}
	for _, e := range n.mdb {
		lines = append(lines, fmt.Sprintf("mdb %s %s exclude=%v %v", name(e.Port), e.Group, e.Exclude, e.Sources))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (n *Net) find(ns netns.ID, name string) *link {
	for _, l := range n.links {
		if l.ns == ns && l.Name == name {
			return l
		}
	}
	return nil
}

// remove removes a link, its peer, and all that is bound to either.
func (n *Net) remove(l *link) {
	delete(n.links, l.Index)
	for _, o := range n.links {
		if o.Master == l.Index {
			o.Master, o.port = 0, ""
		}
	}
	for e := range n.fdb {
		if e.Port == l.Index {
			delete(n.fdb, e)
		}
	}
	delete(n.neighs, l.Index)
	n.mdb = slices.DeleteFunc(n.mdb, func(e nl.MDBEntry) bool { return e.Port == l.Index || e.Bridge == l.Index })
	if peer := n.links[l.peer]; peer != nil {
		n.remove(peer)
	}
	n.tell(nl.LinksChanged | nl.GroupsChanged)
}

func (n *Net) tell(e nl.Event) {
	for _, w := range n.watchers {
		w.tell(e)
	}
}

// Open opens a handle.
func (n *Net) Open(ns netns.Namespace) (nl.Handle, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return nil, ErrInjected
	}
	return &handle{n, ns.ID()}, nil
}

type watcher struct {
	mu    sync.Mutex
	mask  nl.Event
	ready chan struct{}
}

func (w *watcher) Ready() <-chan struct{} { return w.ready }
func (w *watcher) Close() error           { return nil }

func (w *watcher) Take() nl.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.mask
	w.mask = 0
	return e
}

func (w *watcher) tell(e nl.Event) {
	w.mu.Lock()
	w.mask |= e
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}
