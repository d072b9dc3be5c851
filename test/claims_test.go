package test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// loseState kills a host's daemon and empties its state directory.
func loseState(t *testing.T, h *rig.Host) {
	t.Helper()
	h.Kill9()
	all, err := os.ReadDir(h.StateDir())
	if err != nil || len(all) == 0 {
		t.Fatalf("%s has no state to lose: %v", h.Name, err)
	}
	for _, e := range all {
		if err := os.RemoveAll(filepath.Join(h.StateDir(), e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitDead waits until a host counts as dead on others: before, its name is taken.
func awaitDead(t *testing.T, h *rig.Host, others ...*rig.Host) {
	t.Helper()
	for _, at := range others {
		awaitDeadAt(t, h, at)
	}
}

func awaitDeadAt(t *testing.T, h, at *rig.Host) {
	t.Helper()
	rig.Eventually(t, 40*time.Second, func() error {
		hosts, err := at.Hosts()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(hosts, func(s rig.HostStatus) bool { return s.Name == h.Name && (s.State == "alive" || s.State == "suspect") }) {
			return fmt.Errorf("%s still counts %s as alive", at.Name, h.Name)
		}
		return nil
	})
}

// TestAddressesClaimed: a host that is killed and loses its state directory while programs run comes back by the token under a new
// HostID, finds what is plugged in, and claims the addresses: programs keep them and talk on, in a second network too; nobody else is
// given one of them, neither while the host that it was is dead nor after that was removed and another host took over its share. An address
// that was given to somebody else meanwhile is that one's: the attachment is taken off the network, and told, with the fix.
func TestAddressesClaimed(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 3)
	lost := h[2]
	h[0].MustWeft("network", "create", "lab")
	a, b, late := startAgent(t, h[0], "a"), startAgent(t, lost, "b"), startAgent(t, lost, "late")
	inlab := startAgent(t, lost, "inlab", "--network", "lab")
	was, wasLate, wasLab := b.ip4(), late.ip4(), inlab.ip4()
	converse(t, "239.4.5.1", a, b)
	id := hostID(t, h[0], lost.Name)

	loseState(t, lost)
	awaitDead(t, lost, h[:2]...)
	refused(t, h[0].Weft("run", "--ip", was, "--", "true"), 125, "in use by b")
	lost.Up(h[0].Endpoint())
	rig.AllKnowAll(t, 20*time.Second, h...)
	if now := hostID(t, h[0], lost.Name); now == id {
		t.Fatal("the host came back as it was: it lost nothing")
	}
	for _, x := range []struct{ name, ip string }{{"b", was}, {"late", wasLate}, {"inlab", wasLab}} {
		rig.Eventually(t, 15*time.Second, func() error {
			s, err := h[0].Attachment(x.name)
			if err == nil && !slices.ContainsFunc(s.IPs, func(p string) bool { return strings.HasPrefix(p, x.ip+"/") }) {
				err = fmt.Errorf("%s has %v, want %s", x.name, s.IPs, x.ip)
			}
			return err
		})
	}
	converse(t, "239.4.5.1", a, b)
	c := startAgent(t, lost, "c")
	if got := c.ip4(); got == was || got == wasLate {
		t.Fatalf("c was given %s, which is in use", got)
	}
	converse(t, "239.4.5.2", b, c)

	// Removed: an heir has the addresses, and does not give those in use to anybody; it hands them to who uses them.
	h[0].MustWeft("host", "rm", id)
	rig.Eventually(t, 40*time.Second, func() error {
		if owner := ownerOf(t, h[0], "weft", was); owner != lost.Name {
			return fmt.Errorf("%s is owned by %q", was, owner)
		}
		return nil
	})
	refused(t, h[0].Weft("run", "--ip", was, "--", "true"), 125, "in use by b")
	converse(t, "239.4.5.1", a, b)

	// Once more, and now another host is given an address before the host is back.
	id = hostID(t, h[0], lost.Name)
	token := strings.TrimSpace(h[0].MustWeft("token"))
	loseState(t, lost)
	awaitDead(t, lost, h[:2]...)
	h[0].MustWeft("host", "rm", id)
	token2 := strings.TrimSpace(h[0].MustWeft("token"))
	if token2 == token {
		t.Error("the token was not rotated")
	}
	rig.Eventually(t, 40*time.Second, func() error {
		if owner := ownerOf(t, h[0], "weft", wasLate); owner != h[0].Name && owner != h[1].Name {
			return fmt.Errorf("%s is owned by %q", wasLate, owner)
		}
		return nil
	})
	taker := startAgent(t, h[0], "taker", "--ip", wasLate)
	lost.Up(h[0].Endpoint(), "--token", token2)
	rig.AllKnowAll(t, 20*time.Second, h...)
	told := regexp.MustCompile(`late in network weft had the address ` + regexp.QuoteMeta(wasLate) + `, which taker on host h1 was given .*end it and start it again`)
	rig.Eventually(t, 15*time.Second, func() error {
		if out := lost.Weft("status").Stdout; !told.MatchString(strings.Join(strings.Fields(out), " ")) {
			return fmt.Errorf("not told:\n%s", out)
		}
		return nil
	})
	if _, err := lost.Attachment("late"); err == nil {
		t.Error("late is still attached")
	}
	rig.Eventually(t, 15*time.Second, func() error { _, err := h[0].Attachment("b"); return err })
	converse(t, "239.4.5.3", b, taker)
	if got := b.ip4(); got != was {
		t.Errorf("b has %s, had %s", got, was)
	}
}

// ownerOf returns the host whose share an address is in.
func ownerOf(t *testing.T, at *rig.Host, network, ip string) string {
	t.Helper()
	var out struct {
		IPAM []struct{ Network, Owner, Range string } `json:"ipam"`
	}
	if err := at.JSON(&out, "ipam"); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.IPAM {
		first, last, _ := strings.Cut(r.Range, "-")
		if r.Network == network && !lessIP(t, ip, first) && !lessIP(t, last, ip) {
			return r.Owner
		}
	}
	return ""
}

func lessIP(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return x.Less(y)
}
