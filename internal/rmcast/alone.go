package rmcast

import (
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/buskey"
)

// A repair to the group costs all of it. So what nobody but who asks may lack, because the others have confirmed it, goes to that
// one alone; and so does what a receiver asks for that confirms nothing while most do, and what is beyond its share, which is a quarter of what is
// sent, and twice what receivers ask for on average, so that where all lose much each may ask for much. Neither who comes late or slept, nor one that
// asks for everything all the time, takes the others' time.

const (
	// shareOfSent and shareBurst bound what one receiver has sent again to the group, in bytes: a part of what is sent, and at once.
	shareOfSent = 4
	shareBurst  = 1 << 20
)

// aloneHold is how soon a packet is sent again to one alone once more.
const aloneHold = 20 * time.Millisecond

// refill gives a receiver its share of repairs: a rate of its own, little of it if it confirms nothing, and a quarter of what is sent; no more at once than is
// kept, for it can lack no more.
func (s *Sender) refill(now time.Time, t *target) {
	if d := now.Sub(t.filled); d > 0 {
		rate := float64(repairRate)
		if !t.live {
			rate = silentRate
		}
		t.bucket += int(min(d.Seconds(), 1) * rate)
		t.filled = now
	}
	sent := int(s.bytesSent - t.sentMark)
	most := silentBurst
	if t.live {
		most = max(most, min(repairBurst+s.congestion, s.store.bytes))
	}
	t.bucket = min(t.bucket+sent/4, most)
	t.share = min(t.share+sent/shareOfSent+2*int(s.bytesCast-t.castMark)/len(s.targets), shareBurst)
	t.sentMark, t.castMark = s.bytesSent, s.bytesCast
}

// cast takes a repair to the group off a receiver's share.
func (s *Sender) cast(t *target, bytes int) {
	t.share -= bytes
	s.bytesCast += uint64(bytes)
}

// isAlone reports whether a repair goes to one receiver of those served by multicast only.
func (s *Sender) isAlone(t *target, seq uint64, size int) bool {
	return seq < s.needed || t.share < size || !t.live && 2*s.confirming >= s.groupOf
}

// repairAlone sends what a NACK asked for to its sender alone.
func (s *Sender) repairAlone(at int64, t *target) {
	to := []netip.AddrPort{t.addr}
	for _, seq := range s.alone {
		p := s.store.at(seq)
		p.copied, p.copiedTo = at, t.id
		s.Stats.Repairs++
		s.Stats.RepairBytes += uint64(len(p.plain) + buskey.Header + buskey.Tag)
		s.load(seq, p.plain, false, to)
	}
	s.unload(false, to)
	s.alone = s.alone[:0]
}

// wasCopied reports whether a repair for a receiver alone is on its way.
func (p *slot) wasCopied(at int64, t *target) bool {
	return p.copiedTo == t.id && at-p.copied < int64(aloneHold)
}

// neededBy notes what a receiver has confirmed; two are the least two numbers of those served by multicast so far.
func (s *Sender) neededBy(t *target, two *[2]uint64) {
	if !t.live || !s.byGroup(t) {
		return
	}
	s.confirming++
	if t.acked < two[0] {
		two[0], two[1] = t.acked, two[0]
	} else {
		two[1] = min(two[1], t.acked)
	}
}
