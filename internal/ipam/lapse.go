package ipam

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// A host whose disk was put back to an older state has lost what it said since. Its state tables bring back what it had
// not begun to write anew (Recovered); of the rest its books are too old for whoever knows the later ones, who tells it (tell).

// stray is an own entry of the state tables that may not be what this host has in memory.
type stray struct {
	scope uint32
	key   string
}

// maxStrays bounds them; what is left out is put right at the next start.
const maxStrays = 1 << 15

// Recovered takes note of an own entry from before a loss of this host's disk, which another host still had: after Run has
// started, what OnChange passes over. Books go on from it; of the other entries those that this host knows nothing of go.
func (s *Service) Recovered(scope uint32, key string, value []byte, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	switch {
	case !s.running, len(key) > maxKey+len(keyIP) && !has(key, keyLend): // before Run OnChange takes it
	case has(key, keyRing):
		err = s.bookRecoveredLocked(scope, key, value, gone)
	case (has(key, keyIP) || has(key, keyLend) || has(key, keyNet) && scope == 0) && len(s.strays) < maxStrays:
		x := stray{scope, key}
		if has(key, keyLend) && !gone && s.ownEntryLocked(x) == nil { // whoever has it may be using it
			err = s.onLoanLocked(scope, s.cfg.Self, key, value, false)
		}
		s.strays[x] = true
		s.poke()
	}
	if err != nil {
		s.counts.BadValues++
		s.cfg.Log.Warn("own address state from before a loss of the disk not followed", "err", err)
	}
}

// bookRecoveredLocked goes on from a book that came back in this host's table. The table must not keep an older one than this
// host goes by.
func (s *Service) bookRecoveredLocked(scope uint32, key string, value []byte, gone bool) error {
	p, err := parseRingKey(key)
	if err != nil {
		return err
	}
	if sc := s.scopes[scope]; sc != nil {
		for _, sp := range sc.spaces {
			if sp.prefix == p {
				sp.rewrite = true
				sp.notifyLocked()
				s.poke()
				if gone {
					return nil
				}
				return s.toldLocked(sp, value)
			}
		}
	}
	if gone {
		return nil
	}
	return s.onBookLocked(scope, s.cfg.Self, key, value)
}

// Forked notes that this host's table of a scope has two histories: it went on from an older disk before it heard of what
// it had said since. What it says to own there gives way to later claims from now on.
func (s *Service) Forked(scope uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc := s.scopes[scope]; sc != nil {
		for _, sp := range sc.spaces {
			sp.ring.Lapse()
			sp.notifyLocked()
		}
	}
	s.poke()
}

// toldLocked takes a later book of this host's own.
func (s *Service) toldLocked(sp *space, value []byte) error {
	e, err := decodeBook(value)
	if err != nil {
		return err
	}
	later, err := sp.ring.Recall(e.book)
	if later {
		s.cfg.Log.Warn("this host's disk has an older state than other hosts know: going on from theirs", "range", sp.prefix)
		sp.notifyLocked()
		s.poke()
	}
	return err
}

// putStrays writes what this host has in memory over what came back.
func (s *Service) putStrays() error {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	puts, dels := map[uint32]map[string][]byte{}, map[uint32][]string{}
	for x := range s.strays {
		if puts[x.scope] == nil {
			puts[x.scope] = map[string][]byte{}
		}
		if v := s.ownEntryLocked(x); v != nil {
			puts[x.scope][x.key] = v
		} else {
			dels[x.scope] = append(dels[x.scope], x.key)
		}
	}
	clear(s.strays)
	s.mu.Unlock()
	for _, scope := range slices.Sorted(maps.Keys(puts)) {
		slices.Sort(dels[scope])
		if err := s.publish(scope, puts[scope], dels[scope]); err != nil {
			return fmt.Errorf("scope %d: %w", scope, err)
		}
	}
	return nil
}

// ownEntryLocked returns what this host has in memory for a key of its table; nil: nothing.
func (s *Service) ownEntryLocked(x stray) []byte {
	sc := s.scopes[x.scope]
	switch {
	case sc != nil && has(x.key, keyIP):
		if v, ok := sc.own[x.key[len(keyIP):]]; ok {
			return put32(v)
		}
	case sc != nil && has(x.key, keyLend):
		for a, ls := range sc.loans {
			for _, l := range ls {
				if l.lender == s.cfg.Self && loanKey(l.to, l.key) == x.key {
					return encodeTerms(a, l.serial)
				}
			}
		}
	case has(x.key, keyNet):
		if index, err := parseNetKey(x.key); err == nil {
			if v, ok := s.nets[index][s.cfg.Self]; ok {
				return put32(v)
			}
		}
	}
	return nil
}

// noteBehindLocked notes whether a host shows a book that is no later than one known of it.
func (s *Service) noteBehindLocked(sp *space, writer ident.HostID, shown *ring.Book, changed bool) {
	known, ok := sp.ring.Book(writer)
	switch {
	case changed:
		delete(sp.behind, writer)
	case ok && !known.Same(shown):
		if _, told := sp.behind[writer]; !told {
			sp.behind[writer] = time.Time{}
			s.poke()
		}
	}
}

// tell shows hosts that are behind their own book, every few seconds, until they show a later one.
func (s *Service) tell(sp *space, now time.Time) {
	s.mu.Lock()
	msgs := map[ident.HostID][]byte{}
	behind := slices.SortedFunc(maps.Keys(sp.behind), compareHosts)
	for _, id := range behind {
		last := sp.behind[id]
		known, ok := sp.ring.Book(id)
		if _, gone := s.removed[id]; gone || !ok {
			delete(sp.behind, id)
			continue
		}
		if now.Sub(last) < topUpEvery {
			continue
		}
		sp.behind[id] = now
		e := entry{book: known, left: sp.leavers[id]}
		if sp.scope == 0 {
			e.ula = s.ula[:]
		}
		v, err := encodeBook(&e)
		if err == nil {
			v, err = encodeTold(sp.scope, sp.prefix, v)
		}
		if err == nil {
			msgs[id] = v
			s.counts.BooksTold++
		}
	}
	s.mu.Unlock()
	for _, id := range behind {
		if msgs[id] == nil {
			continue
		}
		if err := s.cfg.Ask(id, msgs[id]); err != nil {
			s.cfg.Log.Debug("host not told of its later book", "range", sp.prefix, "host", id, "err", err)
		}
	}
}

// usedTwiceLocked returns the addresses that attachments of this host and of another use both.
func (s *Service) usedTwiceLocked(sp *space) (out []ring.Conflict) {
	sc := s.scopes[sp.scope]
	if sp.scope == 0 || sc == nil {
		return nil
	}
	for a, key := range sp.pool.All() {
		for _, h := range sc.holders[a] {
			if h.key == key {
				continue // the host that this one was before it lost its state, or a claim's: see Overruled
			}
			out = append(out, ring.Conflict{Range: ring.Range{First: a, Last: a}, Other: h.host})
		}
	}
	return out
}
