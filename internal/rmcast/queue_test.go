package rmcast

import (
	"bytes"
	"fmt"
	"testing"
)

// dealer makes a sender with queue groups that nobody receives.
func dealer(t *testing.T, cfg SenderConfig, wants []Interest) *Sender {
	t.Helper()
	s := newSim(3)
	x := s.join()
	tx := x.n.NewSender(s.now, cfg, nil)
	x.n.Interests(s.now, wants)
	return tx
}

// given reads all that a sender kept, as each of some seats sees it; who nil: as everyone. Each packet is only lent.
func given(t *testing.T, tx *Sender, who *Deal) (all []Message) {
	t.Helper()
	tx.Flush(tx.began)
	var c Cursor
	if who != nil {
		c.Seat(*who)
	}
	for seq := tx.store.first; seq < tx.store.next; seq++ {
		plain := bytes.Clone(tx.store.at(seq).plain)
		if from, to, err := c.Open(seq, plain); err != nil || to >= from {
			t.Fatalf("%d to %d lost, %v", from, to, err)
		}
		for {
			var m Message
			ok, err := c.Next(&m)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			m.Subject, m.Headers, m.Deals, m.Payload = bytes.Clone(m.Subject), bytes.Clone(m.Headers), bytes.Clone(m.Deals), bytes.Clone(m.Payload)
			all = append(all, m)
		}
		for i := range plain {
			plain[i] = 0xff
		}
	}
	return all
}

// TestDeals: each message has one of each group, small ones in one packet, long ones over several, and each gets its share by weight.
func TestDeals(t *testing.T) {
	const n = 1200
	groups := func(many int) (wants []Interest) {
		for g := range many {
			for i := range 3 {
				wants = append(wants, Interest{ID: uint32(1 + 3*g + i), Pattern: "job.*", Queue: fmt.Sprint("g", g), N: uint64(i)}) // weights 1, 1 and 2
			}
		}
		return wants
	}
	for name, c := range map[string]struct {
		subject, own string
		groups, gap  int
	}{
		"in packets":             {"job.x", "", 1, n},
		"one by one":             {"job.x", "", 2, 1},
		"in many groups":         {"job.x", "", 20, 7},
		"in too many for tables": {"job.x", "", 100, 7},
		"on a pattern":           {"job.>", "job.x", 3, 10},
	} {
		t.Run(name, func(t *testing.T) {
			wants := groups(c.groups)
			tx := dealer(t, SenderConfig{Subject: c.subject, Window: 16 << 20}, wants)
			for i := range n {
				size := 10
				if i%100 == 99 {
					size = 5000
				}
				if _, _, err := tx.Send(c.own, nil, bytes.Repeat([]byte{byte(i)}, size)); err != nil {
					t.Fatal(err)
				}
				if i%c.gap == 0 {
					tx.Flush(tx.began)
				}
			}
			all := given(t, tx, nil)
			if len(all) != n {
				t.Fatalf("%d messages", len(all))
			}
			for g := range c.groups {
				seen := map[uint64]int{}
				for i := range 3 {
					in := wants[3*g+i]
					got := given(t, tx, &Deal{GroupHash(in.Queue), tx.self, in.ID})
					share := n / 4 * (1 + i/2)
					if len(got) < share-8 || len(got) > share+8 {
						t.Errorf("subscription %d of %s has %d of %d", i, in.Queue, len(got), n)
					}
					for _, m := range got {
						seen[m.Number]++
						if !bytes.Equal(m.Payload, all[m.Number-1].Payload) {
							t.Fatalf("message %d is another", m.Number)
						}
					}
				}
				if len(seen) != n {
					t.Errorf("group %d has %d of %d messages", g, len(seen), n)
				}
				for number, times := range seen {
					if times != 1 {
						t.Errorf("group %d has message %d %d times", g, number, times)
					}
				}
			}
			var c Cursor
			var hashes []uint32
			for seq := tx.store.first; seq < tx.store.next; seq++ {
				if _, _, err := c.Open(seq, tx.store.at(seq).plain); err != nil {
					t.Fatal(err)
				}
				var m Message
				for {
					if ok, err := c.Next(&m); err != nil || !ok {
						break
					}
					if hashes = c.Dealt(&m, tx.self, hashes[:0]); len(hashes) != len(wants)/3 {
						t.Fatalf("message %d is dealt to %d groups", m.Number, len(hashes))
					}
				}
			}
		})
	}
}

// TestDealsByPattern: of a group whose members want different subjects, one that wants a message's has it.
func TestDealsByPattern(t *testing.T) {
	tx := dealer(t, SenderConfig{Subject: ">"}, []Interest{
		{ID: 1, Pattern: "a.*", Queue: "q"}, {ID: 2, Pattern: "a.b", Queue: "q"}, {ID: 3, Pattern: "c", Queue: "other"},
	})
	for i := range 100 {
		if _, _, err := tx.Send([]string{"a.b", "a.c"}[i%2], nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	one, two := given(t, tx, &Deal{GroupHash("q"), tx.self, 1}), given(t, tx, &Deal{GroupHash("q"), tx.self, 2})
	if len(one) < 70 || len(one) > 80 || len(one)+len(two) != 100 {
		t.Errorf("%d and %d", len(one), len(two))
	}
	if got := given(t, tx, &Deal{GroupHash("other"), tx.self, 3}); len(got) > 0 {
		t.Errorf("%d of what nobody there wants", len(got))
	}
	for _, m := range two {
		if string(m.Subject) != "a.b" {
			t.Errorf("%s", m.Subject)
		}
	}
}

// TestDealt: who sends by SendDealt says who has a message, and nobody else does.
func TestDealt(t *testing.T) {
	tx := dealer(t, SenderConfig{Subject: ">", Dealt: true}, []Interest{{ID: 1, Pattern: ">", Queue: "q"}})
	d := Deal{GroupHash("q"), 77, 5}
	if _, _, err := tx.SendDealt("a", []byte("head"), []byte("body"), []Deal{d}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tx.SendDealt("a", nil, []byte("body"), nil); err != nil {
		t.Fatal(err)
	}
	if got := given(t, tx, &d); len(got) != 1 || string(got[0].Headers) != "head" || string(got[0].Payload) != "body" {
		t.Errorf("%+v", got)
	}
	if got := given(t, tx, &Deal{GroupHash("q"), tx.self, 1}); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestDealsAllocateNothing: to share messages out costs no allocation, whichever way it is done.
func TestDealsAllocateNothing(t *testing.T) {
	for _, subj := range []string{"job.x", "job.*"} {
		wants := []Interest{{ID: 1, Pattern: "job.*", Queue: "q"}, {ID: 2, Pattern: "job.>", Queue: "q"}, {ID: 3, Pattern: ">", Queue: "p"}}
		tx := dealer(t, SenderConfig{Subject: subj, Window: 256 << 10}, wants)
		own, payload := "", make([]byte, 64)
		if tx.wild {
			own = "job.x"
		}
		const each = 1000
		round := func() {
			for range each {
				if _, _, err := tx.Send(own, nil, payload); err != nil {
					t.Fatal(err)
				}
			}
			tx.Flush(tx.began)
		}
		for range 20 {
			round()
		}
		if n := testing.AllocsPerRun(20, round); n > each/200 {
			t.Errorf("%s: %v allocations for %d messages", subj, n, each)
		}
		var c Cursor
		c.Seat(Deal{GroupHash("q"), tx.self, 1})
		read := func() {
			for seq := tx.store.next - 20; seq < tx.store.next; seq++ {
				if _, _, err := c.Open(seq, tx.store.at(seq).plain); err != nil {
					t.Fatal(err)
				}
				var m Message
				for {
					if ok, err := c.Next(&m); err != nil || !ok {
						break
					}
				}
			}
		}
		if n := testing.AllocsPerRun(20, read); n > 0 {
			t.Errorf("%s: reading: %v allocations", subj, n)
		}
	}
}
