package rmcast

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/parity"
	"github.com/weft-net/weft/internal/seal"
)

// forger is a member that has the bus's key, and speaks in another's name: of member 0, which publishes, if nothing else is said. What it makes is sealed as
// it should be. Members 1 to 4 receive, 5 is where it sends from.
type forger struct {
	t    *testing.T
	s    *simNet
	p    *simPub
	pub  *simNode
	from *simNode
	ctl  *buskey.Control
	key  *buskey.Stream
}

// counterAhead is how many control packets a forger is ahead of whose name it uses, so that its own are fresh: less than a replay window.
const counterAhead = 4000

func newForger(t *testing.T, seed uint64, class Class, subj string, sign bool) *forger {
	t.Helper()
	s := newSim(seed)
	if sign {
		s.signs = all
	}
	s.join()
	for range 5 {
		s.join(Interest{ID: 1, Pattern: subj})
	}
	p := s.nodes[0].publish(subj, SenderConfig{Class: class})
	s.run(s.now.Add(12 * time.Second))
	for range 70 { // of two blocks of packets and more
		p.send(1)
		s.run(s.now.Add(time.Millisecond))
	}
	s.run(s.now.Add(time.Second))
	if err := s.settled(); err != nil || len(p.tx.Receivers()) != 5 {
		t.Fatalf("%d receivers, %v", len(p.tx.Receivers()), err)
	}
	for _, x := range s.nodes {
		x.lossless = true
	}
	f := &forger{t: t, s: s, p: p, pub: s.nodes[0], from: s.nodes[5], key: s.keys.Stream(seal.SuiteAES, uint64(s.nodes[0].id), p.tx.ID())}
	f.ctl = f.control(s.nodes[0], counterAhead)
	return f
}

// control returns a member's control key, with counters from some on.
func (f *forger) control(of *simNode, from int) *buskey.Control {
	c, err := f.s.keys.Control(seal.SuiteAES, uint64(of.id))
	if err != nil {
		f.t.Fatal(err)
	}
	for range from {
		c.Begin(nil, TypeControl)
	}
	return c
}

// give hands a packet to a member, as if it came from an address.
func (f *forger) give(to *simNode, from netip.AddrPort, group bool, pkt []byte) {
	to.n.Packet(f.s.now, from, group, slices.Clone(pkt))
	to.arm(to.n.Done(f.s.now))
}

// giveAll hands a packet to the receivers, as if it came from the publisher.
func (f *forger) giveAll(group bool, pkt []byte) {
	for _, x := range f.s.nodes[1:5] {
		f.give(x, f.pub.addr, group, pkt)
	}
}

// say has the publisher say something to each receiver, or to all at once.
func (f *forger) say(group bool, records []byte) {
	if group {
		f.giveAll(true, f.ctl.Seal(nil, TypeControl, records))
		return
	}
	for _, x := range f.s.nodes[1:5] {
		f.give(x, f.pub.addr, false, f.ctl.Seal(nil, TypeControl, records))
	}
}

func (f *forger) seal(seq uint64, plain []byte) []byte {
	pkt, err := f.key.Seal(nil, TypeData, seq, plain)
	if err != nil {
		f.t.Fatal(err)
	}
	return pkt
}

// lie is a packet with one message that the publisher never sent.
func lie(number uint64, subj string) []byte {
	b := u64([]byte{0}, number)
	b = append(b, 0, 1)
	if subj == "" {
		return append(append(b, 3<<2|recordPlain), "lie"...)
	}
	body := append(appendExtra(nil, subj, nil, nil), "lie"...)
	return append(append(b, byte(len(body))<<2|recordExtra), body...)
}

func (f *forger) kept(seq uint64) []byte { return f.p.tx.store.at(seq).plain }

// overheard returns a control packet that the publisher has sent to one receiver alone.
func (f *forger) overheard(to int) (pkt []byte) {
	f.s.drop = func(from, o *simNode, group bool, p []byte) bool {
		if from == f.pub && o.index == to && !group && p[0] == TypeControl {
			pkt = slices.Clone(p)
		}
		return false
	}
	f.s.loss = 1
	f.p.send(1)
	f.p.tx.Mark(f.s.now)
	f.pub.arm(f.s.now)
	f.s.run(f.s.now.Add(5 * time.Millisecond))
	f.s.loss, f.s.drop = 0, nil
	f.s.run(f.s.now.Add(time.Second))
	if pkt == nil {
		f.t.Fatal("nothing was said")
	}
	return pkt
}

// attack is what a forger does. It returns what shows at once that it has worked; nil: what shows later, in what is received.
type attack struct {
	name  string
	class Class
	do    func(f *forger) (worked func() bool)
}

var attacks = []attack{
	{"the next packet", Reliable, func(f *forger) func() bool {
		f.giveAll(true, f.seal(f.p.tx.sent, lie(f.p.sent+1, "")))
		return nil
	}},
	{"the next packet, by copies", Reliable, func(f *forger) func() bool {
		f.giveAll(false, f.seal(f.p.tx.sent, lie(f.p.sent+1, "")))
		return nil
	}},
	{"the next packet, with the proof of another", Reliable, func(f *forger) func() bool {
		proof := f.kept(50)[max(0, len(f.kept(50))-buskey.ProofMost):]
		f.giveAll(true, f.seal(f.p.tx.sent, append(append(lie(f.p.sent+1, ""), recordNext), proof[len(proof)-66:]...)))
		return nil
	}},
	{"a packet again under another number", Reliable, func(f *forger) func() bool {
		f.giveAll(true, f.seal(f.p.tx.sent, f.kept(50)))
		return nil
	}},
	{"a packet of best effort", BestEffort, func(f *forger) func() bool {
		f.giveAll(true, f.seal(f.p.tx.sent+5, lie(f.p.sent+6, "")))
		return nil
	}},
	{"a last value", LastValue, func(f *forger) func() bool {
		f.giveAll(true, f.seal(f.p.tx.sent, lie(f.p.sent+1, simKey(f.p.sent+1))))
		return nil
	}},
	{"a repair", Reliable, func(f *forger) func() bool {
		f.s.drop = func(_, to *simNode, _ bool, pkt []byte) bool { return to.index == 1 && pkt[0] == TypeData }
		seq := f.p.tx.sent
		f.p.send(1)
		f.p.send(1)
		f.s.run(f.s.now.Add(5 * time.Millisecond))
		f.give(f.s.nodes[1], f.from.addr, false, f.seal(seq, lie(f.p.sent-1, "")))
		f.s.drop = nil
		return nil
	}},
	{"parity packets", Reliable, func(f *forger) func() bool {
		f.s.drop = func(_, to *simNode, _ bool, pkt []byte) bool {
			return to.index == 1 && (pkt[0] == TypeData || pkt[0] == TypeParity) && binary.BigEndian.Uint64(pkt[12:]) == f.p.tx.sent
		}
		for f.p.tx.sent%parity.Packets != 20 {
			f.p.send(1)
			f.s.run(f.s.now.Add(time.Millisecond))
		}
		hole := f.p.tx.sent
		f.s.drop = func(_, to *simNode, _ bool, pkt []byte) bool {
			return to.index == 1 && pkt[0] == TypeData && binary.BigEndian.Uint64(pkt[12:]) == hole
		}
		for range parity.Packets {
			f.p.send(1)
		}
		f.s.run(f.s.now.Add(3 * time.Millisecond)) // the others are here
		block, place := blockOf(hole)
		var data [parity.Packets][]byte
		for i := range data {
			data[i] = f.kept(block*parity.Packets + uint64(i))
		}
		data[place] = lie(f.p.sent-parity.Packets+1, "")
		pkt, err := f.s.keys.Parity(seal.SuiteAES, uint64(f.pub.id), f.p.tx.ID()).Seal(nil, TypeParity, block<<8|7, parity.Row(nil, 7, &data))
		if err != nil {
			f.t.Fatal(err)
		}
		f.give(f.s.nodes[1], f.pub.addr, true, pkt)
		f.s.run(f.s.now.Add(30 * time.Millisecond))
		f.s.drop = nil
		if f.s.signs != nil && f.p.tx.rowsFrom.IsZero() {
			f.t.Error("the publisher was not told that parity packets are forged")
		}
		return nil
	}},
	{"the end of the stream", Reliable, func(f *forger) func() bool {
		f.say(false, heartbeat{stream: f.p.tx.ID(), next: f.p.tx.sent, first: 1, nextMessage: f.p.sent + 1, flags: flagEnd}.append(nil))
		return nil
	}},
	{"the end of the stream, to all", Reliable, func(f *forger) func() bool {
		f.say(true, heartbeat{stream: f.p.tx.ID(), next: f.p.tx.sent, first: 1, nextMessage: f.p.sent + 1, flags: flagEnd, mark: 1 << 40}.append(nil))
		return nil
	}},
	{"that packets are gone", Reliable, func(f *forger) func() bool {
		f.say(false, appendSkip(nil, f.p.tx.ID(), f.p.tx.sent+10, f.p.sent+11))
		return nil
	}},
	{"that a stream is at the end of time", Reliable, func(f *forger) func() bool {
		f.say(false, heartbeat{stream: f.p.tx.ID(), next: math.MaxUint64 - 1, first: math.MaxUint64 - 1, nextMessage: math.MaxUint64 - 1}.append(nil))
		r := f.s.nodes[1].n.order[0]
		return func() bool { return r.high > f.p.tx.sent }
	}},
	{"that last values are to come", LastValue, func(f *forger) func() bool {
		b, at := record(nil, recSkip)
		f.say(false, done(u32(u64(u64(u32(b, f.p.tx.ID()), f.p.tx.sent+1), f.p.sent+2), 1<<30), at))
		return nil
	}},
	{"a goodbye", Reliable, func(f *forger) func() bool {
		b, at := record(nil, recLeave)
		f.say(false, done(b, at))
		return nil
	}},
	{"another stream", Reliable, func(f *forger) func() bool {
		f.say(false, announce{stream: 77, from: 1, fromMessage: 1, next: 1, nextMessage: 1, subject: "x"}.append(nil))
		pkt, err := f.s.keys.Stream(seal.SuiteAES, uint64(f.pub.id), 77).Seal(nil, TypeData, 1, lie(1, ""))
		if err != nil {
			f.t.Fatal(err)
		}
		f.giveAll(false, pkt)
		return nil
	}},
	{"counters that are not used yet", Reliable, func(f *forger) func() bool {
		f.ctl = f.control(f.pub, 100_000)
		f.say(false, ping{kind: recPong}.append(nil))
		before := f.s.nodes[1].n.Stats.Replayed
		f.s.loss = 1
		f.p.send(1)
		f.s.loss = 0
		f.s.run(f.s.now.Add(time.Second))
		return func() bool { return f.s.nodes[1].n.Stats.Replayed > before }
	}},
	{"another address", Reliable, func(f *forger) func() bool {
		to := f.s.nodes[1]
		h := hello{epoch: f.pub.id, to: to.id, number: 1 << 60, suite: seal.SuiteAES, known: true, name: "n0"}
		var nonce [24]byte
		f.give(to, f.from.addr, false, f.s.keys.SealHello(nil, TypeHello, &nonce, h.append(nil)))
		return func() bool { return to.n.byID[f.pub.id].Addr == f.from.addr }
	}},
	{"another address, with its own key", Reliable, func(f *forger) func() bool {
		to := f.s.nodes[1]
		h := hello{epoch: f.pub.id, to: to.id, number: 1 << 60, suite: seal.SuiteAES, known: true, name: "n0", signs: f.s.signs != nil}
		plain := h.append(nil)
		if h.signs {
			plain = simIdentity(f.s.keys, 12345).SignHello(plain)
		}
		var nonce [24]byte
		f.give(to, f.from.addr, false, f.s.keys.SealHello(nil, TypeHello, &nonce, plain))
		return func() bool { return to.n.byID[f.pub.id].Addr == f.from.addr }
	}},
	{"a receiver that wants nothing any more", Reliable, func(f *forger) func() bool {
		st, at := record(nil, recState)
		pkt := f.control(f.s.nodes[1], counterAhead).Seal(nil, TypeControl, done(append(u32(st, 1<<30), 0, 1), at))
		f.give(f.pub, f.s.nodes[1].addr, false, pkt)
		return nil
	}},
	{"a receiver that has everything", Reliable, func(f *forger) func() bool {
		victim := f.s.nodes[1]
		f.s.drop = func(_, to *simNode, _ bool, _ []byte) bool { return to == victim }
		f.p.send(3)
		mark := f.p.tx.Mark(f.s.now)
		st := status{stream: f.p.tx.ID(), next: f.p.tx.sent, room: 1 << 20}
		f.give(f.pub, victim.addr, false, f.control(victim, counterAhead).Seal(nil, TypeControl, st.append(nil)))
		have, _ := f.p.tx.Confirmed(mark)
		f.s.drop = nil
		return func() bool { return slices.Contains(have, victim.id) }
	}},
	{"what it said to another", Reliable, func(f *forger) func() bool {
		pkt := f.overheard(2)
		before := f.s.nodes[3].n.Stats.Control
		f.give(f.s.nodes[3], f.pub.addr, false, pkt)
		return func() bool { return f.s.nodes[3].n.Stats.Control > before }
	}},
	{"what it said before, under another counter", Reliable, func(f *forger) func() bool {
		pkt := f.overheard(2)
		plain, err := f.control(f.pub, 0).Open(nil, pkt)
		if err != nil {
			f.t.Fatal(err)
		}
		before := f.s.nodes[2].n.Stats.Control
		f.give(f.s.nodes[2], f.pub.addr, false, f.ctl.Seal(nil, TypeControl, plain))
		return func() bool { return f.s.nodes[2].n.Stats.Control > before }
	}},
}

// TestForged: a member with the bus's key that speaks in the name of others that sign changes nothing: for what they send, pass on, confirm or
// want. If they don't sign, each of these attacks works, so the test would show it.
func TestForged(t *testing.T) {
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			for _, sign := range []bool{true, false} {
				subj := "x"
				if a.class == LastValue {
					subj = "a.*"
				}
				f := newForger(t, uint64(i+1), a.class, subj, sign)
				s, p := f.s, f.p
				streams := map[*simNode]int{}
				for _, x := range s.nodes {
					streams[x] = len(x.heard)
				}
				shows := a.do(f)
				worked := shows != nil && shows()
				s.run(s.now.Add(20 * time.Millisecond))
				s.loss = 1 // what is lost at the end of a burst shows by the publisher's word alone
				p.send(20)
				s.run(s.now.Add(time.Millisecond))
				s.loss = 0
				s.run(s.now.Add(time.Second))
				p.send(10)
				err := s.converge(10 * time.Second)
				refused := uint64(0)
				for _, x := range s.nodes {
					refused += x.n.Stats.Unsigned
					if x != f.from && len(x.heard) != streams[x] {
						worked = true
					}
				}
				worked = worked || err != nil || len(p.tx.Receivers()) != 5
				switch {
				case sign && worked:
					t.Errorf("it works on members that sign: %v; %d receivers", err, len(p.tx.Receivers()))
				case sign && refused == 0:
					t.Error("nothing was refused: the test proves nothing")
				case !sign && !worked:
					t.Error("it does not work on members that don't sign either: the test proves nothing")
				case !sign && refused > 0:
					t.Errorf("%d packets were refused of members that don't sign", refused)
				}
			}
		})
	}
}

// TestForgedTails: of a publisher that is gone, others may tell what they have. A member that lies about it in its own name, or passes on words that were never
// said, has receivers of one that signs believe nothing; of one that does not, they are told of losses that were none.
func TestForgedTails(t *testing.T) {
	for _, sign := range []bool{true, false} {
		f := newForger(t, 3, Reliable, "x", sign)
		s := f.s
		f.pub.kill()
		s.run(s.now.Add(20 * time.Second))
		next, message := f.p.tx.sent+100, f.p.sent+101
		word, at := record(nil, recWord)
		hdr := make([]byte, buskey.Header)
		buskey.PutHeader(hdr, TypeControl, 0, uint64(f.pub.id), 1<<20)
		word = append(word, hdr...)
		said := heartbeat{stream: f.p.tx.ID(), next: next, first: 1, nextMessage: message}.append(nil)
		signed, rec := record(said, recSigned)
		signed = simIdentity(s.keys, 99).SignControl(u64(signed, 0), hdr, 0, said)
		word = done(append(word, done(signed, rec)...), at)
		for _, x := range s.nodes[1:5] {
			if m := f.from.n.byID[x.id]; m != nil {
				f.from.n.say(m, func(b []byte) []byte { return append(appendTail(b, f.pub.id, f.p.tx.ID(), next, message), word...) })
			}
		}
		f.from.n.flush()
		s.run(s.now.Add(30 * time.Second))
		refused := uint64(0)
		for _, x := range s.nodes {
			refused += x.n.Stats.Unsigned
		}
		if lost := s.err != nil; lost == sign || sign != (refused > 0) {
			t.Errorf("signed %v: %v, %d refused", sign, s.err, refused)
		}
	}
}

// TestWordIsPassedOn: a publisher that signs dies after a burst of which one receiver has heard by its word alone, or has some packets: the others, who
// have heard nothing, are told of what is lost, and get what is not.
func TestWordIsPassedOn(t *testing.T) {
	for _, some := range []bool{true, false} {
		s := newSim(5)
		s.signs = all
		p := s.join().publish("x", SenderConfig{})
		for range 4 {
			s.join(Interest{ID: 1, Pattern: "x"})
		}
		s.run(s.now.Add(5 * time.Second))
		p.send(10)
		s.run(s.now.Add(time.Second))
		s.drop = func(from, to *simNode, _ bool, pkt []byte) bool {
			return from.index == 0 && (to.index != 1 || pkt[0] == TypeData && !some)
		}
		p.send(20)
		s.run(s.now.Add(500 * time.Millisecond))
		p.node.kill()
		s.run(s.now.Add(40 * time.Second))
		for i := 1; i <= 4; i++ {
			if sub := s.sub(i); sub.next != 31 {
				t.Errorf("some %v: member %d is at %d of 30", some, i, sub.next-1)
			}
		}
		if told := s.count.LostTold; s.err != nil || some != (told == 0) || !some && told != 4 {
			t.Errorf("some %v: %d were told of a loss, %v", some, told, s.err)
		}
		for _, x := range s.nodes {
			for _, r := range x.n.order {
				if len(r.word.pkt) > maxWord {
					t.Errorf("%d keeps a word of %d bytes", x.index, len(r.word.pkt))
				}
			}
		}
	}
}

// TestTakes: streams of members that are not taken from are not received, their publishers wait for nobody, and close; they can be asked for repairs
// of others' streams all the same.
func TestTakes(t *testing.T) {
	s := newSim(4)
	s.signs = func(i int) bool { return i != 1 }
	s.takes = func(x *simNode, m Member) bool { return x.index != 2 || m.Signs }
	for range 4 {
		s.join(Interest{ID: 1, Pattern: "x"}, Interest{ID: 2, Pattern: "x", Queue: "q"})
	}
	signs, not := s.nodes[0].publish("x", SenderConfig{}), s.nodes[1].publish("x", SenderConfig{})
	s.run(s.now.Add(5 * time.Second))
	if a, b := signs.tx.Receivers(), not.tx.Receivers(); len(a) != 3 || len(b) != 2 || slices.Contains(b, s.nodes[2].id) {
		t.Errorf("receivers %v and %v", a, b)
	}
	for _, q := range not.tx.queues {
		for _, seat := range q.seats {
			if seat.member == s.nodes[2].id {
				t.Error("messages are dealt to one that does not take them")
			}
		}
	}
	if r := s.nodes[1].n.streams[streamKey{signs.node.id, signs.tx.ID()}]; r == nil || !r.n.byID[s.nodes[2].id].wants("x") {
		t.Error("it cannot be asked for repairs of another's stream")
	}
	signs.send(10)
	not.send(10)
	not.node.n.NewSender(s.now, SenderConfig{Subject: "x"}, nil)
	// One that does not know of the wish announces its streams all the same.
	m := s.nodes[2].n.byID[not.node.id]
	s.nodes[2].n.announced(s.now, m, announce{stream: 9, from: 1, fromMessage: 1, next: 1, nextMessage: 1, subject: "x"})
	not.tx.End(s.now)
	s.run(s.now.Add(time.Second))
	if !not.tx.Ended() {
		t.Error("it waits for one that does not take its stream")
	}
	if x := s.nodes[2]; len(x.heard) != 1 || x.heard[streamKey{signs.node.id, signs.tx.ID()}].next != 11 || x.n.Stats.Untrusted != 1 {
		t.Errorf("%d streams, %d refused", len(x.heard), x.n.Stats.Untrusted)
	}
	if s.err != nil {
		t.Error(s.err)
	}
}

// TestUnsignedNeverGrow: members that don't sign send what they sent before there were signatures: packets as full, hellos and control packets as long.
func TestUnsignedNeverGrow(t *testing.T) {
	length := func(sign bool) (data, helloes, control int) {
		s := newSim(6)
		if sign {
			s.signs = all
		}
		p := s.join().publish("x", SenderConfig{})
		s.join(Interest{ID: 1, Pattern: "x"})
		s.sees = func(_ int, pkt []byte) {
			switch pkt[0] {
			case TypeHello:
				helloes = max(helloes, len(pkt))
			case TypeControl:
				control = max(control, len(pkt))
			case TypeData:
				data = max(data, len(pkt))
			}
		}
		s.run(s.now.Add(2 * time.Second))
		p.send(500)
		if err := s.converge(time.Second); err != nil {
			t.Fatal(err)
		}
		full := int(p.tx.Snapshot().Packets)
		return data, helloes, control + 1000*full
	}
	data, helloes, control := length(false)
	if want := buskey.HelloHeader + buskey.Tag + len(hello{name: "n0"}.append(nil)); helloes != want || data != 600-parity.Overhead {
		t.Errorf("a hello has %d bytes, not %d; a packet %d", helloes, want, data)
	}
	d, h, c := length(true)
	if h != helloes+buskey.HelloProof || d > 600 || c <= control {
		t.Errorf("signed: a hello has %d bytes, a packet %d", h, d)
	}
}

// FuzzSigned: what a member that signs says, changed, ends no process, and nobody takes it; so do words of others that are passed on.
func FuzzSigned(f *testing.F) {
	s := newSim(5)
	s.signs = all
	a, b := s.join(Interest{ID: 1, Pattern: ">"}), s.join()
	p := b.publish("a.x", SenderConfig{})
	s.run(s.now.Add(time.Second))
	p.send(5)
	s.run(s.now.Add(time.Second))
	said := heartbeat{stream: p.tx.ID(), next: p.tx.sent, first: 1, nextMessage: 6}.append(nil)
	hdr := make([]byte, buskey.Header)
	buskey.PutHeader(hdr, TypeControl, 0, uint64(b.id), 99)
	signed, rec := record(said, recSigned)
	signed = done(b.n.cfg.Sign.SignControl(u64(signed, uint64(a.id)), hdr, uint64(a.id), said), rec)
	f.Add(signed)
	f.Add(append(hdr, signed...))
	f.Add(said)
	f.Add([]byte{recSigned, 0, signedRecord - 3})
	f.Add([]byte{})
	m := a.n.byID[b.id]
	r := a.n.order[0]
	f.Fuzz(func(t *testing.T, plain []byte) {
		high, taken := r.high, a.n.Stats.Control
		_ = eachRecord(plain, func(kind byte, r reader) { // as one that signs, too, might pass it on
			if kind == recWord {
				a.n.record(s.now, m, kind, r)
			}
		})
		word, at := record(nil, recWord)
		a.n.record(s.now, m, recWord, reader{b: done(append(word, plain...), at)[3:]})
		a.n.Packet(s.now, b.addr, false, b.n.ctl.Seal(nil, TypeControl, plain))
		a.n.Done(s.now)
		if r.high != high || a.n.Stats.Control != taken {
			t.Errorf("%x is taken", plain)
		}
	})
}
