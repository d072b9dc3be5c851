package rmcast

import (
	"math/bits"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/parity"
)

// Where many receivers lose different packets, each packet is lost by some, and to send them all again costs more than they did at first.
// Then the sender gathers what is asked for of a block of packets, and answers by as many parity packets as the receiver that lacks
// most of it lacks: they serve all (NORM, RFC 5740). It begins by itself where that saves something, and ends when it does not.
//
// A parity packet bears, in the place of the sequence, block * 256 + row, and is sealed under keys of its own: a block that was sent
// never changes, so a row is the same whenever it is made.

const (
	// parityGather is how long NACKs for a block are gathered, parityWait how long for a block that is not full yet, parityBlocked if it is
	// not because the sender waits for older packets to be repaired. Where the block before took longer than parityWait, but no longer
	// than paritySlow, it is waited for once for twice as long as that took.
	parityGather  = 5 * time.Millisecond
	parityWait    = 25 * time.Millisecond
	paritySlow    = 75 * time.Millisecond
	parityBlocked = 500 * time.Millisecond
	// paritySure rows are sent of a block before packets are sent again where that costs as much: who cannot use rows, because it
	// began to receive behind the block's beginning, say, is helped then.
	paritySure = parity.Packets
	// paritySample packets are looked at before it is decided anew; parityOn of them asked for begins it, parityOff ends it.
	paritySample = 256
	parityOn     = paritySample / 8
	parityOff    = paritySample / 16
	// parityLeast receivers by multicast make it worth while.
	parityLeast = 4
	// maxParityRows a receiver keeps of one block, maxParityBlocks of how many of a stream.
	maxParityRows   = parity.Packets
	maxParityBlocks = 128
)

// repairBlock is what is asked for of a block.
type repairBlock struct {
	asked uint32    // packets
	ever  uint32    // at any time
	need  int       // the most that one NACK asked for
	hasty bool      // some of it was sent again before it was full
	since time.Time // when first
	row   int       // the next that was never sent
	sent  []answered
}

// answered is how many rows of a block were sent up to a mark.
type answered struct {
	mark uint64
	rows int
	at   int64
}

// onTheirWay returns how many rows were sent of which a receiver whose last mark is known has had none.
func (b *repairBlock) onTheirWay(at int64, mark uint64) int {
	had := 0
	for _, a := range b.sent {
		if a.mark <= mark || at-a.at >= int64(markTrust) {
			had = a.rows
		}
	}
	return b.row - had
}

// rowsOnTheirWay reports whether parity packets are on their way to a receiver whose last mark is known that may bring it a packet: what all
// others have confirmed may still wait in the queue of one whose process waits for the processor.
func (s *Sender) rowsOnTheirWay(at int64, t *target, seq, mark uint64) bool {
	block, _ := blockOf(seq)
	b := s.blocks[block]
	return b != nil && s.rowsFrom.IsZero() && t.from <= block*parity.Packets && b.onTheirWay(at, mark) > 0
}

// blockOf returns a packet's block and place.
func blockOf(seq uint64) (block uint64, place int) {
	return seq / parity.Packets, int(seq % parity.Packets)
}

// asks notes what one NACK asks for of a block.
func (s *Sender) asks(now time.Time, t *target, block uint64, mask uint32, mark uint64) {
	b := s.blocks[block]
	if b == nil {
		b = &repairBlock{}
		s.blocks[block] = b
	}
	s.counted(t, bits.OnesCount32(mask&^b.ever))
	b.ever |= mask
	need := bits.OnesCount32(mask)
	if need -= b.onTheirWay(nanos(now), mark); need <= 0 {
		s.wantsMark(now, t)
		return
	}
	if b.asked == 0 {
		b.since = now
		s.pending = append(s.pending, block)
	} else {
		s.wantsMark(now, t) // it is heard, but has to wait
	}
	b.asked |= mask
	if need > b.need {
		s.cast(t, (need-b.need)*s.limit)
		b.need = need
	}
}

// counted notes what a receiver has asked for, and of how many packets nobody had before.
func (s *Sender) counted(t *target, packets int) {
	if s.askedFor += packets; t.sampled != s.samples+1 {
		t.sampled = s.samples + 1
		s.askers++
	}
}

// sample decides whether to answer by parity packets.
func (s *Sender) sample() {
	if s.Stats.Packets-s.sampled < paritySample && (s.byParity || s.askedFor <= parityOn) {
		return
	}
	s.sampled = s.Stats.Packets
	switch {
	case !s.rowsFrom.IsZero():
		s.byParity = false
	case s.cfg.parity:
		s.byParity = true
	case s.cfg.NoParity || s.groupOf < parityLeast || s.askedFor < parityOff || s.askers < 2: // one alone is served as well by packets
		s.byParity = false
	case s.askedFor > parityOn:
		s.byParity = true
	}
	s.askedFor, s.askers = 0, 0
	s.samples++
	for block := range s.blocks {
		if (block+1)*parity.Packets <= max(s.store.first, s.minAcked) && !slices.Contains(s.pending, block) {
			delete(s.blocks, block)
		}
	}
}

// answer sends the repairs that were gathered. It returns when to call again.
func (s *Sender) answer(now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	at := nanos(now)
	kept := s.pending[:0]
	for _, block := range s.pending {
		b := s.blocks[block]
		full := (block+1)*parity.Packets <= s.sent
		due := b.since.Add(parityGather)
		switch first := block * parity.Packets; {
		case !full && s.blocked && s.minAcked < first: // it will be full when those behind have what comes before
			due = b.since.Add(parityBlocked)
		case !full:
			due = b.since.Add(s.parityWait(first, b))
		}
		if now.Before(due) {
			next = earlier(next, due)
			kept = append(kept, block)
			continue
		}
		first := block * parity.Packets
		if full && s.rowsFrom.IsZero() && first >= s.store.first && (b.row < paritySure || bits.OnesCount32(b.asked) > b.need) && b.row+b.need <= parity.Rows {
			s.sendRows(at, block, b)
		} else {
			b.hasty = b.hasty || !full
			for rest := b.asked; rest != 0; rest &= rest - 1 {
				if seq := first + uint64(bits.TrailingZeros32(rest)); seq >= s.store.first && seq < s.sent {
					p := s.store.at(seq)
					s.repaired(at, p)
					s.Stats.Repairs++
					s.Stats.RepairBytes += uint64(len(p.plain) + buskey.Header + buskey.Tag)
					s.load(seq, p.plain, true, nil)
				}
			}
		}
		b.asked, b.need = 0, 0
	}
	s.pending = kept
	s.unload(true, nil)
	if s.unmarked {
		s.castBeat(now, 0)
	}
	return next
}

// parityWait returns how long NACKs are gathered for a block that is not full yet.
func (s *Sender) parityWait(first uint64, b *repairBlock) time.Duration {
	if b.hasty || first < s.store.first+parity.Packets {
		return parityWait
	}
	took := time.Duration(s.store.at(first).at - s.store.at(first-parity.Packets).at)
	if took < 0 || took > paritySlow {
		return parityWait
	}
	return max(2*took, parityWait)
}

// sendRows answers for a block by parity packets.
func (s *Sender) sendRows(at int64, block uint64, b *repairBlock) {
	var data [parity.Packets][]byte
	for i := range data {
		data[i] = s.store.at(block*parity.Packets + uint64(i)).plain
	}
	if s.parityKey == nil {
		s.parityKey = s.bus.Parity(s.suite, uint64(s.self), s.id)
	}
	for range min(b.need+b.need/8, parity.Rows-b.row) {
		s.rowSpace = parity.Row(s.rowSpace[:0], b.row, &data)
		size := len(s.rowSpace) + buskey.Header + buskey.Tag
		if !s.out.fits(size) {
			s.unload(true, nil)
		}
		var err error
		if s.out.buf, err = s.parityKey.Seal(s.out.buf, TypeParity, block<<8|uint64(b.row), s.rowSpace); err == nil {
			s.out.added(size)
			s.Stats.Repairs++
			s.Stats.Parity++
			s.Stats.RepairBytes += uint64(size)
		}
		b.row++
	}
	s.unload(true, nil)
	b.sent = append(b.sent, answered{s.marks + 1, b.row, at})
	s.unmarked = true
}

// parityRows are parity packets of a block that wait for more.
type parityRows struct {
	numbers []int
	rows    [][]byte
}

// rowsHeld returns how many parity packets of a block are here. Those of a block that a leap has ended in rebuild nothing any more: they
// must not stand for packets that nobody would ask for then.
func (r *rx) rowsHeld(block uint64) int {
	p := r.parities[block]
	if p == nil {
		return 0
	}
	if _, possible := r.lacks(block); !possible {
		delete(r.parities, block)
		return 0
	}
	return len(p.rows)
}

// lacks returns how many packets of a block are not here; ok is false when some are gone for good.
func (r *rx) lacks(block uint64) (n int, ok bool) {
	first := block * parity.Packets
	if first < r.store.first {
		return 0, false
	}
	for seq := first; seq < first+parity.Packets; seq++ {
		if !r.store.has(seq) {
			if seq < r.next {
				return 0, false
			}
			n++
		}
	}
	return n, true
}

// parity takes a parity packet of a stream.
func (n *Node) parity(now time.Time, group bool, pkt []byte) {
	stream, epoch, number, ok := buskey.ParseHeader(pkt)
	if !ok {
		n.Stats.Short++
		return
	}
	r := n.streams[streamKey{ID(epoch), stream}]
	if r == nil {
		n.Stats.UnknownStream++
		return
	}
	block, row := number>>8, int(number&255)
	if end := (block + 1) * parity.Packets; end-r.delivered > maxAhead || end <= r.next || row >= parity.Rows {
		n.Stats.Duplicates++
		return
	}
	lacks, possible := r.lacks(block)
	held := r.parities[block]
	switch {
	case now.Before(r.noRows):
		n.Stats.Unsigned++
		return
	case r.st.Class == BestEffort, !possible, lacks == 0, held != nil && slices.Contains(held.numbers, row):
		n.Stats.Duplicates++
		return
	case block*parity.Packets > r.high, r.undelivered >= n.cfg.Ahead, held == nil && len(r.parities) >= maxParityBlocks, held != nil && len(held.rows) >= maxParityRows:
		n.Stats.Ahead++
		return
	}
	if r.parityKey == nil {
		r.parityKey = r.m.bus.Parity(r.m.suite, epoch, stream)
	}
	room := n.slab.room(len(pkt))
	plain, err := r.parityKey.Open(room, number, pkt)
	if err != nil {
		n.Stats.Forged++
		return
	}
	n.slab.took(len(plain))
	n.Stats.Parity++
	r.fec = true
	if r.m.signs == nil { // else it is not known yet whose it is
		n.heard(now, r.m, group)
		r.m.busyAt = now
	}
	if held == nil {
		held = &parityRows{}
		if r.parities == nil {
			r.parities = map[uint64]*parityRows{}
		}
		r.parities[block] = held
	}
	held.numbers, held.rows = append(held.numbers, row), append(held.rows, plain[:len(plain):len(plain)])
	r.rebuild(now, block)
	n.touch(r)
}

// rebuild makes what is missing of a block, if there are parity packets enough.
func (r *rx) rebuild(now time.Time, block uint64) {
	held := r.parities[block]
	if held == nil {
		return
	}
	lacks, possible := r.lacks(block)
	if !possible || lacks == 0 {
		delete(r.parities, block)
		return
	}
	if len(held.rows) < lacks {
		return
	}
	delete(r.parities, block)
	var data [parity.Packets][]byte
	var missing uint32
	first := block * parity.Packets
	for i := range data {
		if seq := first + uint64(i); r.store.has(seq) {
			data[i] = r.store.at(seq).plain
		} else {
			missing |= 1 << i
		}
	}
	if parity.Rebuild(&data, held.numbers, held.rows) != nil {
		r.n.Stats.Malformed++
		return
	}
	if r.forged(now, first, missing, &data) {
		return
	}
	for ; missing != 0; missing &= missing - 1 {
		i := bits.TrailingZeros32(missing)
		if _, _, err := Begins(data[i]); err != nil {
			r.n.Stats.Malformed++
			return
		}
		seq := first + uint64(i)
		r.n.Stats.Rebuilt++
		r.accept(now, seq, data[i], nil)
		if r.relay.passes() { // the island has had no more of it than we
			if pkt, err := r.key.Seal(nil, TypeData, seq, data[i]); err == nil {
				r.pass(now, false, seq, pkt)
			}
		}
	}
}

// forgetRows lets parity packets go of blocks that are complete.
func (r *rx) forgetRows() {
	for block := range r.parities {
		if (block+1)*parity.Packets <= r.next {
			delete(r.parities, block)
		}
	}
}

// dueByBlock makes all gaps of a block due when one is: the publisher answers for a block, by the most that is asked for at once.
func (r *rx) dueByBlock(now, soon time.Time) {
	if !r.fec {
		return
	}
	spread := func(i, j int) {
		a, b := &r.gaps[i], &r.gaps[j]
		if a.from/parity.Packets == b.from/parity.Packets && !a.due.After(soon) && b.due.After(soon) {
			b.due = now
		}
	}
	for i := 1; i < len(r.gaps); i++ {
		spread(i-1, i)
	}
	for i := len(r.gaps) - 1; i > 0; i-- {
		spread(i, i-1)
	}
}
