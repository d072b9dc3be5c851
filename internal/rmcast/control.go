package rmcast

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
)

// Records of a control packet: [kind 1][length 2][body]. Unknown kinds are passed over. Sequence numbers, message
// numbers and epochs have 8 bytes, streams 4.
const (
	recState     = 1  // [version 4][part 1][parts 1] and interests: [id 4][mode 1][n 8][queue length 1, queue][pattern length 1, pattern]
	recPing      = 2  // [my state 4][your state, as I have it 4][flags: 1 I hear your multicast, 2 I do not hear you by UDP, 4 your beacons come by the first group, 8 by the second][whom I know, in a number 4][stamp 4]
	recPong      = 3  // the same
	recPeers     = 4  // members: [epoch 8][address 16][port 2]
	recLeave     = 5  //
	recAnnounce  = 6  // [stream][from packet][from message][next packet][next message][subject length 1, subject][class 1][its snapshot, or the stream it is of, 4, if it has values][receivers 4][confirm within ms 4]
	recHeartbeat = 7  // [stream][next packet][oldest kept][message that begins next][flags: 1 answer, 2 you are served by multicast, 4 the end, 8 behind repairs for you][receivers 4][confirm within ms 4][mark]
	recStatus    = 8  // [stream][next packet wanted][room 4][flags: 1 I hear your multicast, 2 I don't know this stream, 4 I know its end, 8 no parity packets][my island][who multicasts it here, 0: nobody]
	recNack      = 9  // [publisher][stream][mark, of the last round of repairs to the group that came] and ranges: [packet][count 2]
	recSkip      = 10 // [stream][oldest kept][first message in it][stream of a snapshot, if it has values]
	recTail      = 11 // [publisher][stream][next packet][message that begins next]
	recRelay     = 12 // [stream][plan 4] and members as in peers: pass my packets on to these; your own is your island, by multicast, and 0 with it: be ready to
	recRelayed   = 13 // [stream][plan 4] and epochs: I do, to these
	// recSigned = 40, recWord = 41: signed.go
	recServe = 20 // [publisher][stream], by multicast: I pass it on here
)

const (
	flagAnswer   = 1
	flagByGroup  = 2
	flagEnd      = 4
	flagRepaired = 8

	flagNoUDP   = 2
	groupsShift = 2

	flagHears   = 1
	flagUnknown = 2
	flagEnded   = 4
	flagNoRows  = 8 // in a status: parity packets were forged, packets are to be sent again as they were
)

// Modes of an interest: from where a new receiver wants a stream.
const (
	FromNow    = 0 // what is sent from now on
	FromLast   = 1 // N messages back
	FromNumber = 2 // message N of the publisher Epoch; others from now
	FromOldest = 3 // all that is kept
	FromNobody = 4 // nothing of who is told: only what others publish, which it may be asked for
)

// Interest is one subscription of a member.
type Interest struct {
	ID      uint32 // differs for each subscription of a process
	Pattern string
	Queue   string
	Mode    byte
	N       uint64 // of FromLast and FromNumber; of a queue group with FromNow its weight, 0 is 1
	Epoch   ID     // of FromNumber
}

// Range is a run of packets.
type Range struct {
	From  uint64
	Count uint16
}

var errRecord = errors.New("malformed record")

// reader takes fixed fields off a record; bad after the first one that is not there.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *reader) text() string { return string(r.take(int(r.u8()))) }

// records calls each for every record of a control packet.
func eachRecord(plain []byte, each func(kind byte, body reader)) error {
	for len(plain) > 0 {
		if len(plain) < 3 {
			return errRecord
		}
		n := int(binary.BigEndian.Uint16(plain[1:]))
		if len(plain) < 3+n {
			return errRecord
		}
		each(plain[0], reader{b: plain[3 : 3+n]})
		plain = plain[3+n:]
	}
	return nil
}

// record begins a record in b; done writes its length.
func record(b []byte, kind byte) (_ []byte, at int) { return append(b, kind, 0, 0), len(b) }

func done(b []byte, at int) []byte {
	binary.BigEndian.PutUint16(b[at+1:], uint16(len(b)-at-3))
	return b
}

func u32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func u64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

type ping struct {
	kind        byte
	mine, yours uint32
	hears       bool
	noUDP       bool
	circle      uint32
	stamp       uint32 // of a ping in 100 µs; of a pong: that of the ping it answers, 0 for none
	groups      byte   // by which your beacons come here, 1 and 2
}

func (p ping) append(b []byte) []byte {
	b, at := record(b, p.kind)
	b = u32(u32(b, p.mine), p.yours)
	return done(u32(u32(append(b, flag(p.hears, flagHears)|flag(p.noUDP, flagNoUDP)|p.groups<<groupsShift), p.circle), p.stamp), at)
}

func (r *reader) ping() ping {
	p := ping{mine: r.u32(), yours: r.u32()}
	flags := r.u8()
	p.hears, p.noUDP, p.groups = flags&flagHears != 0, flags&flagNoUDP != 0, flags>>groupsShift&3
	p.circle, p.stamp = r.u32(), r.u32()
	return p
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

type announce struct {
	stream      uint32
	from        uint64
	fromMessage uint64
	next        uint64
	nextMessage uint64
	subject     string
	class       Class
	other       uint32
	receivers   uint32
	within      uint32
}

func (a announce) append(b []byte) []byte {
	b, at := record(b, recAnnounce)
	b = u32(b, a.stream)
	b = u64(u64(u64(u64(b, a.from), a.fromMessage), a.next), a.nextMessage)
	b = append(b, byte(len(a.subject)))
	b = append(append(b, a.subject...), byte(a.class))
	if a.class.hasValues() {
		b = u32(b, a.other)
	}
	return done(u32(u32(b, a.receivers), a.within), at)
}

func (r *reader) announce() announce {
	a := announce{stream: r.u32(), from: r.u64(), fromMessage: r.u64(), next: r.u64(), nextMessage: r.u64(), subject: r.text()}
	if len(r.b) > 0 {
		if a.class = Class(r.u8()); a.class.hasValues() {
			a.other = r.u32()
		}
		a.receivers, a.within = r.u32(), r.u32()
	}
	return a
}

type heartbeat struct {
	stream      uint32
	next, first uint64
	nextMessage uint64
	flags       byte
	receivers   uint32
	within      uint32
	mark        uint64 // rounds of repairs to the group that have ended
}

func (h heartbeat) append(b []byte) []byte {
	b, at := record(b, recHeartbeat)
	b = u64(u64(u64(u32(b, h.stream), h.next), h.first), h.nextMessage)
	return done(u64(u32(u32(append(b, h.flags), h.receivers), h.within), h.mark), at)
}

func (r *reader) heartbeat() heartbeat {
	return heartbeat{
		stream: r.u32(), next: r.u64(), first: r.u64(), nextMessage: r.u64(), flags: r.u8(), receivers: r.u32(), within: r.u32(), mark: r.u64(),
	}
}

type status struct {
	stream      uint32
	next        uint64
	room        uint32
	flags       byte
	island, via ID
}

func (s status) append(b []byte) []byte {
	b, at := record(b, recStatus)
	b = u32(u64(u32(b, s.stream), s.next), s.room)
	return done(u64(u64(append(b, s.flags), uint64(s.island)), uint64(s.via)), at)
}

func (r *reader) status() status {
	s := status{stream: r.u32(), next: r.u64(), room: r.u32(), flags: r.u8()}
	if len(r.b) > 0 { // older members say no more
		s.island, s.via = ID(r.u64()), ID(r.u64())
	}
	return s
}

func appendServe(b []byte, origin ID, stream uint32) []byte {
	b, at := record(b, recServe)
	return done(u32(u64(b, uint64(origin)), stream), at)
}

func appendNack(b []byte, origin ID, stream uint32, mark uint64, rs []Range) []byte {
	b, at := record(b, recNack)
	b = u64(u32(u64(b, uint64(origin)), stream), mark)
	for _, r := range rs {
		b = binary.BigEndian.AppendUint16(u64(b, r.From), r.Count)
	}
	return done(b, at)
}

func (r *reader) nack(space []Range) (origin ID, stream uint32, mark uint64, rs []Range) {
	origin, stream, mark = ID(r.u64()), r.u32(), r.u64()
	total := 0
	for len(r.b) > 0 && !r.bad && len(space) < maxNackRanges && total < maxNackPackets {
		x := Range{r.u64(), r.u16()}
		if x.From+uint64(x.Count) < x.From || x.Count == 0 {
			r.bad = true
			break
		}
		x.Count = uint16(min(int(x.Count), maxNackPackets-total))
		total += int(x.Count)
		space = append(space, x)
	}
	return origin, stream, mark, space
}

func appendSkip(b []byte, stream uint32, first, message uint64) []byte {
	b, at := record(b, recSkip)
	return done(u64(u64(u32(b, stream), first), message), at)
}

func appendTail(b []byte, origin ID, stream uint32, next, message uint64) []byte {
	b, at := record(b, recTail)
	return done(u64(u64(u32(u64(b, uint64(origin)), stream), next), message), at)
}

func appendPeer(b []byte, id ID, addr netip.AddrPort) []byte {
	b = u64(b, uint64(id))
	a := addr.Addr().As16()
	b = append(b, a[:]...)
	return binary.BigEndian.AppendUint16(b, addr.Port())
}

func (r *reader) peer() (ID, netip.AddrPort) {
	id := ID(r.u64())
	var a [16]byte
	copy(a[:], r.take(16))
	return id, netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), r.u16())
}

// Size is how many bytes an interest takes when it is told.
func (i *Interest) Size() int { return 4 + 1 + 16 + 2 + len(i.Queue) + len(i.Pattern) }

func (i *Interest) append(b []byte) []byte {
	b = append(u32(b, i.ID), i.Mode)
	b = u64(u64(b, i.N), uint64(i.Epoch))
	b = append(append(b, byte(len(i.Queue))), i.Queue...)
	return append(append(b, byte(len(i.Pattern))), i.Pattern...)
}

func (r *reader) interest() Interest {
	i := Interest{ID: r.u32(), Mode: r.u8(), N: r.u64(), Epoch: ID(r.u64()), Queue: r.text(), Pattern: r.text()}
	if subject.CheckPattern(i.Pattern) != nil {
		r.bad = true
	}
	return i
}

// hello is what a hello packet holds.
type hello struct {
	epoch  ID     // who speaks
	to     ID     // whom it answers; 0: anyone
	number uint64 // grows with each hello of an epoch
	suite  seal.Suite
	known  bool // the speaker believes in whom it answers
	beacon bool // number is that of a beacon
	second bool // a beacon to the second group
	aside  bool // a beacon to the group that is not the speaker's voice
	signs  bool // it ends with key, salt and signature
	name   string
	public buskey.Public // of one that signs
}

const helloKnown, helloBeacon, helloSecond, helloAside, helloSigned = 1, 2, 4, 8, 16

func (h hello) append(b []byte) []byte {
	b = append(b, Version, byte(h.suite), flag(h.known, helloKnown)|flag(h.beacon, helloBeacon)|flag(h.second, helloSecond)|flag(h.aside, helloAside)|
		flag(h.signs, helloSigned))
	b = u64(u64(u64(b, uint64(h.epoch)), uint64(h.to)), h.number)
	return append(append(b, byte(len(h.name))), h.name...)
}

var errVersion = errors.New("another version")

func decodeHello(b []byte) (hello, error) {
	r := reader{b: b}
	if v := r.u8(); v != Version {
		return hello{}, errVersion
	}
	suite, flags := seal.Suite(r.u8()), r.u8()
	h := hello{
		suite: suite, known: flags&helloKnown != 0, beacon: flags&helloBeacon != 0, second: flags&helloSecond != 0, aside: flags&helloAside != 0,
		signs: flags&helloSigned != 0,
		epoch: ID(r.u64()), to: ID(r.u64()), number: r.u64(), name: r.text(),
	}
	if h.signs {
		copy(h.public[:], r.take(buskey.HelloProof))
		r.bad = r.bad || len(r.b) > 0
	}
	if r.bad || h.epoch == 0 || suite != seal.SuiteAES && suite != seal.SuiteChaCha {
		return hello{}, errRecord
	}
	return h, nil
}
