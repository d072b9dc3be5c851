package tree

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/wire"
)

const (
	simStep = 10 * time.Millisecond
	simVNI  = 7
)

var simGroup = netip.MustParseAddrPort("239.192.1.1:6783")

// sim is hosts with the cores of this package, one of which sends a numbered packet every step to some of the others.
type sim struct {
	t     *testing.T
	r     *rand.Rand
	now   time.Time
	hosts map[ident.HostID]*simHost
	order []*simHost
	aud   *Audience
	deaf  map[pair]bool // multicast that does not arrive
	lossy float64       // of messages
	later []func()      // messages on their way
	seq   int
	sends map[ident.HostID]int // packets with data
	said  map[byte]int         // messages by kind
}

type simHost struct {
	id       ident.HostID
	sender   *Sender
	receiver *Receiver
	peers    map[ident.HostID]*link.Peer
	watches  *Watches
	branches Branches
	dead     bool
	member   bool
	island   int
	joined   int         // first number it is to have
	got      map[int]int // by number, how often on the wire
	last     int
	gap      int // longest run of numbers missed
}

func newSim(t *testing.T, seed uint64, islands []int, fanout int) *sim {
	s := &sim{t: t, r: rand.New(rand.NewPCG(seed, 2)), now: time.Unix(1e6, 0), hosts: map[ident.HostID]*simHost{}, deaf: map[pair]bool{}, sends: map[ident.HostID]int{}, said: map[byte]int{}}
	for i, n := range islands {
		for range n {
			h := &simHost{id: id(len(s.order) + 1), island: i, peers: map[ident.HostID]*link.Peer{}, got: map[int]int{}, watches: &Watches{}, member: len(s.order) > 0}
			s.order = append(s.order, h)
			s.hosts[h.id] = h
		}
	}
	for _, h := range s.order {
		peer := func(x ident.HostID) *link.Peer { return h.peers[x] }
		for _, o := range s.order {
			if o != h {
				h.peers[o.id] = &link.Peer{ID: o.id}
				h.peers[o.id].SetPath(&link.Path{Payload: 1400})
			}
		}
		h.sender = NewSender(SenderConfig{Self: h.id, Peer: peer, Rand: rng{s.r}, Fanout: fanout, Group: simGroup})
		h.receiver = NewReceiver(peer, fanout)
		h.receiver.SetGroup(simGroup)
	}
	s.publish()
	s.members()
	return s
}

type rng struct{ *rand.Rand }

func (r rng) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return len(b), nil
}

var _ io.Reader = rng{}

// publish is what beacons and state tables do.
func (s *sim) publish() {
	h := Hearing{}
	for _, a := range s.order {
		h[a.id] = map[ident.HostID]struct{}{}
		for _, b := range s.order {
			if s.hears(a, b) {
				h[a.id][b.id] = struct{}{}
			}
		}
	}
	for _, a := range s.order {
		a.sender.SetHearing(h)
	}
}

func (s *sim) hears(by, whom *simHost) bool {
	return by != whom && by.island == whom.island && by.island >= 0 && !s.deaf[pair{by.id, whom.id}] && !by.dead && !whom.dead
}

// members makes the audience anew, as a table does when memberships change.
func (s *sim) members() {
	var to []*link.Peer
	for _, h := range s.order {
		if h.member && !h.dead {
			to = append(to, s.order[0].peers[h.id])
		}
	}
	if s.aud == nil || !slices.Equal(s.aud.Peers, to) {
		s.aud = NewAudience(to, s.aud)
		s.order[0].sender.Changed()
	}
}

func (s *sim) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(simStep)
		due := s.later
		s.later = nil
		for _, f := range due {
			f()
		}
		s.data()
		for i, h := range s.order {
			if !h.dead && (s.now.UnixMilli()/10+int64(i))%int64(TickEvery/simStep) == 0 {
				h.sender.Tick(s.now)
				h.receiver.Tick(s.now)
			}
			s.act(h)
		}
	}
}

func (s *sim) act(h *simHost) {
	if w := h.receiver.Watches(); w != nil {
		h.watches = w
	}
	if b := h.receiver.Branches(); b != nil {
		h.branches = b
	}
	out, beats := h.sender.Take()
	for _, o := range append(out, h.receiver.Take()...) {
		to, m := s.hosts[o.To], o.Msg
		s.said[m.Op]++
		if h.dead || s.r.Float64() < s.lossy {
			continue
		}
		s.later = append(s.later, func() {
			if to.dead || h.peers[to.id].Path() == nil {
				return
			}
			m, err := Decode(m.Encode())
			if err != nil {
				s.t.Errorf("%v: %v", m, err)
			}
			switch m.Op {
			case OpOpen, OpClose:
				to.receiver.Message(s.now, h.id, &m)
			default:
				to.sender.Message(s.now, h.id, &m)
			}
		})
	}
	for _, b := range beats {
		s.send(h, b.Route, -1)
	}
}

// data sends one number.
func (s *sim) data() {
	h := s.order[0]
	if s.aud.Sent(1) {
		h.sender.Wake(s.now, simVNI, s.aud)
	}
	r := s.aud.Route()
	if r == nil {
		r = &Route{Label: wire.NoLabel}
		for _, p := range s.aud.Peers {
			r.Edges = append(r.Edges, Edge{Peer: p})
		}
	}
	s.send(h, r, s.seq)
	s.seq++
}

func (s *sim) send(h *simHost, r *Route, seq int) {
	if r == nil {
		return
	}
	if r.Group.IsValid() {
		s.multicast(h, h, r.Label, seq)
	}
	for _, e := range r.Edges {
		s.copy(h, h, s.hosts[e.Peer.ID], e.Tree, r.Label, seq, wire.MaxHops)
	}
}

func (s *sim) count(h *simHost, seq int) {
	if seq >= 0 {
		s.sends[h.id]++
	}
}

func (s *sim) multicast(origin, h *simHost, label uint32, seq int) {
	s.count(h, seq)
	for _, o := range s.order {
		if s.hears(o, h) && o != origin {
			s.arrive(origin, o, label, seq)
		}
	}
}

func (s *sim) copy(origin, from, to *simHost, tree ID, label uint32, seq, hops int) {
	s.count(from, seq)
	if to.dead || from.dead {
		return
	}
	s.arrive(origin, to, label, seq)
	if tree.IsZero() || hops == 0 {
		return
	}
	b := to.branches[tree]
	if b == nil || b.Parent != from.id || b.Origin != origin.id {
		return
	}
	for _, c := range b.Children {
		s.copy(origin, to, s.hosts[c.ID], tree, label, seq, hops-1)
	}
	if b.Group.IsValid() {
		s.multicast(origin, to, label, seq)
	}
}

func (s *sim) arrive(origin, h *simHost, label uint32, seq int) {
	if h.dead {
		return
	}
	if w := h.watches.ByKey[Key{origin.id, simVNI, label}]; w != nil {
		w.Heard()
	}
	if seq < 0 || !h.member {
		return
	}
	if h.got[seq]++; h.got[seq] == 1 {
		h.gap = max(h.gap, seq-max(h.last, h.joined)-1)
		h.last = seq
	}
}

// missed returns how many numbers a member did not get since it is one.
func (h *simHost) missed(until int) (n int) {
	for q := h.joined; q < until; q++ {
		if h.got[q] == 0 {
			n++
		}
	}
	return n
}

// perPacket runs for a second and returns the packets for one number, of all hosts and of the busiest.
func (s *sim) perPacket() (all, most float64) {
	clear(s.sends)
	before := s.seq
	s.run(time.Second)
	for _, n := range s.sends {
		all += float64(n)
		most = max(most, float64(n))
	}
	d := float64(s.seq - before)
	return all / d, most / d
}

func TestSimWays(t *testing.T) {
	for _, c := range []struct {
		name      string
		islands   []int
		all, most float64
	}{
		{"one island", []int{17}, 1, 1},
		{"four islands", []int{5, 4, 4, 4}, 7, 4},
		{"none", slices.Repeat([]int{1}, 17), 16, 8},
		{"few", []int{1, 1, 1}, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, 1, c.islands, 0)
			s.run(3 * time.Second)
			all, most := s.perPacket()
			if all != c.all || most > c.most {
				t.Errorf("%v packets in all, %v from one host", all, most)
			}
			for _, h := range s.order[1:] {
				if n := h.missed(s.seq); n > 0 {
					t.Errorf("%v missed %d", h.id, n)
				}
			}
		})
	}
}

// TestSimCutForwarderLeaveJoin: what happens to some is not noticed by others.
func TestSimCutForwarderLeaveJoin(t *testing.T) {
	s := newSim(t, 1, []int{6, 6}, 0)
	late := s.order[11]
	late.member = false
	s.members()
	s.run(3 * time.Second)
	var forwarder *simHost
	for _, h := range s.order {
		if len(h.branches) > 0 {
			forwarder = h
		}
	}
	if forwarder == nil {
		t.Fatal("nobody forwards")
	}
	cut, left := s.order[1], s.order[2]
	s.deaf[pair{cut.id, s.order[0].id}] = true
	s.run(2 * time.Second)
	forwarder.dead = true // the link notices after three seconds, the receivers before
	s.run(3 * time.Second)
	s.order[0].peers[forwarder.id].SetPath(nil)
	forwarder.member = false
	s.members()
	s.run(time.Second)
	until := s.seq
	left.member = false
	s.members()
	s.run(time.Second)
	late.member, late.joined = true, s.seq
	s.members()
	s.run(5 * time.Second)
	for _, h := range s.order[1:] {
		switch {
		case h == forwarder:
		case h == left:
			if n := h.missed(until); n > 0 {
				t.Errorf("who left missed %d before", n)
			}
		case h == cut, h.island == forwarder.island && h != late:
			if gap := time.Duration(h.gap) * simStep; gap >= time.Second {
				t.Errorf("%v was without packets for %v", h.id, gap)
			}
		default:
			if n := h.missed(s.seq); n > 0 {
				t.Errorf("%v, whom nothing happened to, missed %d", h.id, n)
			}
		}
	}
	if all, _ := s.perPacket(); all != 1+1+2 {
		t.Errorf("%v packets in the end, want a multicast in each island, a copy for the other and one for the host that is cut off", all)
	}
}

// TestSimHysteresis: multicast that works every other second is not tried again at once.
func TestSimHysteresis(t *testing.T) {
	s := newSim(t, 1, []int{5}, 0)
	flap := pair{s.order[1].id, s.order[0].id}
	for range 60 {
		s.deaf[flap] = !s.deaf[flap]
		s.run(time.Second)
	}
	if n := s.order[0].sender.Stats().Moves; n > 3 {
		t.Errorf("%d moves in a minute", n)
	}
}

// TestSimFaults: whatever happens, in the end all members get all packets, by a plan that is worth it.
func TestSimFaults(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { simFaults(t, seed) })
	}
}

func simFaults(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 9))
	var islands []int
	for range 1 + r.IntN(5) {
		islands = append(islands, 1+r.IntN(8))
	}
	if len(islands) == 1 {
		islands[0] += 2
	}
	s := newSim(t, seed, islands, 2+r.IntN(7))
	s.lossy = 0.2 * r.Float64()
	for range 20 {
		h := s.order[r.IntN(len(s.order))]
		switch o := s.order[r.IntN(len(s.order))]; r.IntN(6) {
		case 0, 1:
			s.deaf[pair{h.id, o.id}] = true
		case 2:
			delete(s.deaf, pair{h.id, o.id})
		case 3:
			if h != s.order[0] {
				h.member = !h.member
			}
		case 4:
			if h != s.order[0] {
				h.dead = !h.dead
				h.member = !h.dead
			}
		case 5:
			s.publish()
		}
		if r.IntN(2) == 0 {
			s.members()
		}
		s.run(time.Duration(r.IntN(3000)) * time.Millisecond)
	}
	s.lossy = 0
	s.members()
	s.publish()
	s.run(Penance + 5*time.Second)
	for _, h := range s.order {
		h.joined, h.gap = s.seq, 0
		clear(h.got)
	}
	s.run(5 * time.Second)
	for _, h := range s.order[1:] {
		if !h.member || h.dead {
			continue
		}
		if n := h.missed(s.seq); n > 0 {
			t.Errorf("%v missed %d of %d after all was well: %+v", h.id, n, s.seq-h.joined, s.aud.Ways())
		}
		for q, n := range h.got {
			if n > 1 {
				t.Errorf("%v got number %d %d times", h.id, q, n)
				break
			}
		}
	}
}

// TestSimRest: a sender that stops closes what others hold for it.
func TestSimRest(t *testing.T) {
	s := newSim(t, 1, []int{5, 4}, 0)
	s.run(3 * time.Second)
	for range 500 {
		s.now = s.now.Add(simStep)
		due := s.later
		s.later = nil
		for _, f := range due {
			f()
		}
		for _, h := range s.order {
			h.sender.Tick(s.now)
			h.receiver.Tick(s.now)
			s.act(h)
		}
	}
	for _, h := range s.order {
		if w, b := h.receiver.Counts(); w+b > 0 || h.sender.Live() {
			t.Errorf("%v holds %d labels, %d branches", h.id, w, b)
		}
	}
	if s.aud.Route() != nil {
		t.Error("the route is still there")
	}
}

// TestSimQuiet: when all is well nobody says anything but refreshes, also after plans have followed each other.
func TestSimQuiet(t *testing.T) {
	s := newSim(t, 1, []int{17}, 0)
	for i := range 8 {
		s.deaf[pair{s.order[2*i+1].id, s.order[0].id}] = true
	}
	s.publish()
	s.run(2 * time.Second)
	clear(s.deaf)
	s.publish()
	s.run(3 * time.Second)
	s.said = map[byte]int{}
	s.run(5 * time.Second)
	if n := s.said[OpStarved] + s.said[OpClose] + s.said[OpReady]; n > 0 {
		t.Errorf("messages by kind: %v", s.said)
	}
}

// TestSimSmallUplink: a host that makes fewer copies than it is asked for is left out of forwarding, and still served.
func TestSimSmallUplink(t *testing.T) {
	s := newSim(t, 1, slices.Repeat([]int{1}, 40), 0)
	for _, h := range s.order[1:20] {
		h.receiver.fanout = 2
	}
	s.run(10 * time.Second)
	if _, most := s.perPacket(); most > DefaultFanout {
		t.Errorf("%v packets from one host: %+v", most, s.order[0].sender.Stats())
	}
	for _, h := range s.order[1:] {
		if n := h.missed(s.seq); n > 0 {
			t.Errorf("%v missed %d", h.id, n)
		}
		for _, b := range h.branches {
			if h.receiver.fanout == 2 && len(b.Children) > 2 {
				t.Errorf("%v makes %d copies", h.id, len(b.Children))
			}
		}
	}
}
