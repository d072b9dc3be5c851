package rmcast

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
	"unsafe"
)

// keeping is a Wire that keeps what is sent.
type keeping struct{ data [][]byte }

func (k *keeping) Send(buf []byte, segment int, _ bool, _ []netip.AddrPort) {
	for len(buf) > 0 {
		n := min(segment, len(buf))
		if buf[0] == TypeData {
			k.data = append(k.data, bytes.Clone(buf[:n]))
		}
		buf = buf[n:]
	}
}

// TestToldTooEarly: a heartbeat that overtakes packets, which wait for the processor in another socket, has nobody ask for them while
// they come; those that don't come are asked for soon.
func TestToldTooEarly(t *testing.T) {
	s, p := quiet(t, 3, SenderConfig{})
	to := s.nodes[1]
	k := &keeping{}
	p.tx.mu.Lock()
	p.tx.wire = k
	p.tx.mu.Unlock()
	to.n.cfg.Wire = &discard{}
	now := s.now
	payload := make([]byte, 1000)
	for range 60 {
		if _, _, err := p.tx.Send("", nil, payload); err != nil {
			t.Fatal(err)
		}
	}
	p.tx.Flush(now)
	r := to.n.order[0]
	nacks := to.n.Stats.Nacks
	p.tx.mu.Lock()
	next, message := p.tx.sent, p.tx.message
	p.tx.mu.Unlock()
	r.tail(now, next, message)
	half := k.data[:len(k.data)/2]
	for _, pkt := range half {
		now = now.Add(2 * time.Millisecond)
		to.n.Packet(now, p.node.addr, true, pkt)
		to.n.Tick(now)
	}
	if n := to.n.Stats.Nacks - nacks; n != 0 || r.next >= next {
		t.Errorf("%d NACKs while packets come; %d of %d are here", n, r.next, next)
	}
	for range 20 {
		now = now.Add(time.Millisecond)
		to.n.Tick(now)
	}
	if n := to.n.Stats.Nacks - nacks; n == 0 || n > 2 {
		t.Errorf("%d NACKs in 20 ms for packets that did not come", n)
	}
}

// TestSlabsAgain: what a publisher fills at full speed is used again once it is forgotten, unless a subscription of its own process
// may still read it.
func TestSlabsAgain(t *testing.T) {
	for _, lend := range []bool{false, true} {
		s := newSim(3)
		x := s.join()
		lent := map[*byte][]byte{} // by the packet's place: as it was
		tx := x.n.NewSender(s.now, SenderConfig{Subject: "x", Window: 256 << 10}, func(ps []Packet) bool {
			for _, p := range ps {
				if lend {
					lent[unsafe.SliceData(p.Plain)] = bytes.Clone(p.Plain)
				}
			}
			return lend
		})
		slabs := map[*byte]bool{}
		most := 0
		payload := make([]byte, 64)
		for i := range 40_000 {
			payload[0] = byte(i)
			_, full, err := tx.Send("", nil, payload)
			if err != nil {
				t.Fatal(err)
			}
			if full {
				tx.FlushFull(s.now)
			}
			most = max(most, len(tx.full))
			slabs[unsafe.SliceData(tx.full[len(tx.full)-1].space)] = true
		}
		for at, was := range lent {
			if !bytes.Equal(unsafe.Slice(at, len(was)), was) {
				t.Fatal("a packet that a subscription has was overwritten")
			}
		}
		const small = 3 // the first ones
		if most > 4 || !lend && len(slabs) > small+4 || lend && len(slabs) < small+8 {
			t.Errorf("lent %v: %d slabs, %d at once, for 2.5 MB and a window of 256 KiB", lend, len(slabs), most)
		}
	}
}

// TestPlain: Plain and Next give what Next alone gives.
func TestPlain(t *testing.T) {
	s := newSim(3)
	p := s.join().publish("x", SenderConfig{})
	for i := range 300 {
		var err error
		switch body := bytes.Repeat([]byte{byte(i)}, i%90); {
		case i%7 == 3:
			_, _, err = p.tx.Send("a.subject", nil, body)
		case i%31 == 5:
			_, _, err = p.tx.Send("", nil, bytes.Repeat(body, 100)) // over several packets
		default:
			_, _, err = p.tx.Send("", nil, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p.tx.Flush(s.now)
	for _, start := range []uint64{0, 100} {
		var a, b Cursor
		a.Start(start)
		b.Start(start)
		plain := 0
		for seq := p.tx.store.first; seq < p.tx.store.next; seq++ {
			pkt := p.tx.store.at(seq).plain
			if _, _, err := a.Open(seq, pkt); err != nil {
				t.Fatal(err)
			}
			if _, _, err := b.Open(seq, pkt); err != nil {
				t.Fatal(err)
			}
			for {
				var m, n Message
				ok, err := a.Next(&m)
				if err != nil {
					t.Fatal(err)
				}
				payload, number, fast := b.Plain()
				if n = (Message{Number: number, Payload: payload}); !fast {
					if fast, err = b.Next(&n); err != nil {
						t.Fatal(err)
					}
				} else {
					plain++
				}
				if ok != fast || ok && (m.Number != n.Number || !bytes.Equal(m.Payload, n.Payload) || !bytes.Equal(m.Subject, n.Subject)) {
					t.Fatalf("%v %+v and %v %+v", ok, m, fast, n)
				}
				if !ok {
					break
				}
			}
		}
		if plain < 100 || a.Due() != b.Due() {
			t.Errorf("%d plain messages; due %d and %d", plain, a.Due(), b.Due())
		}
	}
}

// TestValuesOfAll: messages of a block are last values like those that are sent one by one.
func TestValuesOfAll(t *testing.T) {
	s := newSim(3)
	tx := s.join().n.NewSender(s.now, SenderConfig{Subject: "x", Class: LastValue}, nil)
	block := [][]byte{[]byte("a"), []byte("b"), []byte("c")}
	if n, _, err := tx.SendAll(block); n != len(block) || err != nil {
		t.Fatal(n, err)
	}
	got := tx.Values().Next(0, make([]*Value, 0, 2))
	if len(got) != 1 || string(got[0].Payload) != "c" || got[0].Number != 3 {
		t.Errorf("%d values, want the last message alone", len(got))
	}
}
