package tree

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
)

// Bounds of what a host keeps for others.
const (
	// MaxWatches bounds the labels a host listens for.
	MaxWatches = 8192
	// MaxBranches bounds the trees it passes packets on in.
	MaxBranches = 1024

	holdAge    = 3 * refreshAge  // without a refresh
	lingerTime = time.Second     // packets may be on the way when a tree is closed
	roomAge    = time.Second     // how often the room of a branch is looked at
	starveSlow = 5 * time.Second // a complaint that changes nothing is repeated less often
	starveSoon = 10              // ... after so many
)

// Key names a label of a host in a network.
type Key struct {
	Host  ident.HostID
	VNI   uint32
	Label uint32
}

// Watch is the expectation of packets with a label. The datapath says Heard, the Receiver looks.
type Watch struct {
	heard atomic.Bool

	key       Key
	last      time.Time // heard, or began to listen
	refreshed time.Time
	confirmed bool
	starved   int // complaints since it was last heard
	complain  time.Time
}

// Heard says that a packet came. It is cheap when said often.
func (w *Watch) Heard() {
	if !w.heard.Load() {
		w.heard.Store(true)
	}
}

// Watches are the labels a host listens for: an immutable view for the datapath.
type Watches struct {
	ByKey  map[Key]*Watch
	Labels map[uint32]struct{}
}

// Receiver listens for what others announced and passes on what they ask for. One goroutine owns it.
type Receiver struct {
	peer   func(ident.HostID) *link.Peer
	fanout int
	group  netip.AddrPort

	watches  map[Key]*Watch
	branches map[ID]*branch
	out      []Out

	watchesChanged, branchesChanged bool
}

type branch struct {
	Branch
	key       Key
	want      []ident.HostID
	room      int
	missing   []ident.HostID
	refreshed time.Time
	looked    time.Time
	until     time.Time // closed: stays for packets on the way
	multicast bool
}

// NewReceiver returns a Receiver that listens for nothing. fanout bounds the copies this host makes of a packet of another;
// 0: DefaultFanout.
func NewReceiver(peer func(ident.HostID) *link.Peer, fanout int) *Receiver {
	return &Receiver{peer: peer, fanout: cmp.Or(fanout, DefaultFanout), watches: map[Key]*Watch{}, branches: map[ID]*branch{}}
}

// SetGroup says to which underlay group this host passes packets on; the zero AddrPort: it has no native multicast.
func (r *Receiver) SetGroup(group netip.AddrPort) {
	r.group = group
	r.branchesChanged = true
}

// Message takes what another host says about a plan of its own.
func (r *Receiver) Message(now time.Time, from ident.HostID, m *Message) {
	key := Key{from, m.VNI, m.Label}
	switch m.Op {
	case OpOpen:
		if !m.ID.IsZero() {
			r.openBranch(now, key, m)
		}
		r.openWatch(now, key)
	case OpClose:
		if w := r.watches[key]; w != nil {
			delete(r.watches, key)
			r.watchesChanged = true
		}
		if b := r.branches[m.ID]; b != nil && b.Origin == from && b.until.IsZero() {
			b.until = now.Add(lingerTime)
		}
	}
}

func (r *Receiver) openWatch(now time.Time, key Key) {
	w := r.watches[key]
	if w == nil {
		if len(r.watches) >= MaxWatches {
			return // no confirmation: it will get copies
		}
		w = &Watch{key: key, last: now}
		r.watches[key] = w
		r.watchesChanged = true
	}
	w.refreshed = now
	if w.confirmed { // the answer was lost
		r.say(key, OpHeard)
	}
}

func (r *Receiver) openBranch(now time.Time, key Key, m *Message) {
	b := r.branches[m.ID]
	if b == nil {
		if len(r.branches) >= MaxBranches || m.Multicast && !r.group.IsValid() || len(m.Children)+btoi(m.Multicast) > r.fanout {
			return // no answer: another will be asked
		}
		b = &branch{Branch: Branch{Origin: key.Host, Parent: m.Parent}, key: key, want: slices.Clone(m.Children), multicast: m.Multicast}
		r.branches[m.ID] = b
	}
	if b.Origin != key.Host {
		return
	}
	b.refreshed = now
	r.look(now, b)
	r.answer(m.ID, b)
}

// look finds out whom a branch reaches.
func (r *Receiver) look(now time.Time, b *branch) (changed bool) {
	b.looked = now
	var missing []ident.HostID
	var children []*link.Peer
	room := 0
	for _, h := range b.want {
		p := r.peer(h)
		var path *link.Path
		if p != nil {
			path = p.Path()
		}
		if path == nil || path.Relay != nil {
			missing = append(missing, h)
			continue
		}
		children = append(children, p)
		if room == 0 || path.Payload < room {
			room = path.Payload
		}
	}
	changed = room != b.room || !slices.Equal(missing, b.missing)
	if changed || len(b.Children) != len(children) {
		r.branchesChanged = true
	}
	b.Children, b.room, b.missing = children, room, missing
	return changed
}

func (r *Receiver) answer(id ID, b *branch) {
	r.branchesChanged = true
	r.out = append(r.out, Out{b.key.Host, Message{
		Op: OpReady, VNI: b.key.VNI, Label: b.key.Label, ID: id, Room: b.room, Missing: b.missing,
	}})
}

func (r *Receiver) say(key Key, op byte) {
	r.out = append(r.out, Out{key.Host, Message{Op: op, VNI: key.VNI, Label: key.Label}})
}

// Tick lets time pass.
func (r *Receiver) Tick(now time.Time) {
	for key, w := range r.watches {
		if w.heard.Swap(false) {
			w.last, w.starved = now, 0
			if !w.confirmed {
				w.confirmed = true
				r.say(key, OpHeard)
			}
		}
		switch {
		case now.Sub(w.refreshed) >= holdAge:
			delete(r.watches, key)
			r.watchesChanged = true
		case w.confirmed && now.Sub(w.last) >= Silence && !now.Before(w.complain):
			w.starved++
			w.complain = now
			if w.starved > starveSoon {
				w.complain = now.Add(starveSlow)
			}
			r.say(key, OpStarved)
		}
	}
	for id, b := range r.branches {
		switch {
		case now.Sub(b.refreshed) >= holdAge, !b.until.IsZero() && !now.Before(b.until):
			delete(r.branches, id)
			r.branchesChanged = true
		case now.Sub(b.looked) >= roomAge && r.look(now, b):
			r.answer(id, b)
		}
	}
}

// Take returns what is to be sent since the last call.
func (r *Receiver) Take() []Out {
	out := r.out
	r.out = nil
	return out
}

// Live reports whether Tick has anything to do.
func (r *Receiver) Live() bool { return len(r.watches)+len(r.branches) > 0 }

// Watches returns what to listen for; nil when that has not changed since the last call.
func (r *Receiver) Watches() *Watches {
	if !r.watchesChanged {
		return nil
	}
	r.watchesChanged = false
	v := &Watches{ByKey: maps.Clone(r.watches), Labels: make(map[uint32]struct{}, len(r.watches))}
	for k := range r.watches {
		v.Labels[k.Label] = struct{}{}
	}
	return v
}

// Branches returns what to pass on; nil when that has not changed since the last call.
func (r *Receiver) Branches() Branches {
	if !r.branchesChanged {
		return nil
	}
	r.branchesChanged = false
	v := make(Branches, len(r.branches))
	for id, b := range r.branches {
		c := b.Branch
		if b.multicast {
			c.Group = r.group
		}
		v[id] = &c
	}
	return v
}

// Counts returns how many labels a host listens for and in how many trees it passes packets on.
func (r *Receiver) Counts() (watches, branches int) { return len(r.watches), len(r.branches) }
