package test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// The times of leases, and the same with seconds for minutes.
const (
	leaseTimes = `	RenewEvery = 30 * time.Second
	HurryEvery = time.Second / 4  // while a majority is missing
	ServeFor   = 10 * time.Minute // since a majority renewed
	GoneAfter  = 15 * time.Minute // since the holder asked last
	SettleTime = 2 * time.Minute  // that an elector must have seen a majority of electors for, before it votes
	TermEvery  = time.Minute      // between two proposals
`
	shortTimes = `	RenewEvery = time.Second
	HurryEvery = time.Second / 4
	ServeFor   = 10 * time.Second
	GoneAfter  = 15 * time.Second
	SettleTime = 5 * time.Second
	TermEvery  = time.Second
`
)

// TestEphemeral: hosts that come and go, in a weft whose leases count seconds for minutes. They own no addresses, and programs on them
// talk like others; they keep their addresses when killed and started again. One that leaves gives back what it had at once. One that is
// cut off takes no more addresses after 10 s and carries nothing, and says why; nobody else is given its address until it is
// counted as gone, after 15 s, by the others alone; the token stays as it was. What such a host cannot do is refused with the fix.
func TestEphemeral(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	var h []*rig.Host
	for i := range 5 {
		h = append(h, u.Host(fmt.Sprintf("h%d", i+1)))
	}
	h[0].Altered("internal/lease/lease.go", leaseTimes, shortTimes)
	for _, x := range h[1:] {
		x.Runs(h[0].WeftPath())
	}
	refused(t, h[3].Weft("up", "--ephemeral", "--name", "h4"), 2, "found a cluster", "leave it out here")
	rig.Found(t, h[:3]...)
	token := h[0].MustWeft("token")
	for _, x := range h[3:] {
		x.Up(h[0].Endpoint(), "--ephemeral")
	}
	rig.AllKnowAll(t, 15*time.Second, h...)

	web := sleeper(t, h[3], "web")
	other := sleeper(t, h[4], "other")
	stay := sleeper(t, h[0], "stay")
	for _, x := range []struct {
		at *rig.Host
		to string
	}{{h[0], web}, {h[3], other}, {h[4], web}, {h[4], stay}} {
		rig.Eventually(t, 15*time.Second, func() error { return reached(x.at, x.to) })
	}
	var hosts struct {
		Hosts []struct {
			Name      string
			Ephemeral bool
		}
	}
	for _, at := range []*rig.Host{h[0], h[3]} {
		if err := at.JSON(&hosts, "hosts"); err != nil {
			t.Fatal(err)
		}
		for _, x := range hosts.Hosts {
			if want := x.Name == "h4" || x.Name == "h5"; x.Ephemeral != want {
				t.Errorf("%s says that %s comes and goes: %v", at.Name, x.Name, x.Ephemeral)
			}
		}
		if out := at.MustWeft("ipam"); strings.Contains(out, "h4") || strings.Contains(out, "h5") {
			t.Errorf("a host that comes and goes owns addresses:\n%s", out)
		}
	}
	refused(t, h[3].Weft("network", "create", "mine"), 1, "network mine", "on a host that stays")
	h[0].MustWeft("network", "create", "mine")
	rig.Eventually(t, 10*time.Second, func() error {
		return ended(h[3].Weft("run", "--network", "mine", "--name", "probe", "--", "true"))
	})

	h[3].Kill9()
	h[3].Restart()
	rig.AllKnowAll(t, 15*time.Second, h...)
	if a, err := h[3].Attachment("web"); err != nil || !strings.HasPrefix(a.IPs[0], web+"/") {
		t.Fatalf("after a restart web has %v, want %s (%v)", a.IPs, web, err)
	}
	rig.Eventually(t, 15*time.Second, func() error { return reached(h[4], web) })
	refused(t, h[0].Weft("run", "--ip", web, "--name", "thief", "--", "true"), 125, "in use by web")

	h[4].MustWeft("down", "--leave")
	h[0].MustWeft("run", "--ip", other, "--name", "next", "--", "true")

	u.Cut(h[3])
	rig.Eventually(t, 30*time.Second, func() error {
		r := h[3].Weft("status")
		if !strings.Contains(r.Stdout+r.Stderr, "has not renewed its lease") {
			return fmt.Errorf("cut off, and no word of it:\n%s", r.Stdout)
		}
		return nil
	})
	refused(t, h[3].Weft("run", "--name", "more", "--", "true"), 125, "renewed its lease", "h1, h2, h3 not heard")
	rig.Eventually(t, 60*time.Second, func() error {
		return ended(h[0].Weft("run", "--ip", web, "--name", "heir", "--", "true"))
	})
	names, err := h[1].Hosts()
	if err != nil || slices.ContainsFunc(names, func(s rig.HostStatus) bool { return s.Name == "h4" }) {
		t.Errorf("h4 is gone, and listed: %v, %v", names, err)
	}
	if again := h[0].MustWeft("token"); again != token {
		t.Error("the token changed when a host that comes and goes was gone")
	}
	u.Heal()
	rig.Eventually(t, 30*time.Second, func() error {
		if s, err := h[3].Status(); err != nil || s.State != "removed" {
			return fmt.Errorf("h4 is %s: %s, %w", s.State, s.Reason, err)
		}
		return nil
	})
	h[3].MustWeft("down", "--clean")
	if err := os.RemoveAll(h[3].StateDir()); err != nil {
		t.Fatal(err)
	}
	h[3].Up(h[0].Endpoint(), "--ephemeral")
	rig.AllKnowAll(t, 15*time.Second, h[:4]...)
	sleeper(t, h[3], "web")
}

// sleeper starts a program that does nothing, and returns its IPv4 address.
func sleeper(t *testing.T, at *rig.Host, name string) string {
	t.Helper()
	at.Run(name, "sleep", "600")
	return address(t, at, name)
}

// address waits until a host knows an attachment, and returns its IPv4 address.
func address(t *testing.T, at *rig.Host, name string) (ip string) {
	t.Helper()
	rig.Eventually(t, 20*time.Second, func() error {
		a, err := at.Attachment(name)
		if err == nil {
			ip, _, _ = strings.Cut(a.IPs[0], "/")
		}
		return err
	})
	return ip
}

// reached pings an address from a program that is started on a host for it.
func reached(at *rig.Host, to string) error {
	return ended(at.Weft("run", "--name", "pinger", "--", "ping", "-n", "-c", "1", "-W", "1", to))
}

// ended is an error unless a command ended well.
func ended(r rig.Result) error {
	if r.Code != 0 {
		return fmt.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	return nil
}
