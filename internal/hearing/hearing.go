// Package hearing finds out which hosts hear this one's frames in a network that the kernel carries: a firewall on the way
// says nothing, and neither does a kernel that finds no one to send to.
//
// In rounds, one frame for all is sent, short, and one as long as frames can be. Who gets them says so on its link, which is
// another way: so each direction is judged alone.
package hearing

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

const (
	every    = 10 * time.Second       // a round, when all is well or known to be bad
	inDoubt  = time.Second            // ... when it is not known
	patience = 900 * time.Millisecond // an answer takes at most so long
	deafTime = 4                      // rounds without an answer that count as silence
	giveUp   = 12                     // rounds without an answer after which doubt has ended
)

// Verdict is what is known of one host.
type Verdict int

// The verdicts, best first.
const (
	Unknown   Verdict = iota // not asked often enough
	Hears                    // all lengths
	ShortOnly                // frames of full length do not arrive
	Deaf                     // nothing arrives
)

// Ears is what is known of all hosts of one network. Its owner serializes the calls. The zero value knows nothing.
type Ears struct {
	round  uint64
	sent   time.Time
	judged bool
	hosts  map[ident.HostID]*ear
}

// ear is one host's, for both lengths.
type ear struct {
	asked  uint64 // first round
	lately [2]uint64
	missed [2]int
}

// Start makes rounds count from n: a random number, so that answers to an earlier run count for nothing.
func (e *Ears) Start(n uint64) { e.round = n }

// Tick judges the round of the moment and says whether a new one is due: then frames with its number are to be sent to
// all that can be expected to answer. Call it about once a second.
func (e *Ears) Tick(now time.Time, expect []ident.HostID) (round uint64, due bool) {
	if e.hosts == nil {
		e.hosts = map[ident.HostID]*ear{}
	}
	for id := range e.hosts {
		if !slices.Contains(expect, id) {
			delete(e.hosts, id)
		}
	}
	if !e.judged && now.Sub(e.sent) >= patience {
		e.judge()
	}
	gap := every
	for _, id := range expect {
		h := e.hosts[id]
		if h == nil {
			h = &ear{asked: e.round + 1}
			e.hosts[id] = h
		}
		if h.lately[0] == 0 && h.missed[0] < giveUp || doubtful(h.missed[0]) || doubtful(h.missed[1]) {
			gap = inDoubt
		}
	}
	if len(expect) == 0 || !e.sent.IsZero() && (!e.judged || now.Sub(e.sent) < gap-gap/10) { // a tick early is as good
		return 0, false
	}
	e.round++
	e.sent, e.judged = now, false
	return e.round, true
}

func doubtful(missed int) bool { return missed > 0 && missed < giveUp }

func (e *Ears) judge() {
	e.judged = true
	for _, h := range e.hosts {
		if h.asked > e.round {
			continue
		}
		for i := range h.missed {
			switch {
			case h.lately[i] == e.round:
				h.missed[i] = 0
			case i == 0 || h.missed[0] == 0: // of long ones nothing is known where short ones are lost
				h.missed[i]++
			}
		}
	}
}

// Heard says that a host got a frame of a round.
func (e *Ears) Heard(id ident.HostID, round uint64, long bool) {
	h := e.hosts[id]
	if h == nil || round != e.round || round < h.asked {
		return
	}
	i := 0
	if long {
		i = 1
	}
	h.lately[i], h.missed[i] = round, 0
}

// Verdict says what is known of a host.
func (e *Ears) Verdict(id ident.HostID) Verdict {
	h := e.hosts[id]
	switch {
	case h == nil:
		return Unknown
	case h.missed[0] >= deafTime:
		return Deaf
	case h.missed[1] >= deafTime:
		return ShortOnly
	case h.lately[0] != 0 && h.lately[1] != 0:
		return Hears
	}
	return Unknown
}
