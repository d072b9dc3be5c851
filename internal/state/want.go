package state

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// claim notes that a peer says it has a version of a table; nothing happens unless it is above ours.
func (s *Sync) claim(p *peer, id tableID, version uint64) {
	if version > s.tables.Version(id.writer, id.scope) && version <= maxVersion &&
		(s.wants[id] != nil || len(s.wants) < maxWants) {
		s.want(p, id, version)
	}
}

// want notes a peer as a source of a table up to version.
func (s *Sync) want(p *peer, id tableID, version uint64) *want {
	w := s.wants[id]
	if w == nil {
		w = &want{}
		s.wants[id] = w
	}
	w.version = max(w.version, version)
	if !slices.Contains(w.sources, p.id) {
		if len(w.sources) == maxSources {
			w.sources = slices.Delete(w.sources, maxSources-1, maxSources)
		}
		w.sources = append(w.sources, p.id)
	}
	s.asked = true
	return w
}

func (w *want) drop(id ident.HostID) {
	w.sources = slices.DeleteFunc(w.sources, func(o ident.HostID) bool { return o == id })
	if w.from == id {
		w.from = ident.HostID{}
	}
}

// ask appends a request to every peer that is the next source of a table nobody is asked for, and has no request open.
// Every call that sends ends in it.
func (s *Sync) ask(now time.Time, out []Send) []Send {
	if !s.asked {
		return s.done(out)
	}
	s.asked = false
	lacks := map[ident.HostID][]lack{}
	for _, id := range sortedTables(s.wants) {
		w := s.wants[id]
		after := s.tables.Version(id.writer, id.scope)
		switch {
		case w.version <= after && !w.again,
			id.writer != s.tables.self && (!s.tables.Holds(id.scope) || !s.tables.cfg.Allowed(id.writer)):
			delete(s.wants, id)
			continue
		case !w.from.IsZero():
			continue
		}
		if w.again {
			after = s.tables.beforeLast(id)
		}
		for _, src := range w.sources {
			p := s.peer(src)
			if p.pending == nil && len(lacks[src]) < maxAsked {
				lacks[src] = append(lacks[src], lack{id, after})
				w.from = src
				break
			}
		}
	}
	for _, src := range slices.SortedFunc(maps.Keys(lacks), byID) {
		p := s.peer(src)
		s.lastID++
		if s.lastID == 0 {
			s.lastID = 1 // 0 is a push
		}
		r := request{id: s.lastID, limit: uint32(p.limit), lacks: lacks[src]}
		wait := min(requestTimeout<<min(p.losses/2, 3), requestMost)
		p.pending = &pending{id: r.id, until: now.Add(wait), lacks: r.lacks}
		out = append(out, Send{To: src, Msg: r.encode()})
	}
	return s.done(out)
}

// beforeLast is the version before the last block of a table: who asks from there is sent the other's block of the
// same version.
func (t *Tables) beforeLast(id tableID) uint64 {
	tb := t.table(id.writer, id.scope)
	if tb == nil || len(tb.blocks) == 0 {
		return 0
	}
	return tb.blocks[len(tb.blocks)-1].From - 1
}

// lost gives up waiting for what is missing of a peer's answer. When nothing of it came the next sources are asked, and
// the peer, later, for less at a time.
func (s *Sync) lost(p *peer) {
	if p.pending.got > 0 {
		p.limit = max(p.limit/4*3, answerLeast)
		s.close(p, true)
		return
	}
	p.losses++
	p.limit = max(p.limit/2, answerLeast)
	for _, l := range p.pending.lacks {
		if w := s.wants[l.tableID]; w != nil && w.from == p.id {
			w.from = ident.HostID{}
			if i := slices.Index(w.sources, p.id); i >= 0 {
				w.sources = append(slices.Delete(w.sources, i, i+1), p.id)
			}
		}
	}
	p.pending = nil
	s.asked = true
}

// answered counts a message of the answer to what the peer was asked.
func (s *Sync) answered(now time.Time, p *peer, a answer) {
	s.asked = true
	if p.pending == nil || a.id != p.pending.id {
		return
	}
	p.losses = 0
	p.pending.got++
	p.pending.more = p.pending.more || a.more
	if p.pending.got < int(a.parts) {
		p.pending.until = now.Add(partTimeout)
		return
	}
	p.limit = min(p.limit*2, answerMost)
	s.close(p, false)
}

// close ends a request. A source that had nothing for a table is asked for it no more, until it claims again to have
// it; not so when the answer was lost in part.
func (s *Sync) close(p *peer, partly bool) {
	s.asked = true
	lacks, more := p.pending.lacks, p.pending.more
	p.pending = nil
	moved := false
	for _, l := range lacks {
		moved = moved || s.tables.Version(l.writer, l.scope) > l.after
	}
	for _, l := range lacks {
		w := s.wants[l.tableID]
		if w == nil || w.from != p.id {
			continue
		}
		w.from, w.again = ident.HostID{}, false
		if v := s.tables.Version(l.writer, l.scope); v >= w.version {
			delete(s.wants, l.tableID)
		} else if v <= l.after && !partly && !(more && moved) {
			if w.drop(p.id); len(w.sources) == 0 {
				delete(s.wants, l.tableID)
			}
		}
	}
}

// done counts what is sent.
func (s *Sync) done(out []Send) []Send {
	for _, m := range out {
		s.sent.Messages++
		s.sent.Bytes += uint64(len(m.Msg))
	}
	return out
}

func sortedKeys[V any](m map[Scope]V) []Scope { return slices.Sorted(maps.Keys(m)) }

func sortedTables(m map[tableID]*want) []tableID {
	return slices.SortedFunc(maps.Keys(m), func(a, b tableID) int {
		return cmp.Or(cmp.Compare(a.scope, b.scope), byID(a.writer, b.writer))
	})
}
