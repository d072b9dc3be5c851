package rmcast

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/parity"
)

// A member that signs (Config.Sign) has all that it says signed beside being sealed, for any member can seal in its name (buskey.Identity): hellos, which
// name its key; control packets, one by one, with for whom they are; data packets by the batch. Others take nothing in its name that is not signed by it, nor
// note a sign of life or a counter; and what they keep to repair others with has its proof with it, for packets are kept with their proofs.
//
// What others say of its streams is not believed, but what it has said itself can be passed on: where a stream has got to shows by its last packet,
// or by the control packet that told so (recWord). Parity packets are not signed. What is made of them is checked as what came; if that fails, somebody
// forges them, and none are taken for a while, nor sent.

// Records of this file; others pass them over.
const (
	recSigned = 40 // [for whom, 0: all][signature 64]: the last record, of the packet's header and the records before
	recWord   = 41 // a control packet that its sender has signed, for whomever: [header 20] and records
)

const (
	forAll       = ID(0)
	signedRecord = 3 + 8 + buskey.SignatureSize
	// maxWord is how long a control packet may be that is kept to be passed on, in bytes. Those that tell of a stream's end are shorter.
	maxWord = 600
	// noRowsFor is how long parity packets are not taken after some were forged, and not sent after that was told.
	noRowsFor = 30 * time.Second
)

// errUnsigned says that a control packet is not signed by whom it names, or is for another.
var errUnsigned = errors.New("unsigned")

// sealControl appends a control packet to dst, signed where its sender signs. What is behind plain in its array may be overwritten.
func sealControl(dst []byte, ctl *buskey.Control, sign *buskey.Identity, to ID, plain []byte) []byte {
	if sign == nil {
		return ctl.Seal(dst, TypeControl, plain)
	}
	at := len(dst)
	dst = ctl.Begin(dst, TypeControl)
	b, rec := record(plain, recSigned)
	b = sign.SignControl(u64(b, uint64(to)), dst[at:], uint64(to), plain)
	return ctl.Finish(dst, at, done(b, rec))
}

// cutSigned splits what a signed control packet holds.
func cutSigned(plain []byte) (records []byte, to ID, signature []byte, ok bool) {
	at := len(plain) - signedRecord
	if at < 0 || plain[at] != recSigned || int(binary.BigEndian.Uint16(plain[at+1:])) != signedRecord-3 {
		return nil, 0, nil, false
	}
	return plain[:at], ID(binary.BigEndian.Uint64(plain[at+3:])), plain[at+11:], true
}

// said is a signed control packet at hand; empty: there is none.
type said struct{ hdr, plain []byte }

// openControl opens a control packet. One that is signed is taken only by whom it is for: of those for all, only what came by multicast.
func (n *Node) openControl(now time.Time, m *member, group bool, pkt []byte) ([]byte, error) {
	if m.signs == nil {
		return m.ctl.Open(n.plain, pkt)
	}
	plain, err := m.ctl.Peek(n.plain, pkt)
	if err != nil {
		return nil, err
	}
	records, to, signature, ok := cutSigned(plain)
	if !ok || group != (to == forAll) || !group && to != n.cfg.Self {
		n.Stats.Unsigned++
		return nil, errUnsigned
	}
	if !n.mayCheck(now, m) || !n.judge(now, m, m.signs.Control(pkt, uint64(to), records, signature)) {
		return nil, errUnsigned
	}
	if err := m.ctl.Took(pkt); err != nil {
		return nil, err
	}
	n.said = said{pkt[:buskey.Header], plain}
	return records, nil
}

// vouched reports whether a hello is signed, if its epoch is that of one that signs.
func (n *Node) vouched(now time.Time, bus *buskey.Bus, h *hello, plain []byte) bool {
	if !h.signs {
		forged := buskey.Signs(uint64(h.epoch))
		n.Stats.Unsigned += uint64(flag(forged, 1))
		return !forged
	}
	m := n.byID[h.epoch]
	if !n.mayCheck(now, m) {
		return false
	}
	public, ok := bus.CheckHello(uint64(h.epoch), plain)
	return n.judge(now, m, ok && (m == nil || m.Key == public))
}

// signer notes by what a new member's word is checked, and whether its streams are taken.
func (n *Node) signer(m *member, h *hello) {
	if m.Signs, m.Key = h.signs, h.public; h.signs {
		m.signs = m.bus.Verifier(h.public)
	}
	m.Denied = n.cfg.Takes != nil && !n.cfg.Takes(m.Member)
}

// signed reports whether a data packet of a member that signs is signed. Of pkt only the header counts.
func (n *Node) signed(now time.Time, m *member, pkt, plain []byte) bool {
	return n.mayCheck(now, m) && n.judge(now, m, m.signs.Packet(pkt, plain))
}

// forged reports whether packets that were rebuilt are not the publisher's: then parity packets were forged.
func (r *rx) forged(now time.Time, first uint64, missing uint32, data *[parity.Packets][]byte) bool {
	if r.m.signs == nil {
		return false
	}
	var hdr [buskey.Header]byte
	for ; missing != 0; missing &= missing - 1 {
		i := bits.TrailingZeros32(missing)
		buskey.PutHeader(hdr[:], TypeData, r.st.ID, uint64(r.m.ID), first+uint64(i))
		if r.m.signs.Packet(hdr[:], data[i]) {
			continue
		}
		r.n.Stats.Unsigned++
		clear(r.parities)
		r.fec, r.noRows, r.answer = false, now.Add(noRowsFor), true
		r.n.touch(r)
		return true
	}
	return false
}

// noRows takes a receiver's word that parity packets are forged.
func (s *Sender) noRows(now time.Time) {
	if s.sign != nil {
		s.rowsFrom, s.byParity = now.Add(noRowsFor), false
	}
}

// proofRoom is how long the proof may be that is behind each packet; 0: there is none.
func (s *Sender) proofRoom() int {
	if s.sign == nil {
		return 0
	}
	return buskey.ProofMost
}

// prove signs the packets that are about to leave. Their proofs are part of them from now on.
func (s *Sender) prove() {
	if s.batch == nil {
		s.batch = &buskey.Batch{}
	}
	var hdr [buskey.Header]byte
	grown := 0
	for seq := s.sent; seq < s.store.next; {
		left := int(s.store.next - seq)
		batches := (left + buskey.MaxBatch - 1) / buskey.MaxBatch
		count := (left + batches - 1) / batches
		s.batch.Reset()
		for i := range count {
			buskey.PutHeader(hdr[:], TypeData, s.id, uint64(s.self), seq+uint64(i))
			s.batch.Add(hdr[:], s.store.at(seq+uint64(i)).plain)
		}
		s.batch.Sign(s.sign)
		for i := range count {
			p := s.store.at(seq + uint64(i))
			before := len(p.plain)
			p.plain = s.batch.AppendProof(p.plain, i)
			grown += len(p.plain) - before
			p.end += uint64(grown)
			s.store.bytes += len(p.plain) - before
		}
		seq += uint64(count)
	}
	s.total += uint64(grown)
}

// word is a control packet in which a publisher said where its stream has got to.
type word struct {
	next uint64
	pkt  []byte // header and plaintext
}

// keepWord keeps the control packet at hand, which says that a stream has got to a packet, to be passed on if the publisher is gone.
func (r *rx) keepWord(next uint64) {
	s := &r.n.said
	if len(s.plain) == 0 || next <= r.word.next || len(s.hdr)+len(s.plain) > maxWord || ID(binary.BigEndian.Uint64(s.hdr[4:])) != r.m.ID {
		return
	}
	r.word.next = next
	r.word.pkt = append(append(r.word.pkt[:0], s.hdr...), s.plain...)
}

// word takes what a publisher has said to another: where its streams have got to.
func (n *Node) word(now time.Time, r *reader) {
	pkt := r.b
	if len(pkt) < buskey.Header || pkt[0] != TypeControl {
		r.bad = true
		return
	}
	records, to, signature, ok := cutSigned(pkt[buskey.Header:])
	if !ok {
		r.bad = true
		return
	}
	m := n.byID[ID(binary.BigEndian.Uint64(pkt[4:]))]
	if m == nil || m.signs == nil {
		return
	}
	if !n.mayCheck(now, m) || !n.judge(now, m, m.signs.Control(pkt, uint64(to), records, signature)) {
		return
	}
	before := n.said
	n.said = said{pkt[:buskey.Header], pkt[buskey.Header:]}
	_ = eachRecord(records, func(kind byte, r reader) { // it is signed: as its sender made it
		var stream uint32
		var next, message uint64
		switch kind {
		case recHeartbeat:
			h := r.heartbeat()
			stream, next, message = h.stream, h.next, h.nextMessage
		case recAnnounce:
			a := r.announce()
			stream, next, message = a.stream, a.next, a.nextMessage
		case recSkip:
			stream, next, message = r.u32(), r.u64(), r.u64()
		default:
			return
		}
		if x := n.streams[streamKey{m.ID, stream}]; x != nil && !r.bad {
			x.tail(now, next, message)
			n.touch(x)
		}
	})
	n.said = before
}

// showTo tells a member, or nil for the island, where a stream has got to here, by what its publisher has signed: the last packet, which is sent again, or its word.
func (r *rx) showTo(m *member) {
	n := r.n
	if last := r.delivered - 1; r.delivered > r.store.first && r.store.has(last) {
		var err error
		if n.sealed, err = r.key.Seal(n.sealed[:0], TypeData, last, r.store.at(last).plain); err != nil {
			return
		}
		if m == nil {
			n.cfg.Wire.Send(n.sealed, len(n.sealed), true, nil)
		} else {
			n.cfg.Wire.Send(n.sealed, len(n.sealed), false, []netip.AddrPort{m.Addr})
		}
		return
	}
	if r.word.next < r.delivered || len(r.word.pkt) == 0 {
		return
	}
	pass := func(b []byte) []byte {
		b, at := record(b, recWord)
		return done(append(b, r.word.pkt...), at)
	}
	if m == nil {
		n.flushGroup(controlRoom - maxWord)
		n.groupOut = pass(n.groupOut)
		return
	}
	n.say(m, pass)
}

// show is pointOut of a stream whose publisher signs.
func (r *rx) show(now time.Time) {
	if r.relay.inIsland(now) {
		r.showTo(nil)
	}
	if r.within < lazy {
		return
	}
	for _, p := range r.relay.to {
		if m := r.n.byID[p.id]; m != nil && m.State != Unreachable {
			r.showTo(m)
		}
	}
}

// fromNobody is an interest as those are told from whom no streams are taken.
func (i *Interest) fromNobody() Interest {
	return Interest{ID: i.ID, Pattern: i.Pattern, Mode: FromNobody}
}

// ofUs returns the interests of a member that are meant for us.
func ofUs(all []Interest) []Interest {
	denied := func(i Interest) bool { return i.Mode == FromNobody }
	if !slices.ContainsFunc(all, denied) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), denied)
}
