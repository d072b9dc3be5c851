package test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestHostRemoved: removing a host says what is known to be in use there, dead or alive. One that runs on is told: by whom it
// was removed, and the way back. It gives no addresses out any more; what is attached stays; with a new state directory it
// is a host like others again. What it had is given out by others.
func TestHostRemoved(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 4)
	h[2].Run("web", "sleep", "600")
	h[3].Run("db", "sleep", "600")
	web, db := address(t, h[0], "web"), address(t, h[0], "db")

	out := h[0].MustWeft("host", "rm", "h3")
	if !strings.Contains(out, web+" web") || strings.Contains(out, "db") {
		t.Errorf("what is in use on h3, %s web and nothing else, is not said:\n%s", web, out)
	}
	rig.Eventually(t, 20*time.Second, func() error {
		// It gives nothing any more before it knows by whom it was removed, and says why all the same.
		if r := h[2].Weft("run", "--name", "early", "--", "true"); r.Code != 0 && !strings.Contains(r.Stderr, "removed from the cluster") {
			t.Errorf("refused without the reason: %s", r.Stderr)
		}
		s, err := h[2].Status()
		if err != nil {
			return err
		}
		if s.State != "removed" || !strings.Contains(s.Reason, "removed from the cluster by host h1") || !strings.Contains(s.Reason, "join with the present token") {
			return fmt.Errorf("h3 is %s: %s", s.State, s.Reason)
		}
		return nil
	})
	refused(t, h[2].Weft("status"), 3, "no member any more", "by host h1")
	refused(t, h[2].Weft("run", "--name", "more", "--", "true"), 125, "removed from the cluster by host h1", "present token")
	if log := strings.Join(h[2].Daemon().Errors(), "\n"); !strings.Contains(log, "this host was removed from the cluster") {
		t.Error("the log of h3 does not say that it was removed")
	}
	if _, err := h[2].Attachment("web"); err != nil {
		t.Errorf("what was attached on h3 is gone: %v", err)
	}

	h[3].Kill9()
	rig.Eventually(t, 20*time.Second, func() error {
		if h[0].KnowsAlive(h[3]) == nil {
			return fmt.Errorf("h4 is still alive for h1")
		}
		return nil
	})
	if out := h[0].MustWeft("host", "rm", "h4"); !strings.Contains(out, db+" db") {
		t.Errorf("what was in use on h4, which is dead, is not said (%s db):\n%s", db, out)
	}
	// The share of both has owners again: every address of the network is of h1 or h2.
	rig.Eventually(t, 30*time.Second, func() error {
		var v struct {
			IPAM []struct{ Range, Owner, Network string }
		}
		if err := h[1].JSON(&v, "ipam"); err != nil {
			return err
		}
		for _, r := range v.IPAM {
			if r.Owner != "h1" && r.Owner != "h2" {
				return fmt.Errorf("%s is of %q", r.Range, r.Owner)
			}
		}
		return nil
	})

	// The way back.
	h[2].Daemon().Stop(10 * time.Second)
	h[2].MustWeft("down", "--clean")
	if err := os.RemoveAll(h[2].StateDir()); err != nil {
		t.Fatal(err)
	}
	h[2].Up(h[0].Endpoint(), "--token", strings.TrimSpace(h[0].MustWeft("token")))
	rig.AllKnowAll(t, 20*time.Second, h[:3]...)
	if s, err := h[2].Status(); err != nil || s.State != "connected" {
		t.Errorf("back with a new state directory, h3 is %s (%v)", s.State, err)
	}
}
