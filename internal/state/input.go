package state

import (
	"errors"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

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
			_ = s.tables.refused.count(ErrEquivocation)
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
