// Package hearing finds out which hosts hear this one's frames in a network that the kernel carries: a firewall on the way
// says nothing, and neither does a kernel that finds no one to send to.
//
// In rounds, one frame for all is sent, short, and one as long as frames can be. A moment later the hosts are asked on their
// links, which are another way, what of the round they heard: so each direction is judged alone, and only by those who say
// that they heard nothing. A host that does not answer is down, or busy.
package hearing

import (
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

const (
	every    = 10 * time.Second       // a round, when all is well or known to be bad
	inDoubt  = 2 * time.Second        // ... when it is not known
	patience = 500 * time.Millisecond // frames take at most so long
	deafTime = 3                      // rounds of which nothing was heard that count as silence
	giveUp   = 10                     // ... after which doubt has ended
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
	round uint64
	sent  time.Time
	asked bool
	hosts map[ident.HostID]*ear
}

// ear is one host's, for both lengths.
type ear struct {
	first    uint64 // round that it could hear
	reported uint64 // last round that it told about
	heard    [2]bool
	missed   [2]int
}

// Start makes rounds count from n: a random number, so that reports to an earlier run count for nothing.
func (e *Ears) Start(n uint64) { e.round = n }

// Tick says what is due: frames of a new round to all, or else the question to each what it heard of the round of the
// moment. 0 is no round. Call it about once a second.
func (e *Ears) Tick(now time.Time, expect []ident.HostID) (send, ask uint64) {
	if e.hosts == nil {
		e.hosts = map[ident.HostID]*ear{}
	}
	for id := range e.hosts {
		if !slices.Contains(expect, id) {
			delete(e.hosts, id)
		}
	}
	gap := every
	for _, id := range expect {
		h := e.hosts[id]
		if h == nil {
			h = &ear{first: e.round + 1}
			e.hosts[id] = h
		}
		if h.reported == 0 && e.round < h.first+giveUp || doubtful(h.missed[0]) || doubtful(h.missed[1]) {
			gap = inDoubt
		}
	}
	switch {
	case len(expect) == 0:
	case e.sent.IsZero(), e.asked && now.Sub(e.sent) >= gap-gap/10: // a tick early is as good
		e.round++
		e.sent, e.asked = now, false
		return e.round, 0
	case !e.asked && now.Sub(e.sent) >= patience:
		e.asked = true
		return 0, e.round
	}
	return 0, 0
}

func doubtful(missed int) bool { return missed > 0 && missed < giveUp }

// Report says what a host heard of a round.
func (e *Ears) Report(id ident.HostID, round uint64, short, long bool) {
	h := e.hosts[id]
	if h == nil || round != e.round || !e.asked || round < h.first || round == h.reported {
		return
	}
	h.reported = round
	for i, heard := range []bool{short, long} {
		switch {
		case heard:
			h.heard[i], h.missed[i] = true, 0
		case i == 0 || short: // of long ones nothing is known where short ones are lost
			h.missed[i]++
		}
	}
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
	case h.heard[0] && h.heard[1]:
		return Hears
	}
	return Unknown
}
