package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestConvergenceUnderLoss(t *testing.T) {
	for _, n := range []int{5, 20, 50} {
		t.Run(fmt.Sprintf("%d hosts", n), func(t *testing.T) {
			s := newSim(t, n, 7)
			s.loss, s.dup = 0.10, 0.05
			s.link()
			for _, nd := range s.nodes {
				for k := range 10 {
					s.put(nd, Cluster, fmt.Sprintf("attachment/%d", k), fmt.Sprintf("%s %d 02:00:00:00:00:01 10.32.0.1", nd.id, k))
				}
				s.commit(nd)
			}
			took := s.run(10*time.Second, s.allEqual)
			if !s.allEqual() || took > 5*time.Second {
				t.Fatalf("not equal after %v", took)
			}
			s.check(Cluster)
			t.Logf("%d hosts, 10 %% loss: equal after %v, %d KiB sent per host", n, took, s.bytes/1024/uint64(n))

			// One change reaches everyone soon, also where the push was lost.
			s.run(3*time.Second, nil)
			s.put(s.nodes[0], Cluster, "x", "y")
			s.commit(s.nodes[0])
			if took := s.run(10*time.Second, s.allEqual); took > 3*time.Second {
				t.Errorf("one change took %v", took)
			}
			// And then there is silence: digests only.
			s.loss, s.dup = 0, 0
			s.run(5*time.Second, nil)
			before := s.bytes
			s.run(10*time.Second, nil)
			if rate := (s.bytes - before) / 10 / uint64(n); rate > 100 {
				t.Errorf("idle: %d bytes per second and host", rate)
			}
		})
	}
}

func TestPartitionHeals(t *testing.T) {
	for _, n := range []int{4, 50} {
		t.Run(fmt.Sprintf("%d hosts", n), func(t *testing.T) {
			s := newSim(t, n, 3)
			s.loss, s.dup = 0.10, 0.05
			s.link()
			s.run(5*time.Second, s.allEqual)
			s.cut = func(a, b int) bool { return (a < n/2) != (b < n/2) }
			s.link()
			for _, nd := range s.nodes {
				for k := range 20 {
					s.put(nd, Cluster, fmt.Sprintf("member/%d", k), "239.1.2.3 "+nd.id.String())
				}
				s.commit(nd)
			}
			s.run(8*time.Second, nil)
			if s.allEqual() {
				t.Fatal("the partition is none")
			}
			s.cut = func(int, int) bool { return false }
			before := s.bytes
			s.link()
			took := s.run(10*time.Second, s.allEqual)
			if took >= 5*time.Second {
				t.Fatalf("%v to converge", took)
			}
			s.check(Cluster)
			t.Logf("%d|%d: equal %v after the heal, %d KiB sent per host", n/2, n/2, took, (s.bytes-before)/1024/uint64(n))
		})
	}
}

func TestScopesStayWhereTheyAreHeld(t *testing.T) {
	s := newSim(t, 6, 5)
	s.loss = 0.05
	const vni = Scope(77)
	for _, nd := range s.nodes[:2] {
		if err := nd.tables.Hold(vni); err != nil {
			t.Fatal(err)
		}
	}
	s.link()
	s.run(3*time.Second, nil)
	for _, nd := range s.nodes[:2] {
		s.put(nd, vni, "attachment/a", "10.32.0.2")
		s.commit(nd)
	}
	s.run(3*time.Second, nil)
	s.check(vni)
	a, b, c := s.nodes[0], s.nodes[1], s.nodes[2]
	if _, ok := b.tables.Get(a.id, vni, "attachment/a"); !ok {
		t.Fatal("the other holder lacks it")
	}
	if c.tables.Version(a.id, vni) != 0 {
		t.Fatal("it reached a host without the scope")
	}

	// A late holder fetches it; a host that leaves withdraws its own, even when every push of it is lost.
	if err := c.tables.Hold(vni); err != nil {
		t.Fatal(err)
	}
	s.run(3*time.Second, nil)
	s.check(vni)
	if _, ok := c.tables.Get(a.id, vni, "attachment/a"); !ok {
		t.Fatal("a late holder did not get it")
	}
	s.cut = func(x, y int) bool { return x == 0 || y == 0 }
	a.tables.Release(vni)
	s.commit(a)
	s.run(3*time.Second, nil)
	if _, ok := c.tables.Get(a.id, vni, "attachment/a"); !ok {
		t.Fatal("the cut is none")
	}
	s.cut = func(int, int) bool { return false }
	s.run(10*time.Second, nil)
	for _, nd := range []*simNode{b, c} {
		if _, ok := nd.tables.Get(a.id, vni, "attachment/a"); ok {
			t.Errorf("node %d still has what node 0 withdrew", nd.i)
		}
	}
	// Its versions go on when it comes back.
	if err := a.tables.Hold(vni); err != nil {
		t.Fatal(err)
	}
	s.put(a, vni, "attachment/b", "10.32.0.3")
	s.commit(a)
	s.run(3*time.Second, nil)
	s.check(vni)
	if v, _ := c.tables.Get(a.id, vni, "attachment/b"); string(v) != "10.32.0.3" {
		t.Errorf("back again: %q", v)
	}
}

func TestRestart(t *testing.T) {
	setup := func(t *testing.T) (*simNet, *simNode, []byte) {
		s := newSim(t, 5, 11)
		s.loss = 0.05
		s.link()
		w := s.nodes[0]
		s.put(w, Cluster, "a", "1")
		s.commit(w)
		old := w.disk
		s.put(w, Cluster, "b", "2")
		s.commit(w)
		s.put(w, Cluster, "c", "3")
		s.commit(w)
		s.run(4*time.Second, s.allEqual)
		return s, w, old
	}
	restart := func(s *simNet, w *simNode, disk []byte) {
		s.start(w, disk)
		for _, nd := range s.nodes[1:] {
			nd.sync.PeerDown(w.id)
		}
		s.queue = nil
	}
	want := func(t *testing.T, s *simNet, w *simNode, want string) {
		t.Helper()
		if !s.allEqual() {
			t.Fatal("not equal")
		}
		s.check(Cluster)
		var got strings.Builder
		for it := range s.nodes[3].tables.All(Cluster, "") {
			got.WriteString(it.Key + "=" + string(it.Value) + " ")
		}
		if got.String() != want {
			t.Errorf("got %q, want %q", got.String(), want)
		}
	}

	t.Run("stale disk", func(t *testing.T) {
		s, w, old := setup(t)
		restart(s, w, old)
		s.link()
		s.run(3*time.Second, func() bool { n, compared := w.sync.Behind(Cluster); return compared && n == 0 })
		if v := w.tables.Version(w.id, Cluster); v != 3 {
			t.Fatalf("own version %d, want 3", v)
		}
		if got := w.view[w.id.String()+"/0/b"]; got != "2" {
			t.Errorf("the change was not told: %q", got)
		}
		s.put(w, Cluster, "d", "4")
		s.commit(w)
		s.run(5*time.Second, s.allEqual)
		want(t, s, w, "a=1 b=2 c=3 d=4 ")
	})
	t.Run("no disk", func(t *testing.T) {
		s, w, _ := setup(t)
		restart(s, w, nil)
		s.link()
		s.run(3*time.Second, func() bool { n, compared := w.sync.Behind(Cluster); return compared && n == 0 })
		s.put(w, Cluster, "d", "4")
		s.commit(w)
		s.run(5*time.Second, s.allEqual)
		want(t, s, w, "a=1 b=2 c=3 d=4 ")
	})
	// The host did not wait: its new history parts from the old one that peers hold, at fewer, as many and more versions.
	for n := 1; n <= 5; n++ {
		t.Run(fmt.Sprintf("stale disk and %d commits before a peer was seen", n), func(t *testing.T) {
			s, w, old := setup(t)
			restart(s, w, old)
			var text strings.Builder
			text.WriteString("a=1 ")
			for i := range n {
				s.put(w, Cluster, fmt.Sprintf("n%d", i), "new")
				s.commit(w)
				fmt.Fprintf(&text, "n%d=new ", i)
			}
			s.link()
			s.run(10*time.Second, func() bool {
				if w.tables.Pending() {
					s.commit(w)
				}
				return s.allEqual()
			})
			want(t, s, w, text.String())
			if got := w.tables.Stats().Refused[ErrEquivocation.Error()]; got == 0 {
				t.Error("nobody noticed")
			}
			if _, told := w.view[w.id.String()+"/0/"]; !told {
				t.Error("the host is not told that it has two histories")
			}
			if err := New(Config{Keys: w.keys, Cluster: s.cluster}).Import(w.disk); err != nil {
				t.Errorf("the disk after it: %v", err)
			}
		})
	}
	t.Run("table of a scope forgotten", func(t *testing.T) {
		s, w, _ := setup(t)
		const vni = Scope(9)
		for _, nd := range s.nodes {
			if err := nd.tables.Hold(vni); err != nil {
				t.Fatal(err)
			}
		}
		s.run(time.Second, nil)
		s.put(w, vni, "x", "y")
		s.commit(w)
		s.run(2*time.Second, nil)
		restart(s, w, nil)
		s.link()
		s.run(10*time.Second, func() bool { return len(w.tables.OwnScopes()) == 2 })
		if got := fmt.Sprint(w.tables.OwnScopes()); got != "[0 9]" {
			t.Fatalf("own scopes %s", got)
		}
		w.tables.Release(vni)
		s.commit(w)
		s.run(3*time.Second, nil)
		for _, nd := range s.nodes[1:] {
			if _, ok := nd.tables.Get(w.id, vni, "x"); ok {
				t.Errorf("node %d still has it", nd.i)
			}
		}
	})
}

// TestFalseClaims checks that a peer that claims versions it cannot show neither blocks nor floods.
func TestFalseClaims(t *testing.T) {
	s := newSim(t, 2, 1)
	a, b := s.nodes[0], s.nodes[1]
	s.link()
	s.run(time.Second, nil)
	lie := vector{scope: Cluster, positions: []Position{{Writer: a.id, Version: 1 << 40}, {Writer: b.id, Version: 1 << 41}}}
	out, _, err := a.sync.Input(s.now, b.id, lie.encode())
	if err != nil || len(out) != 1 {
		t.Fatalf("%d messages, %v", len(out), err)
	}
	if n, _ := a.sync.Behind(Cluster); n != 1<<40 {
		t.Fatalf("behind by %d", n)
	}
	s.send(a, out)
	s.run(time.Second, nil)
	if n, compared := a.sync.Behind(Cluster); n != 0 || !compared || !a.sync.Settled() {
		t.Errorf("still behind by %d, compared %v", n, compared)
	}
	if _, _, err := a.sync.Input(s.now, testKeys(t, 99).ID(), lie.encode()); !errors.Is(err, ErrMalformed) {
		t.Errorf("message of a stranger: %v", err)
	}
	many := vector{scope: Cluster}
	for i := range MaxWriters {
		many.positions = append(many.positions, Position{Writer: [16]byte{1, byte(i), byte(i >> 8)}, Version: 5})
	}
	for range 5 {
		if _, _, err := a.sync.Input(s.now, b.id, many.encode()); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.sync.wants) > maxWants {
		t.Errorf("%d wants", len(a.sync.wants))
	}
}

func TestAnswersAreBudgeted(t *testing.T) {
	s := newSim(t, 2, 1)
	a, b := s.nodes[0], s.nodes[1]
	s.link()
	for i := range 600 {
		s.put(a, Cluster, fmt.Sprintf("k%d", i), string(make([]byte, 200)))
	}
	s.commit(a)
	r := request{id: 1, limit: 1 << 30, lacks: []lack{{tableID{a.id, Cluster}, 0}}}
	var drawn int
	var err error
	for range 10_000 {
		var out []Send
		if out, _, err = a.sync.Input(s.now, b.id, r.encode()); err != nil {
			break
		}
		drawn += len(out[0].Msg)
	}
	if !errors.Is(err, ErrBusy) || drawn > answerBudget+MaxMessage {
		t.Errorf("%d bytes drawn, %v", drawn, err)
	}
	if _, _, err = a.sync.Input(s.now.Add(time.Second), b.id, r.encode()); err != nil {
		t.Errorf("a second later: %v", err)
	}
}
