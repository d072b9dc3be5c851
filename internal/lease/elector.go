package lease

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// Elector is the side of a host that stays. It is not safe for concurrent use.
type Elector struct {
	self    ident.HostID
	leases  map[ident.HostID]Lease // by holder
	votes   map[ident.HostID]map[ident.HostID]Vote
	heard   map[ident.HostID]time.Time // when a holder asked last, or another term of it was read of
	settled map[ident.HostID]time.Time // since when a majority of a holder's electors is in reach
	ticked  time.Time
}

// NewElector returns one that knows nothing yet: feed it the tables, its own included.
func NewElector(self ident.HostID, now time.Time) *Elector {
	return &Elector{
		self: self, ticked: now,
		leases: map[ident.HostID]Lease{}, votes: map[ident.HostID]map[ident.HostID]Vote{},
		heard: map[ident.HostID]time.Time{}, settled: map[ident.HostID]time.Time{},
	}
}

// SetLease takes note of what a holder wrote; one that is older than what is known is passed over.
func (e *Elector) SetLease(now time.Time, holder ident.HostID, l Lease) {
	old, known := e.leases[holder]
	if l.Serial < old.Serial || !known && len(e.leases) >= MaxHolders || l.Serial == old.Serial && old.Before == nil && l.Before != nil {
		return
	}
	if l.Serial != old.Serial {
		e.heard[holder] = now
	}
	e.leases[holder] = l
}

// SetVote takes note of what an elector, this one included, wrote of a holder.
func (e *Elector) SetVote(elector, holder ident.HostID, v Vote) {
	if e.votes[holder] == nil {
		if len(e.votes) >= MaxHolders {
			return
		}
		e.votes[holder] = map[ident.HostID]Vote{}
	}
	old, known := e.votes[holder][elector]
	if !known && len(e.votes[holder]) >= 2*MaxElectors || old.Gone || v.Serial < old.Serial {
		return
	}
	e.votes[holder][elector] = v
}

// DropVote takes note that an elector wrote nothing of a holder any more: it has heard that the holder was removed.
func (e *Elector) DropVote(elector, holder ident.HostID) {
	delete(e.votes[holder], elector)
	if len(e.votes[holder]) == 0 {
		delete(e.votes, holder)
	}
}

// Forget drops a holder that was removed from the cluster; own says that this host has written of it.
func (e *Elector) Forget(holder ident.HostID) (own bool) {
	_, own = e.votes[holder][e.self]
	delete(e.leases, holder)
	delete(e.votes, holder)
	delete(e.heard, holder)
	delete(e.settled, holder)
	return own
}

// Handle takes a holder's request. When vote is not nil it is to be written before the answer is sent, and then to be handed to SetVote.
func (e *Elector) Handle(now time.Time, from ident.HostID, m Message) (vote *Vote, answer *Message) {
	own, known := e.votes[from][e.self]
	switch {
	case m.Op != Renew || m.Serial < own.Serial || !known && len(e.votes) >= MaxHolders:
		return nil, nil
	case m.Serial != e.leases[from].Serial:
		return nil, nil // who renews a term can tell others of it
	case own.Gone:
		return nil, &Message{To: from, Op: Refused, Serial: m.Serial, Counter: m.Counter}
	case m.Serial > own.Serial:
		vote = &Vote{Serial: m.Serial}
	}
	e.heard[from] = now
	return vote, &Message{To: from, Op: Renewed, Serial: m.Serial, Counter: m.Counter}
}

// Tick returns the holders that this elector is to vote about now, all of them with Gone set. reached are the hosts in reach.
func (e *Elector) Tick(now time.Time, reached []ident.HostID) map[ident.HostID]Vote {
	if longest(now, e.ticked) > SettleTime/2 { // this host slept: what is in reach is not known yet
		clear(e.settled)
	}
	e.ticked = now
	out := map[ident.HostID]Vote{}
	for holder, l := range e.leases {
		here := func(id ident.HostID) bool { return id == e.self || slices.Contains(reached, id) }
		if !majority(l.Electors, here) {
			delete(e.settled, holder)
			continue
		}
		if _, ok := e.settled[holder]; !ok {
			e.settled[holder] = now
		}
		last, own := e.heard[holder], e.votes[holder][e.self]
		mine := slices.Contains(l.Electors, e.self) || l.Before != nil && slices.Contains(l.Before.Electors, e.self)
		if mine && !own.Gone && shortest(now, last) >= GoneAfter && now.Sub(e.settled[holder]) >= SettleTime {
			out[holder] = Vote{Serial: own.Serial, Gone: true}
		}
	}
	return out
}

// Gone returns the holders that a majority has voted about, in order.
func (e *Elector) Gone() (out []ident.HostID) {
	for holder, l := range e.leases {
		decided := func(t *Term) bool {
			return t != nil && majority(t.Electors, func(id ident.HostID) bool {
				v := e.votes[holder][id]
				return v.Gone && v.Serial <= t.Serial
			})
		}
		if decided(&l.Term) || decided(l.Before) {
			out = append(out, holder)
		}
	}
	slices.SortFunc(out, compare)
	return out
}
