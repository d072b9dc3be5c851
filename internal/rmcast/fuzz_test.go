package rmcast

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/seal"
)

// FuzzHello: what opens is a hello or an error, and one that decodes is written the same.
func FuzzHello(f *testing.F) {
	f.Add(hello{epoch: 1, to: 2, number: 3, suite: seal.SuiteAES, known: true, name: "x"}.append(nil))
	f.Add(append(hello{epoch: 2, number: 3, suite: seal.SuiteAES, signs: true, name: "x"}.append(nil), make([]byte, buskey.HelloProof)...))
	f.Add([]byte{Version})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		if again := h.append(nil); !bytes.Equal(again[3:], b[3:len(again)]) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

// FuzzRecords: records of a member that has the key and is out of its mind end no process and fill no table.
func FuzzRecords(f *testing.F) {
	f.Add(ping{recPing, 1, 2, true, false, 3, 4, 3}.append(nil))
	f.Add(announce{stream: 1, from: 1, fromMessage: 1, next: 5, nextMessage: 9, subject: "a.x", receivers: 2, within: 3}.append(nil))
	f.Add(announce{stream: 2, from: 1, fromMessage: 1, next: 5, nextMessage: 9, subject: "a.x", class: BestEffort}.append(nil))
	f.Add(announce{stream: 3, from: 1, fromMessage: 1, next: 5, nextMessage: 9, subject: "a.x", class: LastValue, other: 4}.append(
		announce{stream: 4, from: 1, fromMessage: 1, next: 5, nextMessage: 9, subject: "a.x", class: snapshotClass, other: 3}.append(nil)))
	f.Add(heartbeat{1, 5, 1, 9, 7, 2, 3, 4}.append(nil))
	f.Add(status{1, 5, 1 << 20, 3, 7, 8}.append(nil))
	f.Add(appendServe(nil, 1, 1))
	f.Add(appendNack(nil, 1, 1, 9, []Range{{1, 5}, {1 << 63, 65535}}))
	f.Add(appendTail(appendSkip(nil, 1, 5, 9), 1, 1, 5, 9))
	i := Interest{ID: 1, Pattern: "a.>", Queue: "q", Mode: 1, N: 5}
	st, at := record(nil, recState)
	f.Add(done(i.append(append(u32(st, 1), 0, 1)), at))
	pr, at := record(nil, recPeers)
	f.Add(done(appendPeer(pr, 5, zeroAddr), at))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSim(9)
		for range 2 {
			s.join(Interest{ID: 1, Pattern: "a.>"})
		}
		s.nodes[0].publish("a.x", SenderConfig{})
		s.nodes[1].publish("a.y", SenderConfig{}).send(30)
		s.run(s.now.Add(100 * time.Millisecond))
		n := s.nodes[0].n
		m := n.members[0]
		clear(s.nodes[0].heard)
		for range 2 {
			_ = eachRecord(b, func(kind byte, r reader) { n.record(s.now, m, kind, r) })
			n.Done(s.now)
			s.now = s.now.Add(10 * time.Millisecond)
			n.Tick(s.now)
			clear(s.nodes[0].heard)
		}
		for _, r := range n.order {
			if len(r.gaps) > maxGaps+1 || len(r.store.ring) > 2*maxAhead {
				t.Errorf("%d gaps, %d slots", len(r.gaps), len(r.store.ring))
			}
		}
		if len(n.members) == 0 && len(n.order) > 0 || len(m.interests) > MaxInterests || len(n.candidates) > MaxMembers || m.streams > MaxStreams {
			t.Errorf("%d interests, %d candidates, %d streams", len(m.interests), len(n.candidates), m.streams)
		}
	})
}

// FuzzCursor: packets of a member that has the key: no panic, no more memory than the packets and the longest message, numbers only grow.
func FuzzCursor(f *testing.F) {
	s := newSim(3)
	p := s.join().publish("x", SenderConfig{})
	p.send(70)
	if _, _, err := p.tx.Send("x.y", []byte("headers"), []byte("payload")); err != nil {
		f.Fatal(err)
	}
	p.tx.Flush(s.now)
	s.nodes[0].n.Interests(s.now, []Interest{{ID: 1, Pattern: "x", Queue: "q"}, {ID: 2, Pattern: "x", Queue: "q"}})
	p.send(20)
	if _, _, err := p.tx.SendDealt("", nil, []byte("payload"), []Deal{{GroupHash("q"), 7, 1}}); err != nil {
		f.Fatal(err)
	}
	p.tx.Flush(s.now)
	for seq := p.tx.store.first; seq < p.tx.store.next; seq++ {
		f.Add(p.tx.store.at(seq).plain, uint16(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		var c, one Cursor
		one.Seat(Deal{GroupHash("q"), 7, 1})
		last := uint64(0)
		k := min(int(cut), len(b))
		for i, part := range [][]byte{b[:k], b[k:], b} {
			from, to, err := c.Open(uint64(i+1), part)
			if err != nil {
				continue
			}
			if to >= from && from <= last && last != 0 {
				t.Errorf("lost %d-%d after %d", from, to, last)
			}
			var m Message
			for {
				if _, number, ok := c.Plain(); ok {
					m.Number = number
				} else if ok, err := c.Next(&m); err != nil || !ok {
					break
				}
				if m.Number <= last && last != 0 {
					t.Errorf("%d after %d", m.Number, last)
				}
				last = m.Number
			}
			if _, _, err := one.Open(uint64(i+1), part); err == nil {
				for mine := (Message{}); ; {
					if ok, err := one.Next(&mine); err != nil || !ok {
						break
					}
					if len(one.Dealt(&mine, 7, nil)) == 0 {
						t.Errorf("%d is another's", mine.Number)
					}
				}
			}
			if cap(c.part) > 64<<10+2*len(b)+MaxDatagram {
				t.Errorf("%d bytes kept", cap(c.part))
			}
		}
	})
}

// FuzzParity: parity packets of a publisher that is out of its mind end no process, fill no table, and change nothing that came.
func FuzzParity(f *testing.F) {
	f.Add([]byte{0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, uint64(1)<<8, uint32(0))
	f.Add([]byte{}, uint64(1)<<63, uint32(5))
	f.Add(bytes.Repeat([]byte{7}, 600), uint64(2)<<8|255, uint32(1<<31))
	f.Fuzz(func(t *testing.T, row []byte, number uint64, hole uint32) {
		s := newSim(9)
		a, b := s.join(Interest{ID: 1, Pattern: "a.>"}), s.join()
		p := b.publish("a.x", SenderConfig{})
		s.run(s.now.Add(100 * time.Millisecond))
		clear(a.heard) // of what it takes for messages nothing is known
		if len(a.n.order) == 0 {
			t.Fatal("no stream")
		}
		r := a.n.order[0]
		for seq := uint64(1); seq < 80; seq++ {
			if seq < 32 || hole>>(seq%32)&1 == 0 {
				r.accept(s.now, seq, append([]byte{0}, make([]byte, packetHeader+int(seq))...), nil)
			}
		}
		key := a.n.cfg.Keys[0].Parity(r.m.suite, uint64(b.id), p.tx.id)
		for i := range uint64(40) {
			pkt, err := key.Seal(nil, TypeParity, number+i, row)
			if err != nil {
				t.Fatal(err)
			}
			a.n.Packet(s.now, b.addr, true, pkt)
		}
		a.n.Done(s.now)
		a.n.Tick(s.now.Add(20 * time.Millisecond))
		for block, held := range r.parities {
			if len(held.rows) > maxParityRows || len(held.rows) != len(held.numbers) {
				t.Errorf("%d rows of block %d", len(held.rows), block)
			}
		}
		if len(r.parities) > maxParityBlocks || len(r.gaps) > maxGaps+1 || len(r.store.ring) > 2*maxAhead {
			t.Errorf("%d blocks, %d gaps, %d slots", len(r.parities), len(r.gaps), len(r.store.ring))
		}
	})
}

// FuzzPacket: datagrams of strangers, and of members after a change on the way.
func FuzzPacket(f *testing.F) {
	s := newSim(5)
	a, b := s.join(Interest{ID: 1, Pattern: ">"}), s.join()
	s.run(s.now.Add(time.Second))
	f.Add([]byte{}, true)
	f.Add([]byte{TypeBundle, 0, 3, TypeData, 0, 0, 0, 2, TypeControl, 0}, false)
	f.Add(binary.BigEndian.AppendUint64([]byte{TypeData, 0, 0, 1}, uint64(b.id)), false)
	f.Add(b.n.ctl.Seal(nil, TypeControl, ping{recPing, 1, 2, true, false, 3, 4, 3}.append(nil)), true)
	f.Fuzz(func(t *testing.T, pkt []byte, group bool) {
		before := len(a.n.members) + len(a.n.candidates) + len(a.n.answered) + len(a.n.order)
		a.n.Packet(s.now, b.addr, group, pkt)
		a.n.Done(s.now)
		if after := len(a.n.members) + len(a.n.candidates) + len(a.n.answered) + len(a.n.order); after != before {
			t.Errorf("it left something behind")
		}
	})
}
