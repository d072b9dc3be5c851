package rmcast

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/seal"
)

// FuzzHello: what opens is a hello or an error, and one that decodes is written the same.
func FuzzHello(f *testing.F) {
	f.Add(hello{epoch: 1, to: 2, number: 3, suite: seal.SuiteAES, known: true, name: "x"}.append(nil))
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
	f.Add(ping{recPing, 1, 2, true, 3, 4}.append(nil))
	f.Add(announce{1, 1, 1, 5, 9, "a.x"}.append(nil))
	f.Add(heartbeat{1, 5, 1, 9, 7}.append(nil))
	f.Add(status{1, 5, 1 << 20, 3}.append(nil))
	f.Add(appendNack(nil, 1, 1, []Range{{1, 5}, {1 << 63, 65535}}))
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
	for seq := p.tx.store.first; seq < p.tx.store.next; seq++ {
		f.Add(p.tx.store.at(seq).plain, uint16(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		var c Cursor
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
				ok, err := c.Next(&m)
				if err != nil || !ok {
					break
				}
				if m.Number <= last && last != 0 {
					t.Errorf("%d after %d", m.Number, last)
				}
				last = m.Number
			}
			if cap(c.part) > 64<<10+2*len(b)+MaxDatagram {
				t.Errorf("%d bytes kept", cap(c.part))
			}
		}
	})
}

// FuzzPacket: datagrams of strangers, and of members after a change on the way.
func FuzzPacket(f *testing.F) {
	s := newSim(5)
	a, b := s.join(Interest{ID: 1, Pattern: ">"}), s.join()
	s.run(s.now.Add(time.Second))
	f.Add([]byte{}, true)
	f.Add(binary.BigEndian.AppendUint64([]byte{TypeData, 0, 0, 1}, uint64(b.id)), false)
	f.Add(b.n.ctl.Seal(nil, TypeControl, ping{recPing, 1, 2, true, 3, 4}.append(nil)), true)
	f.Fuzz(func(t *testing.T, pkt []byte, group bool) {
		before := len(a.n.members) + len(a.n.candidates) + len(a.n.answered) + len(a.n.order)
		a.n.Packet(s.now, b.addr, group, pkt)
		a.n.Done(s.now)
		if after := len(a.n.members) + len(a.n.candidates) + len(a.n.answered) + len(a.n.order); after != before {
			t.Errorf("it left something behind")
		}
	})
}
