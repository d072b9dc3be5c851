package seal

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/wire"
)

// TestNoncesNeverGoBack: while many goroutines seal, the key is frozen, exported and goes on elsewhere, again and again; no
// counter is ever on two packets, and none is lost but those nobody was given.
func TestNoncesNeverGoBack(t *testing.T) {
	key := bytes.Repeat([]byte{7}, KeySize)
	s, err := NewLinkSealer(SuiteAES, key, 9, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]int{}
	var mu sync.Mutex
	for hop := range 20 {
		var wg sync.WaitGroup
		started := make(chan struct{}, 4)
		for range 4 {
			wg.Go(func() {
				buf := make([]byte, wire.LinkHeader+8+wire.Tag)
				for i := 0; ; i++ {
					pkt, err := s.SealLink(buf, 8)
					if errors.Is(err, ErrSpent) {
						return
					}
					_, ctr, _ := wire.Link(pkt)
					mu.Lock()
					seen[ctr]++
					mu.Unlock()
					if i == 0 {
						started <- struct{}{}
					}
				}
			})
		}
		for range 4 {
			<-started
		}
		s.Freeze()
		s.Freeze() // twice is once
		x, err := s.Export()
		if err != nil {
			t.Fatal(err)
		}
		if x.Used != s.Used() {
			t.Fatalf("hop %d: exported %d, used %d", hop, x.Used, s.Used())
		}
		next, err := AdoptSealer(x, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := next.SealLink(make([]byte, 64), 8); !errors.Is(err, ErrSpent) {
			t.Fatalf("hop %d: it seals before the other has given the key up: %v", hop, err)
		}
		if next.Used() != x.Used {
			t.Fatalf("hop %d: adopted at %d, want %d", hop, next.Used(), x.Used)
		}
		wg.Wait() // whoever was sealing had its counter before
		s = next
		s.Thaw()
		s.Thaw()
	}
	for ctr, n := range seen {
		if n != 1 {
			t.Errorf("counter %d on %d packets", ctr, n)
		}
	}
	if s.Used() != uint64(len(seen)) {
		t.Errorf("%d counters used, %d packets", s.Used(), len(seen))
	}
}

// TestThawGoesOn: a hand-over that comes to nothing costs no counter.
func TestThawGoesOn(t *testing.T) {
	s, err := NewGroupSealer(SuiteAES, make([]byte, KeySize), 5, 100)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, wire.GroupHeader+8+wire.Tag)
	if _, err := s.Export(); err == nil {
		t.Error("a key in use is exported")
	}
	for want := uint64(1); want <= 3; want++ {
		pkt, err := s.SealGroup(buf, 8, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, id, ctr, _ := wire.Group(pkt); id != 5 || ctr != want {
			t.Errorf("key %d, counter %d; want 5, %d", id, ctr, want)
		}
		s.Freeze()
		if _, err := s.SealGroup(buf, 8, 0); !errors.Is(err, ErrSpent) {
			t.Errorf("a frozen key seals: %v", err)
		}
		s.Thaw()
	}
	// A key that was spent stays so.
	spent, err := NewGroupSealer(SuiteAES, make([]byte, KeySize), 5, 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, _ = spent.SealGroup(buf, 8, 0)
	}
	spent.Freeze()
	x, err := spent.Export()
	if err != nil {
		t.Fatal(err)
	}
	there, err := AdoptSealer(x, 1)
	if err != nil {
		t.Fatal(err)
	}
	there.Thaw()
	if _, err := there.SealGroup(buf, 8, 0); !errors.Is(err, ErrSpent) {
		t.Errorf("a spent key seals elsewhere: %v", err)
	}
}

// TestWindowIsHandedOver: what was opened here is a replay there, and what was not yet is opened, in any order.
func TestWindowIsHandedOver(t *testing.T) {
	key := make([]byte, KeySize)
	s, err := NewLinkSealer(SuiteChaCha, key, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, err := NewOpener(SuiteChaCha, key)
	if err != nil {
		t.Fatal(err)
	}
	var pkts [][]byte
	for range 3 * WindowSize / 2 {
		pkt, err := s.SealLink(make([]byte, wire.LinkHeader+8+wire.Tag), 8)
		if err != nil {
			t.Fatal(err)
		}
		pkts = append(pkts, bytes.Clone(pkt))
	}
	for i, p := range pkts {
		if i%3 == 0 && i < len(pkts)-100 {
			if _, err := here.OpenLink(bytes.Clone(p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	there, err := AdoptOpener(here.Export())
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pkts {
		_, want := here.OpenLink(bytes.Clone(p))
		if _, err := there.OpenLink(bytes.Clone(p)); !errors.Is(err, want) && err != want { //nolint:errorlint // nil, too
			t.Fatalf("packet %d: %v there, %v here", i, err, want)
		}
	}
	if fresh, err := NewOpener(SuiteChaCha, key); err != nil {
		t.Fatal(err)
	} else if x := fresh.Export(); x.High != 0 || len(x.Seen) != 0 {
		t.Errorf("a fresh window says %d, %d bytes", x.High, len(x.Seen))
	}
}
