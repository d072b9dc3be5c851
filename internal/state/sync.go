package state

import (
	"errors"
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
		s.hints[scope] = &hint{first: now.Add(hintFirst), second: now.Add(hintSecond)}
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

// Input takes a message from a linked peer. The error says what of it was refused, for logs; it is counted already.
// The message is kept where its blocks are.
func (s *Sync) Input(now time.Time, from ident.HostID, msg []byte) (out []Send, changes []Change, err error) {
	p := s.peer(from)
	switch {
	case p == nil || len(msg) == 0 || len(msg) > MaxMessage:
		err = malformed("message")
	case msg[0] == msgDigest:
		out, err = s.onDigest(now, p, msg)
	case msg[0] == msgVector:
		out, err = s.onVector(now, p, msg)
	case msg[0] == msgRequest:
		out, err = s.onRequest(now, p, msg)
	case msg[0] == msgBlocks:
		out, changes, err = s.onBlocks(now, p, msg)
	default:
		err = malformed("message")
	}
	// Tables counts what it refuses itself.
	if errors.Is(err, ErrMalformed) || errors.Is(err, ErrBusy) {
		err = s.tables.refused.count(err)
	}
	return s.ask(now, out), changes, err
}

// spend takes n bytes of an answer from the peer's budget.
func (p *peer) spend(now time.Time, n int) bool {
	if d := now.Sub(p.budgetFrom); d > 0 {
		p.budget = min(answerBudget, p.budget+int(min(d, time.Second)*answerBudget/time.Second))
		p.budgetFrom = now
	}
	if p.budget < n {
		return false
	}
	p.budget -= n
	return true
}

func (s *Sync) onDigest(now time.Time, p *peer, msg []byte) ([]Send, error) {
	d, err := parseDigest(msg)
	if err != nil {
		return nil, err
	}
	var out []Send
	p.known, p.scopes = true, make(map[Scope]bool, len(d.held))
	for _, h := range d.held {
		p.scopes[h.scope] = true
	}
	if d.answer {
		// It does not know us yet: the comparison is then its turn.
		m := s.digestTo(p)
		if !p.spend(now, len(m.Msg)) {
			return nil, ErrBusy
		}
		out = append(out, m)
	}
	for _, h := range d.held {
		if !s.tables.Holds(h.scope) {
			continue
		}
		if s.tables.scopes[h.scope].sum == h.sum {
			p.met[h.scope] = true
			continue
		}
		if d.answer {
			continue
		}
		v := vector{answer: true, scope: h.scope, positions: s.tables.Vector(h.scope)}
		m := v.encode()
		if !p.spend(now, len(m)) {
			return out, ErrBusy
		}
		out = append(out, Send{To: p.id, Msg: m})
	}
	for _, m := range d.mine {
		if s.tables.Holds(m.scope) {
			s.claim(p, tableID{p.id, m.scope}, m.version)
		}
	}
	for _, y := range d.yours {
		// A table of ours in a scope we do not hold: from before a loss of our disk. Take it back, so that it can
		// be withdrawn.
		if !s.tables.Holds(y.scope) {
			s.claim(p, tableID{s.tables.self, y.scope}, y.version)
		}
	}
	return out, nil
}

func (s *Sync) onVector(now time.Time, p *peer, msg []byte) ([]Send, error) {
	v, err := parseVector(msg)
	if err != nil {
		return nil, err
	}
	self := s.tables.self
	if !s.tables.Holds(v.scope) {
		return nil, nil
	}
	for _, pos := range v.positions {
		if pos.Writer != self && !s.tables.cfg.Allowed(pos.Writer) {
			continue
		}
		id := tableID{pos.Writer, v.scope}
		tb := s.tables.table(pos.Writer, v.scope)
		s.claim(p, id, pos.Version)
		if tb == nil || tb.version != pos.Version || pos.Head == [8]byte{} || !tb.chained || tb.position().Head == pos.Head {
			continue
		}
		// One version, two contents. If it is ours, fetch the proof and put it right; else only the writer can.
		if pos.Writer != self {
			s.tables.refused.count(ErrEquivocation)
		} else if !tb.rewrite {
			s.want(p, id, pos.Version).again = true
		}
	}
	if !v.answer {
		return nil, nil
	}
	p.met[v.scope], p.scopes[v.scope] = true, true
	theirs := make(map[ident.HostID]Position, len(v.positions))
	for _, pos := range v.positions {
		theirs[pos.Writer] = pos
	}
	ahead := vector{scope: v.scope}
	for _, pos := range s.tables.Vector(v.scope) {
		// The writer is also shown where we have another history of it.
		if t := theirs[pos.Writer]; pos.Version > t.Version || pos.Version == t.Version && pos != t && pos.Writer == p.id {
			ahead.positions = append(ahead.positions, pos)
		}
	}
	if len(ahead.positions) == 0 {
		return nil, nil
	}
	m := ahead.encode()
	if !p.spend(now, len(m)) {
		return nil, ErrBusy
	}
	return []Send{{To: p.id, Msg: m}}, nil
}

func (s *Sync) onRequest(now time.Time, p *peer, msg []byte) ([]Send, error) {
	r, err := parseRequest(msg)
	if err != nil {
		return nil, err
	}
	parts, more := s.answer(&r)
	var out []Send
	size := 0
	for _, m := range parts {
		finishAnswer(m, len(parts), more)
		out = append(out, Send{To: p.id, Msg: m})
		size += len(m)
	}
	if !p.spend(now, size) {
		return nil, ErrBusy
	}
	return out, nil
}

// answer collects what a request asks for, in messages that cross a path in one datagram where the blocks allow it:
// what is lost then costs no more than itself. more says that the limit cut it.
func (s *Sync) answer(r *request) (parts [][]byte, more bool) {
	limit := min(max(int(r.limit), answerLeast), answerMost)
	part, size := newAnswer(0, r.id), 0
	add := func(b *Block) bool {
		n := 2 + len(b.raw)
		if size+n > limit && size > 0 { // one block at least: else nothing would ever arrive
			more = true
			return false
		}
		if len(part)+n > partTarget && len(part) > answerHeader {
			parts = append(parts, part)
			part = newAnswer(0, r.id)
		}
		part = appendBlock(part, b)
		size += n
		return true
	}
	for _, l := range r.lacks {
		tb := s.tables.table(l.writer, l.scope)
		if tb == nil {
			continue
		}
		proof, rest := tb.missing(l.after)
		if proof != nil && !add(proof) {
			break
		}
		for i := range rest {
			if !add(&rest[i]) {
				break
			}
		}
		if more {
			break
		}
	}
	return append(parts, part), more
}

func (s *Sync) onBlocks(now time.Time, p *peer, msg []byte) (out []Send, changes []Change, err error) {
	a, err := parseAnswer(msg)
	if err != nil {
		return nil, nil, err
	}
	for rest := a.blocks; len(rest) > 0; {
		var b Block
		var perr error
		if b, rest, perr = cutBlock(rest); perr != nil {
			err = perr // nothing after it can be trusted to be a block
			break
		}
		ch, aerr := s.tables.Apply(b)
		changes = append(changes, ch...)
		switch id := (tableID{b.Writer, b.Scope}); {
		case aerr == nil:
		case errors.Is(aerr, ErrGap):
			s.claim(p, id, b.To)
		case errors.Is(aerr, ErrEquivocation):
			err = aerr
			out = s.contradict(out, p, id, &b, a.evidence)
		case errors.Is(aerr, ErrForged):
			// A peer that passes on what nobody signed gets no more of our time for this message.
			s.answered(now, p, a)
			return out, changes, aerr
		default:
			err = aerr
		}
	}
	s.answered(now, p, a)
	return out, changes, err
}

// contradict shows a peer the block that its own disagrees with: when the peer is the writer, it can put it right.
// Evidence is not answered by evidence.
func (s *Sync) contradict(out []Send, p *peer, id tableID, b *Block, evidence bool) []Send {
	tb := s.tables.table(id.writer, id.scope)
	if evidence || tb == nil || len(tb.blocks) == 0 || len(out) > 0 || id.writer == s.tables.self {
		return out
	}
	known := tb.find(b.From)
	if known == nil {
		known = &tb.blocks[len(tb.blocks)-1]
	}
	return append(out, Send{To: p.id, Msg: appendBlock(newAnswer(blocksEvidence, 0), known)})
}
