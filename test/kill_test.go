package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestKill9: killed at random moments of its life, a host comes back as itself or is removed without a trace.
// WEFT_TEST_SEED repeats a run.
func TestKill9(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("WEFT_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("WEFT_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	_, h := cloud(t, 2)
	anchor := startAgent(t, h[0], "anchor")
	anchor.do("join 239.4.4.4")
	victim := h[1]
	id := hostID(t, h[0], victim.Name)
	victim.Kill9()
	for round := range times(8, 50) {
		victim.Launch()
		moment := time.Duration(random.IntN(1500)) * time.Millisecond
		var inside *rig.Process
		if moment > 700*time.Millisecond {
			rig.Pause(t, 600*time.Millisecond)
			moment -= 600 * time.Millisecond
			inside = victim.Run("brief", python, script(t, "agent.py"), agentPort)
		}
		rig.Pause(t, moment)
		victim.Kill9()
		if inside != nil {
			inside.Signal(syscall.SIGKILL)
			inside.Stop(5 * time.Second)
		}
		if round%2 == 0 {
			if r := victim.Weft("down", "--clean"); r.Code != 0 {
				t.Fatalf("round %d: weft down --clean: exit %d\n%s", round, r.Code, r.Stderr)
			}
			if left := victim.Leftovers(); left != "" {
				t.Fatalf("round %d: left after down --clean:\n%s", round, left)
			}
		}
	}
	victim.Up()
	rig.AllKnowAll(t, 20*time.Second, h...)
	if got := hostID(t, h[0], victim.Name); got != id {
		t.Errorf("the host came back as %s, was %s", got, id)
	}
	after := startAgent(t, victim, "after")
	converse(t, "239.4.4.5", anchor, after)

	// A program that runs through it all talks again 3 s after the start of the next daemon.
	anchor.do("join 239.4.4.9")
	after.do("join 239.4.4.9")
	rig.AwaitMembers(t, 10*time.Second, h[0], "239.4.4.9", 2)
	for round := range 3 {
		victim.Kill9()
		began := time.Now()
		victim.Launch()
		there, back := fmt.Sprintf("there-%d-", round), fmt.Sprintf("back-%d-", round)
		i := 0
		rig.Eventually(t, 3*time.Second, func() error {
			i++
			anchor.do("send 239.4.4.9 %s%d", there, i)
			after.do("send 239.4.4.9 %s%d", back, i)
			if got, answered := after.Count("^got "+there), anchor.Count("^got "+back); got == 0 || answered == 0 {
				return fmt.Errorf("round %d: %d of %d arrived, %d came back", round, got, i, answered)
			}
			return nil
		})
		t.Logf("traffic flows %v after the start", time.Since(began).Round(10*time.Millisecond))
	}
}

// TestKill9WhileFounding: killed at random moments of its first start, a host founds its cluster with the next one: one token,
// one range, and addresses for what runs in it; a joiner killed likewise is let in, once.
func TestKill9WhileFounding(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	for round := range times(4, 20) {
		founder, joiner := u.Host(fmt.Sprintf("f%d", round)), u.Host(fmt.Sprintf("j%d", round))
		for i := range 3 {
			founder.Launch()
			rig.Pause(t, time.Duration(20+rand.IntN(60)*(i+1))*time.Millisecond)
			founder.Kill9()
		}
		founder.Launch()
		founder.AwaitUp(10 * time.Second)
		token := strings.TrimSpace(founder.MustWeft("token"))
		for range 3 {
			joiner.Launch(founder.Endpoint(), "--token", token)
			rig.Pause(t, time.Duration(rand.IntN(1500))*time.Millisecond)
			joiner.Kill9()
		}
		joiner.Up(founder.Endpoint(), "--token", token)
		rig.AllKnowAll(t, 15*time.Second, founder, joiner)
		all, err := founder.Hosts()
		if err != nil || len(all) != 2 {
			t.Errorf("round %d: %d hosts (%v), want 2", round, len(all), err)
		}
		a, b := startAgent(t, founder, "a"), startAgent(t, joiner, "b")
		if a.ip4() == b.ip4() {
			t.Errorf("round %d: %s twice", round, a.ip4())
		}
		converse(t, "239.4.4.10", a, b)
		for _, at := range []*rig.Host{joiner, founder} {
			at.MustWeft("down", "--clean")
			at.Daemon().Wait(10 * time.Second)
			if left := at.Leftovers(); left != "" {
				t.Errorf("round %d: left after down --clean:\n%s", round, left)
			}
		}
	}
}

func hostID(t *testing.T, at *rig.Host, name string) string {
	t.Helper()
	all, err := at.Hosts()
	if err != nil {
		t.Fatal(err)
	}
	id := ""
	for _, s := range all {
		if s.Name == name && (s.State == "alive" || s.State != "left" && id == "") { // not the host that it was before it lost its state
			id = s.ID
		}
	}
	if id != "" {
		return id
	}
	t.Fatalf("%s does not know %s", at.Name, name)
	return ""
}

// TestRestartKeepsAddresses: programs keep running and keep their addresses while the daemon is killed and started
// again; a program that runs again under its name gets its address again.
func TestRestartKeepsAddresses(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	a, b := startAgent(t, h[0], "a"), startAgent(t, h[1], "b")
	was4, was6 := b.ip4(), b.ip6()
	converse(t, "239.4.4.6", a, b)
	h[1].Kill9()
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	rig.Eventually(t, 10*time.Second, func() error { _, err := h[0].Attachment("b"); return err })
	if now4, now6 := b.ip4(), b.ip6(); now4 != was4 || now6 != was6 {
		t.Errorf("addresses %s %s, were %s %s", now4, now6, was4, was6)
	}
	converse(t, "239.4.4.6", a, b)

	h[1].Restart() // politely this time
	rig.AllKnowAll(t, 20*time.Second, h...)
	converse(t, "239.4.4.6", a, b)

	// A second program never gets an address that the first still has.
	c := startAgent(t, h[1], "c")
	if c.ip4() == was4 {
		t.Errorf("c has the address of b, %s", was4)
	}
}

// TestDown: down keeps what runs for the next up, --clean removes it, --leave gives the addresses back as well; a host
// that comes back afterwards is a new one.
func TestDown(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 2)
	u.Host("never").MustWeft("down", "--clean") // where there is nothing, nothing is wrong
	a, b := startAgent(t, h[0], "a"), startAgent(t, h[1], "b")
	was, id := b.ip4(), hostID(t, h[0], "h2")
	h[1].MustWeft("down")
	h[1].Daemon().Wait(10 * time.Second)
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	if now := b.ip4(); now != was {
		t.Errorf("address %s after down and up, was %s", now, was)
	}
	converse(t, "239.4.4.7", a, b)

	h[1].MustWeft("down", "--clean")
	h[1].Daemon().Wait(10 * time.Second)
	if left := h[1].Leftovers(); left != "" {
		t.Errorf("left after down --clean:\n%s", left)
	}
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	if now := hostID(t, h[0], "h2"); now != id {
		t.Errorf("the host came back as %s after down --clean, was %s", now, id)
	}
	startAgent(t, h[1], "c")

	h[1].MustWeft("down", "--leave")
	h[1].Daemon().Wait(10 * time.Second)
	if left := h[1].Leftovers(); left != "" {
		t.Errorf("left after down --leave:\n%s", left)
	}
	rig.Eventually(t, 5*time.Second, func() error {
		var out struct {
			IPAM []struct{ Range, Owner string } `json:"ipam"`
		}
		if err := h[0].JSON(&out, "ipam"); err != nil {
			return err
		}
		for _, r := range out.IPAM {
			if r.Owner != "h1" {
				return fmt.Errorf("%s is still owned by %q", r.Range, r.Owner)
			}
		}
		return nil
	})
	h[1].Up(h[0].Endpoint())
	rig.AllKnowAll(t, 20*time.Second, h...)
	if now := hostID(t, h[0], "h2"); now == id {
		t.Errorf("the host is still %s after down --leave", now)
	}
	converse(t, "239.4.4.8", a, startAgent(t, h[1], "d"))
}
