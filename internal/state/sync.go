package state

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// SyncConfig is what Sync needs besides the tables.
type SyncConfig struct {
	// Rand chooses the peers to compare with; nil draws a seed.
	Rand *rand.Rand
}

// Send is a message to a linked peer; it goes in a link packet of wire.KindState, whose loss is no harm.
type Send struct {
	To  ident.HostID
	Msg []byte // at most MaxMessage bytes
}

// Sync keeps the tables equal to those of the linked peers. It has the same owner as its Tables.
//
// A change is pushed to all peers that hold its scope. Whatever is lost on the way shows in a digest, compared with
// one peer each second and with each new peer at once: sums differ, vectors are exchanged, and each side asks for
// what it lacks, each table of one peer at a time. When nothing changes, digests are all that is sent.
type Sync struct {
	tables *Tables
	rand   *rand.Rand
	peers  []*peer // by id
	wants  map[tableID]*want
	asked  bool   // wants or peers have changed: see whether there is something to ask
	lastID uint32 // of requests
	holds  uint64 // the value of tables.holds that peers were told

	nextDigest time.Time
	hints      map[Scope]*hint
	sent       Traffic
}

// Traffic counts messages and their bytes.
type Traffic struct{ Messages, Bytes uint64 }

// peer is a linked host.
type peer struct {
	id     ident.HostID
	known  bool // a digest came: scopes is what it holds
	scopes map[Scope]bool
	met    map[Scope]bool // scopes compared with it since it came up

	pending *pending // what we asked and it has not answered
	limit   int      // bytes of its next answer
	losses  int      // answers that did not come, in a row

	budget     int // bytes it may draw now
	budgetFrom time.Time
}

type pending struct {
	id    uint32
	until time.Time
	lacks []lack
	got   int // messages of the answer so far
	more  bool
}

// want is a table of which some peers are known, or claim, to hold more than we do.
type want struct {
	version uint64         // the highest claimed
	sources []ident.HostID // to ask, in this order
	from    ident.HostID   // asked now; zero: nobody
	again   bool           // ask for our last block too: a peer's is said to be different
}

// hint says when the version of our own table of a scope is told again.
type hint struct{ first, second time.Time }

// NewSync returns the protocol over tables.
func NewSync(tables *Tables, cfg SyncConfig) *Sync {
	r := cfg.Rand
	if r == nil {
		r = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return &Sync{
		tables: tables, rand: r, wants: map[tableID]*want{}, hints: map[Scope]*hint{},
		holds: tables.holds, lastID: r.Uint32(),
	}
}

func (s *Sync) find(id ident.HostID) (int, bool) {
	return slices.BinarySearchFunc(s.peers, id, func(p *peer, id ident.HostID) int { return byID(p.id, id) })
}

func (s *Sync) peer(id ident.HostID) *peer {
	if i, ok := s.find(id); ok {
		return s.peers[i]
	}
	return nil
}

// PeerUp says that a link to a host is up; what each holds is compared at once.
func (s *Sync) PeerUp(now time.Time, id ident.HostID) []Send {
	i, ok := s.find(id)
	if ok || id == s.tables.self {
		return nil
	}
	p := &peer{id: id, scopes: map[Scope]bool{}, met: map[Scope]bool{}, limit: answerFirst, budget: answerBudget, budgetFrom: now}
	s.peers = slices.Insert(s.peers, i, p)
	return s.done([]Send{s.digestTo(p)})
}

// PeerDown says that there is no link to a host any more.
func (s *Sync) PeerDown(id ident.HostID) {
	i, ok := s.find(id)
	if !ok {
		return
	}
	s.peers = slices.Delete(s.peers, i, i+1)
	for t, w := range s.wants {
		w.drop(id)
		if len(w.sources) == 0 {
			delete(s.wants, t)
		}
	}
	s.asked = true
}

// Peers returns how many peers are linked.
func (s *Sync) Peers() int { return len(s.peers) }

// Sent counts what was sent since the start.
func (s *Sync) Sent() Traffic { return s.sent }

// Behind says how many versions of our own table of a scope peers claim to have above ours, and whether any
// peer that is linked has been compared with in that scope since its link came up. A host that starts with peers should wait, for
// a while, until compared is true and versions is 0 before its first Commit. A claim that its peer cannot prove does not last.
func (s *Sync) Behind(sc Scope) (versions uint64, compared bool) {
	for _, p := range s.peers {
		compared = compared || p.met[sc]
	}
	own := s.tables.Version(s.tables.self, sc)
	if w := s.wants[tableID{s.tables.self, sc}]; w != nil && w.version > own {
		versions = w.version - own
	}
	return versions, compared
}

// Settled reports whether nothing is known to be missing.
func (s *Sync) Settled() bool { return len(s.wants) == 0 }

// Published pushes blocks of our own, fresh from Commit and on disk, to all peers that hold their scope.
func (s *Sync) Published(now time.Time, blocks []Block) []Send {
	var out []Send
	for len(blocks) > 0 {
		n, size := 0, answerHeader
		for n < len(blocks) && blocks[n].Scope == blocks[0].Scope {
			size += 2 + len(blocks[n].raw)
			n++
		}
		scope := blocks[0].Scope
		var msg []byte
		if size <= pushLimit {
			msg = newAnswer(0, 0)
			for i := range blocks[:n] {
				msg = appendBlock(msg, &blocks[i])
			}
		} else {
			msg = s.hint(scope)
		}
		out = s.toHolders(out, scope, msg)
		s.hints[scope] = &hint{first: now.Add(hintFirst), second: now.Add(hintAgain)}
		blocks = blocks[n:]
	}
	return s.done(out)
}

// hint is a vector of our own table alone.
func (s *Sync) hint(sc Scope) []byte {
	v := vector{scope: sc}
	if own := s.tables.table(s.tables.self, sc); own != nil {
		v.positions = append(v.positions, own.position())
	}
	return v.encode()
}

func (s *Sync) toHolders(out []Send, sc Scope, msg []byte) []Send {
	for _, p := range s.peers {
		if p.scopes[sc] {
			out = append(out, Send{To: p.id, Msg: msg})
		}
	}
	return out
}

// Tick does what is due; call it every 100 to 250 ms.
func (s *Sync) Tick(now time.Time) []Send {
	var out []Send
	for _, p := range s.peers {
		if p.pending != nil && !now.Before(p.pending.until) {
			s.lost(p)
		}
	}
	for _, sc := range sortedKeys(s.hints) {
		h := s.hints[sc]
		switch {
		case !h.first.IsZero() && !now.Before(h.first):
			h.first = time.Time{}
		case !now.Before(h.second):
			delete(s.hints, sc)
		default:
			continue
		}
		out = s.toHolders(out, sc, s.hint(sc))
	}
	switch {
	case s.holds != s.tables.holds:
		s.holds = s.tables.holds
		for _, p := range s.peers {
			out = append(out, s.digestTo(p))
		}
	case len(s.peers) > 0 && !now.Before(s.nextDigest):
		partner := s.partner()
		for _, p := range s.peers {
			if p == partner || !p.known {
				out = append(out, s.digestTo(p))
			}
		}
	default:
		return s.ask(now, out)
	}
	s.nextDigest = now.Add(digestEvery*3/4 + time.Duration(s.rand.Int64N(int64(digestEvery/2))))
	return s.ask(now, out)
}

// partner draws the peer to compare with: any, or, every other time, one that holds the same network as we do, for
// few may hold it.
func (s *Sync) partner() *peer {
	if held := s.tables.Scopes(); len(held) > 1 && s.rand.IntN(2) == 0 {
		sc := held[1+s.rand.IntN(len(held)-1)]
		var holders []*peer
		for _, p := range s.peers {
			if p.scopes[sc] {
				holders = append(holders, p)
			}
		}
		if len(holders) > 0 {
			return holders[s.rand.IntN(len(holders))]
		}
	}
	return s.peers[s.rand.IntN(len(s.peers))]
}

func (s *Sync) digestTo(p *peer) Send {
	d := digest{answer: !p.known}
	for _, sc := range s.tables.Scopes() {
		d.held = append(d.held, scopeSum{sc, s.tables.scopes[sc].sum})
		if tb := s.tables.table(p.id, sc); p.known && !p.scopes[sc] && tb != nil && len(tb.entries) > 0 {
			d.yours = append(d.yours, scopeVersion{sc, tb.version})
		}
	}
	for _, sc := range s.tables.left() {
		if v := s.tables.Version(s.tables.self, sc); v > 0 && len(d.mine) < MaxScopes {
			d.mine = append(d.mine, scopeVersion{sc, v})
		}
	}
	return Send{To: p.id, Msg: d.encode()}
}
