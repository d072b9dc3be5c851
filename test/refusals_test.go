package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// refused checks that a command failed with a code and an explanation that names what it should, and did not panic.
func refused(t *testing.T, r rig.Result, code int, names ...string) {
	t.Helper()
	if r.Code != code {
		t.Errorf("exit %d, want %d\n%s%s", r.Code, code, r.Stdout, r.Stderr)
	}
	if strings.Contains(r.Stderr, "goroutine ") || strings.Contains(r.Stderr, "panic") {
		t.Errorf("it panicked:\n%s", r.Stderr)
	}
	for _, n := range names {
		if !regexp.MustCompile(`(?i)` + n).MatchString(r.Stderr) {
			t.Errorf("the error does not say %q:\n%s", n, r.Stderr)
		}
	}
}

// TestBadInput: what cannot be meant is refused with 2 and names the culprit; what cannot be done, with 1.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	h := w.Cloud().Host("h1")
	for _, c := range []struct {
		code int
		say  string
		args []string
	}{
		{2, "frobnicate", []string{"frobnicate"}},
		{2, "colour", []string{"status", "--colour"}},
		{2, "range", []string{"up", "--range", "10.32.0.0"}},
		{2, "range", []string{"up", "--range", "10.32.0.0/31"}},
		{2, "range", []string{"up", "--range", "224.0.0.0/8"}},
		{2, "mtu", []string{"up", "--mtu", "1279"}},
		{2, "mtu", []string{"up", "--mtu", "9001"}},
		{2, "port", []string{"up", "--port", "70000"}},
		{2, "name", []string{"up", "--name", "Not A Name"}},
		{2, "token", []string{"up", "h2", "--token", "weft1abc"}},
		{2, "advertise", []string{"up", "--advertise", "nowhere at all"}},
		{1, "no-such-file", []string{"up", "h2", "--token-file", "/no-such-file"}},
		{125, "COMMAND", []string{"run"}}, // its own errors are not those of the command
		{2, "239.1.2.3", []string{"chat", "239.1.2.3"}},
		{2, "10.0.0.1", []string{"chat", "10.0.0.1:1234"}},
		{2, "ff15", []string{"send", "ff15::1:1234"}},
		{2, "", []string{"recv"}},
		{1, "weft up", []string{"status"}},
		{125, "weft up", []string{"run", "--", "true"}},
		{1, "weft up", []string{"groups", "--json"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) { refused(t, h.Weft(c.args...), c.code, c.say) })
	}
	if left := h.Leftovers(); left != "" {
		t.Errorf("refusals left:\n%s", left)
	}

	h.Up()
	for _, c := range []struct {
		code int
		say  string
		args []string
	}{
		{2, "subnet", []string{"network", "create", "blue", "--subnet", "10.40.0.0/99"}},
		{2, "Bad_Name", []string{"network", "create", "Bad_Name"}},
		{125, "nothere", []string{"run", "--network", "nothere", "--", "true"}},
		{125, "9.9.9.9", []string{"run", "--ip", "9.9.9.9", "--", "true"}},
		{127, "no-such-program", []string{"run", "--", "no-such-program"}},
		{126, "/etc/passwd", []string{"run", "--", "/etc/passwd"}},
		{7, "", []string{"run", "--", "sh", "-c", "exit 7"}},
		{137, "", []string{"run", "--", "sh", "-c", "kill -9 $$"}},
		{1, "already", []string{"up"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			refused(t, h.Weft(c.args...), c.code, c.say)
		})
	}
	if !h.Daemon().Running() {
		t.Errorf("weft up ended: %v", h.Daemon().Errors())
	}
}

// TestRangeOverlap: a range that hides a route of the host is refused, and --force goes on.
func TestRangeOverlap(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	h := w.Cloud().Host("h1")
	h.MustExec("ip", "route", "add", "10.40.0.0/16", "via", "10.77.1.1")
	refused(t, h.Weft("up"), 1, `10\.40\.0\.0/16`, `--range|--force`)
	if left := h.Leftovers(); left != "" {
		t.Errorf("the refused start left:\n%s", left)
	}
	h.Up("--force")
	if r := h.Weft("down"); r.Code != 0 {
		t.Errorf("weft down: %d %s", r.Code, r.Stderr)
	}
	h.Daemon().Wait(10 * time.Second)
	h.Up("--range", "10.64.0.0/12") // wider routes, the default route among them, do not count
}

// TestRangeOverlapOfJoiner: a host whose route the cluster's range hides does not join: it is told, and keeps nothing; with
// the route gone the same command joins.
func TestRangeOverlapOfJoiner(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	h1.Up()
	h2.MustExec("ip", "route", "add", "10.40.0.0/16", "via", "10.77.2.1")
	p := h2.Launch(h1.Endpoint())
	if code := p.Wait(15 * time.Second); code != 1 {
		t.Errorf("weft up ended with code %d, want 1", code)
	}
	if all := strings.Join(p.Errors(), "\n"); !regexp.MustCompile(`10\.32\.0\.0/12 overlaps the route 10\.40\.0\.0/16.*take the route away.*--force`).MatchString(all) {
		t.Errorf("weft up said\n%s", all)
	}
	if left := h2.Leftovers(); left != "" {
		t.Errorf("the refused start left:\n%s", left)
	}
	h2.MustExec("ip", "route", "del", "10.40.0.0/16")
	h2.Up(h1.Endpoint())
	rig.AllKnowAll(t, 15*time.Second, h1, h2)
}

// TestWrongToken: a joiner with another secret is told so within seconds, founds nothing, and the member stays silent and
// counts it.
func TestWrongToken(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2, h3 := u.Host("h1"), u.Host("h2"), u.Host("h3")
	h1.Up()
	good := w.Token()
	h2.Up() // a cluster of its own, for a token that is right in form
	other := strings.TrimSpace(h2.MustWeft("token"))
	if other == good || !strings.HasPrefix(other, "weft1") {
		t.Fatalf("tokens %q and %q", good, other)
	}
	c := u.Capture(h3)
	p := h3.Launch(h1.Endpoint(), "--token", other)
	rig.Eventually(t, 12*time.Second, func() error {
		if all := strings.Join(p.Errors(), "\n"); !strings.Contains(all, "not this token") {
			return &silence{all}
		}
		return nil
	})
	c.Stop()
	if n := c.Count("udp and src host " + h1.IP.String()); n != 0 {
		t.Errorf("the member answered a wrong secret with %d datagrams", n)
	}
	var seen struct {
		Strangers []struct {
			Source    string `json:"source"`
			BadSecret int    `json:"bad_secret"`
		} `json:"strangers"`
	}
	if err := h1.JSON(&seen, "hosts"); err != nil {
		t.Fatal(err)
	}
	if len(seen.Strangers) != 1 || !strings.HasPrefix(seen.Strangers[0].Source, h3.IP.String()) || seen.Strangers[0].BadSecret < 2 {
		t.Errorf("the member counts %+v, want tries of %s", seen.Strangers, h3.IP)
	}
	for _, line := range append(p.Lines(), p.Errors()...) {
		if strings.Contains(line, other) || strings.Contains(line, good) {
			t.Errorf("a token stands in the output: %q", line)
		}
	}
	if err := h1.KnowsAlive(h3); err == nil {
		t.Error("h1 admitted a host with a wrong token")
	}
	if cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID()), "cmdline")); err != nil || strings.Contains(string(cmdline), other) {
		t.Errorf("the token stands in argv (%v)", err)
	}
}

type silence struct{ said string }

func (s *silence) Error() string {
	return "the joiner does not say that the token is wrong:\n" + s.said
}

// TestOtherCluster: a host of one cluster that is told to join another is refused and stays what it was.
func TestOtherCluster(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2, h3 := u.Host("h1"), u.Host("h2"), u.Host("h3")
	rig.Found(t, h1, h2)
	first := w.Token()
	h3.Up()
	third := strings.TrimSpace(h3.MustWeft("token"))
	h3.Daemon().Stop(10 * time.Second)
	refused(t, h3.Weft("up", h1.Endpoint(), "--token", first), 1, "cluster")
	h3.Up()
	if now := strings.TrimSpace(h3.MustWeft("token")); now != third {
		t.Error("the refused join changed the host's cluster")
	}
	// Running hosts of two clusters that are introduced to each other: no link is made and none is cut.
	h3.Weft("connect", h1.Endpoint())
	rig.During(t, 2*time.Second, func() error { return h1.KnowsAlive(h1, h2) })
	if err := h1.KnowsAlive(h3); err == nil {
		t.Error("hosts of two clusters are one now")
	}
}

// TestDuplicateName: the later of two hosts with one name is refused, with the fix.
func TestDuplicateName(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2, h3 := u.Host("h1"), u.Host("h2"), u.Host("h3")
	rig.Found(t, h1, h2)
	id := hostID(t, h1, "h2")
	p := h3.Launch(h1.Endpoint(), "--name", "h2")
	if code := p.Wait(20 * time.Second); code != 1 {
		t.Errorf("exit %d, want 1", code)
	}
	if all := strings.Join(p.Errors(), "\n"); !strings.Contains(all, "h2") || !strings.Contains(all, "--name") {
		t.Errorf("the error does not name the host and the fix:\n%s", all)
	}
	if now := hostID(t, h1, "h2"); now != id {
		t.Errorf("h2 is %s now, was %s", now, id)
	}
	if err := h1.KnowsAlive(h1, h2); err != nil {
		t.Error(err)
	}
}
