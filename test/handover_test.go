package test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/snapshot"
	"github.com/weft-net/weft/internal/wire"
	"github.com/weft-net/weft/test/rig"
)

// flows are a ping each way, a TCP stream and a multicast stream between attachments of hosts, for some seconds.
type flows struct {
	t       *testing.T
	pings   []*rig.Process
	listen  *rig.Process
	send    *rig.Process
	from    *agent
	to      []*agent
	text    string
	pinged  int
	rate    int // multicast datagrams a second
	count   int
	seconds int
}

const (
	flowGroup = "239.8.8.8"
	mayLose   = 5 // of a ping each 10 ms
	mayPause  = 50 * time.Millisecond
)

// startFlows starts all flows between agents on different hosts: the first sends, and all others hear it.
func startFlows(t *testing.T, seconds int, agents ...*agent) *flows {
	t.Helper()
	return startFlowsIn(t, "weft", seconds, agents...)
}

// startFlowsIn is startFlows in a network.
func startFlowsIn(t *testing.T, network string, seconds int, agents ...*agent) *flows {
	t.Helper()
	attached := func(h *rig.Host, name string, cmd ...string) *rig.Process {
		return h.RunWith([]string{"--name", name, "--network", network}, cmd...)
	}
	f := &flows{t: t, from: agents[0], to: agents[1:], text: fmt.Sprintf("rtp%d", time.Now().UnixNano()), pinged: 100 * seconds, rate: 500, seconds: seconds}
	f.count = f.rate * seconds
	a, b := agents[0], agents[1]
	for _, x := range f.to {
		x.do("join %s", flowGroup)
	}
	rig.AwaitMembers(t, 10*time.Second, a.host, flowGroup, len(f.to))
	id := strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
	f.listen = attached(b.host, "listen-"+id, python, script(t, "stream.py"), "listen", "5001")
	f.listen.ExpectLine("^ready$", 10*time.Second)
	listener := &agent{Process: f.listen, t: t, host: b.host, name: "listen-" + id}
	f.send = attached(a.host, "send-"+id, python, script(t, "stream.py"), "send", listener.ip4(), "5001", strconv.Itoa(seconds))
	f.send.ExpectLine("^ready$", 10*time.Second)
	for _, p := range [][2]*agent{{a, b}, {b, a}} {
		p := attached(p[0].host, "ping-"+id, "ping", "-i", "0.01", "-c", strconv.Itoa(f.pinged), "-W", "1", p[1].ip4())
		p.ExpectLine("icmp_seq=", 10*time.Second)
		f.pings = append(f.pings, p)
	}
	f.from.do("flow %s %d %d 200 %s", flowGroup, f.count, seconds, f.text)
	f.to[0].awaitGot(f.text+"-1", 5*time.Second)
	return f
}

// check waits for the end of the flows and holds them to what an upgrade may cost.
func (f *flows) check() {
	t := f.t
	t.Helper()
	limit := time.Duration(f.seconds+20) * time.Second
	for _, p := range f.pings {
		p.Wait(limit)
		seen := map[string]int{}
		for _, l := range p.Lines() {
			if _, after, ok := strings.Cut(l, "icmp_seq="); ok && strings.Contains(l, "time=") {
				seen[strings.Fields(after)[0]]++
			}
		}
		lost := f.pinged - len(seen)
		t.Logf("%s: %d of %d lost", p, lost, f.pinged)
		for i := range f.pinged {
			if lost > 0 && seen[strconv.Itoa(i+1)] == 0 {
				t.Logf("lost: %d", i+1)
			}
		}
		if lost > mayLose {
			t.Errorf("%s: %d of %d lost, at most %d may be", p, lost, f.pinged, mayLose)
		}
		for seq, n := range seen {
			if n > 1 {
				t.Errorf("%s: the answer to %s came %d times", p, seq, n)
			}
		}
	}
	sent := strings.Fields(f.send.ExpectLine("^sent ", limit))
	got := strings.Fields(f.listen.ExpectLine("^got ", limit))
	if sent[1] != got[1] || sent[2] != got[2] {
		t.Errorf("TCP: sent %v, got %v", sent[1:], got[1:])
	}
	t.Logf("TCP: %s bytes, longest silence %s ms", got[1], got[3])
	f.from.ExpectLine("^flowed "+f.text, limit)
	for _, a := range f.to {
		var distinct, all int
		least := f.count - int(mayPause.Seconds()*float64(f.rate))
		_ = rig.Poll(3*time.Second, func() error {
			if distinct, all = a.flowed(f.text); distinct < f.count {
				return fmt.Errorf("%d", distinct)
			}
			return nil
		})
		t.Logf("multicast at %s: %d of %d", a.name, distinct, f.count)
		if distinct < least || all != distinct {
			t.Errorf("multicast at %s: %d of %d, %d of them duplicates; at least %d must come, and none twice", a.name, distinct, f.count, all-distinct, least)
		}
		a.do("leave %s", flowGroup)
	}
}

// hellos counts the handshakes begun that a capture saw.
func hellos(c *rig.Capture) int {
	return c.Count(fmt.Sprintf("ip and udp port 6783 and udp[8] = %d", wire.TypeHello))
}

// upgrade hands a host over to another binary and checks that status says so.
func upgrade(t *testing.T, h *rig.Host, bin string, args ...string) {
	t.Helper()
	was, err := h.Status()
	if err != nil {
		t.Fatal(err)
	}
	h.Upgrade(bin, args...)
	s, err := h.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.HandedOver == nil || s.HandedOver.Version != was.Version || s.PID != h.Daemon().PID() {
		t.Fatalf("%s: not handed over by %s: %+v", h.Name, was.Version, s)
	}
	t.Logf("%s: %s after %s, frames waited %.1f ms", h.Name, s.Version, s.HandedOver.Version, s.HandedOver.PauseMS)
}

// steady checks that the log of a daemon tells of nothing that happened to other hosts since a line count.
func steady(t *testing.T, h *rig.Host, since int) {
	t.Helper()
	for _, l := range h.Daemon().Errors()[since:] {
		for _, bad := range []string{"link up", "link down", "state=dead", "state=gone", "another endpoint", "level=ERROR", "goroutine "} {
			if strings.Contains(l, bad) {
				t.Errorf("%s noticed: %s", h.Name, l)
			}
		}
	}
}

// TestHandoverKeepsTraffic: one host after the other is upgraded, and back, under load, in the middle of a ping each
// 10 ms in both directions, a TCP stream and a multicast stream. Nobody notices: no handshake, no link that goes down.
func TestHandoverKeepsTraffic(t *testing.T) {
	one, two := rig.Version(t, "v1.0.0-one"), rig.Version(t, "v1.0.0-two")
	u, h := cloud(t, 3)
	agents := []*agent{startAgent(t, h[0], "a1"), startAgent(t, h[1], "a2"), startAgent(t, h[2], "a3")}
	rounds := []*rig.Host{h[0], h[1], h[2], h[0], h[0], h[1]}
	f := startFlows(t, 9, agents...)
	since := map[*rig.Host]int{}
	for _, host := range h {
		since[host] = len(host.Daemon().Errors())
	}
	captures := []*rig.Capture{u.Capture(h[0]), u.Capture(h[1])}
	for round, host := range rounds {
		upgrade(t, host, []string{two, two, two, one, two, one}[round])
		since[host] = 0
		rig.Pause(t, 200*time.Millisecond)
	}
	f.check()
	for _, host := range h {
		steady(t, host, since[host])
	}
	for i, c := range captures {
		c.Stop()
		if n := hellos(c); n != 0 {
			t.Errorf("%d handshakes at %s", n, h[i].Name)
		}
	}
	// Others hear of the version, and all is as it was: attachments, addresses, groups.
	rig.AllKnowAll(t, 20*time.Second, h...)
	rig.Eventually(t, 10*time.Second, func() error {
		all, err := h[2].Hosts()
		for _, s := range all {
			if want := map[string]string{"h1": "v1.0.0-two", "h2": "v1.0.0-one", "h3": "v1.0.0-two"}[s.Name]; s.Version != want {
				err = fmt.Errorf("%s runs %s, want %s", s.Name, s.Version, want)
			}
		}
		return err
	})
	if out := h[0].MustWeft("status"); !strings.Contains(out, "handed over by v1.0.0-one") {
		t.Errorf("weft status does not say it:\n%s", out)
	}
	converse(t, "239.8.8.9", agents...)
	converse(t, "239.8.8.10", startAgent(t, h[0], "new"), agents[2])
}

// TestHandoverBehindRelay: two hosts that reach each other through a third, and that third, are upgraded under load.
func TestHandoverBehindRelay(t *testing.T) {
	t.Parallel()
	two := rig.Version(t, "v1.0.0-two")
	u, h := cloud(t, 3)
	agents := []*agent{startAgent(t, h[1], "a2"), startAgent(t, h[2], "a3")}
	converse(t, "239.8.8.1", agents...)
	u.Block(h[1], h[2])
	rig.AwaitPath(t, 15*time.Second, h[1], h[2], "relayed")
	rig.AwaitPath(t, 15*time.Second, h[2], h[1], "relayed")
	f := startFlows(t, 5, agents...)
	since := len(h[2].Daemon().Errors())
	for _, host := range h[:2] {
		upgrade(t, host, two)
		rig.Pause(t, 500*time.Millisecond)
	}
	f.check()
	steady(t, h[2], since)
	steady(t, h[1], 0)
	steady(t, h[0], 0)
	if l, err := h[1].Link("h3"); err != nil || l.Path != "relayed" || l.Via != "h1" || l.Reason == "" {
		t.Errorf("the link is %+v, %v", l, err)
	}
	u.Unblock(h[1], h[2])
	rig.AwaitPath(t, 10*time.Second, h[1], h[2], "direct")
	converse(t, "239.8.8.2", agents...)
}

// TestHandoverRefused: a daemon of the same version keeps its place unless told otherwise; one of another cluster, state
// directory, port or network namespace keeps it in any case; and whoever was refused has changed nothing.
func TestHandoverRefused(t *testing.T) {
	t.Parallel()
	two := rig.Version(t, "v1.0.0-two")
	u, h := cloud(t, 2)
	a, b := startAgent(t, h[0], "a"), startAgent(t, h[1], "b")
	pid := h[0].Daemon().PID()
	refused(t, h[0].Weft("up"), 1, "already running", "--replace", "pid "+strconv.Itoa(pid))
	refused(t, h[0].Weft("up", "--detach"), 1, "already running", "--replace")
	other := u.Host("h3")
	other.Setenv("WEFT_RUN_DIR=" + h[0].RunDir())
	other.Runs(two)
	h[0].Runs(two)
	for _, c := range []struct {
		at   *rig.Host
		say  string
		args []string
	}{
		{h[0], "state is in", []string{"up", "--state-dir", t.TempDir()}},
		{h[0], "port 6783", []string{"up", "--port", "7000"}},
		{h[0], "cluster", []string{"up", "h2", "--token", ident.NewToken().Encode()}},
		{other, "network namespace", []string{"up", "--state-dir", h[0].StateDir()}},
	} {
		refused(t, c.at.Weft(append(c.args, "--replace")...), 1, "already running", c.say)
	}
	if s, err := h[0].Status(); err != nil || s.PID != pid {
		t.Errorf("%v, %v: want pid %d", s.PID, err, pid)
	}
	converse(t, "239.8.8.3", a, b)

	h[0].Runs(rig.Binary(t))
	upgrade(t, h[0], rig.Binary(t), "--replace")
	converse(t, "239.8.8.4", a, b)
}

// stalling builds a weft that hangs before it waits for the message of a kind (RIG_STALL) of a hand-over.
func stalling(h *rig.Host) {
	const line = "\tkind, body, files, err := c.Receive(snapshot.MaxMessage)\n"
	h.Altered("internal/daemon/handover.go", line, "\tif os.Getenv(\"RIG_STALL\") == fmt.Sprint(int(want)) {\n\t\tselect {}\n\t}\n"+line)
}

// TestHandoverKilled: the new daemon is killed at each step of a hand-over: until the last the old one goes on, and after
// it the next start is one like any. The old one is killed: the new one starts as after any kill. In all cases programs talk on.
func TestHandoverKilled(t *testing.T) {
	t.Parallel()
	two := rig.Version(t, "v1.0.0-two")
	_, h := cloud(t, 3)
	a, b := startAgent(t, h[0], "a"), startAgent(t, h[1], "b")
	converse(t, "239.8.8.5", a, b)
	victim := h[0]
	stalling(victim)
	stall := victim.WeftPath()

	old := victim.Daemon()
	for _, kind := range []snapshot.Kind{snapshot.KindOffer, snapshot.KindPlan, snapshot.KindState} {
		p := victim.Run("ping", "ping", "-i", "0.01", "-c", "150", "-W", "1", b.ip4())
		p.ExpectLine("icmp_seq=", 10*time.Second)
		victim.Setenv(fmt.Sprintf("RIG_STALL=%d", kind))
		heir := victim.Launch("--replace")
		rig.Pause(t, 500*time.Millisecond) // it hangs somewhere by then, at least 30 s
		heir.Kill9()
		p.Wait(20 * time.Second)
		if lost := 150 - p.Count("icmp_seq=.* time="); lost > mayLose {
			t.Errorf("killed before message %d: %d of 150 pings lost", kind, lost)
		}
		if s, err := victim.Status(); err != nil || s.PID != old.PID() || !old.Running() {
			t.Fatalf("killed before message %d: pid %d answers, %v; want the old one, %d", kind, s.PID, err, old.PID())
		}
		converse(t, "239.8.8.5", a, b)
	}
	// One that hangs with the keys in its hands: the old one takes them back, and frames have waited for 3 s. Their answers
	// come at once, and ping's own socket takes some 270.
	p := victim.Run("ping", "ping", "-i", "0.02", "-c", "300", "-W", "1", b.ip4())
	p.ExpectLine("icmp_seq=", 10*time.Second)
	victim.Setenv(fmt.Sprintf("RIG_STALL=%d", snapshot.KindState))
	heir := victim.Launch("--replace")
	rig.Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(strings.Join(old.Errors(), "\n"), "did not take the keys") {
			return fmt.Errorf("%s goes not on", old)
		}
		return nil
	})
	p.Wait(20 * time.Second)
	if lost := 300 - p.Count("icmp_seq=.* time="); lost > mayLose/2 { // at half the rate
		t.Errorf("hung: %d of 300 pings lost", lost)
	}
	converse(t, "239.8.8.5", a, b)
	heir.Kill9()

	// Past the point of no return the old one has ended; the next start is one like any.
	victim.Setenv(fmt.Sprintf("RIG_STALL=%d", snapshot.KindGo))
	heir = victim.Launch("--replace")
	if code := old.Wait(20 * time.Second); code != 0 {
		t.Errorf("the old daemon ended with code %d\n%s", code, strings.Join(old.Errors(), "\n"))
	}
	heir.Kill9()
	victim.Setenv()
	victim.Up()
	rig.AllKnowAll(t, 20*time.Second, h...)
	converse(t, "239.8.8.5", a, b)

	// The old one dies before the new one is ready, and with its keys told but not given up.
	for _, kind := range []snapshot.Kind{snapshot.KindReady, snapshot.KindAdopted} {
		victim.Setenv(fmt.Sprintf("RIG_STALL=%d", kind))
		upgrade(t, victim, stall, "--replace")
		old := victim.Daemon()
		victim.Setenv()
		victim.Runs(two)
		heir := victim.Launch()
		rig.Eventually(t, 10*time.Second, func() error {
			if !strings.Contains(strings.Join(old.Errors(), "\n"), "handing over") {
				return fmt.Errorf("%s has not begun", old)
			}
			return nil
		})
		rig.Pause(t, 300*time.Millisecond)
		old.Kill9()
		victim.AwaitRun(heir, 20*time.Second)
		if log := strings.Join(heir.Errors(), "\n"); !strings.Contains(log, "started anew") {
			t.Errorf("the new daemon does not say what happened:\n%s", log)
		}
		rig.AllKnowAll(t, 20*time.Second, h...)
		converse(t, "239.8.8.5", a, b)
	}
}

// TestHandoverOtherFormat: a daemon that would hand over what the new one cannot read is stopped, and the new one starts as
// after any stop, in the same call; it says so in one line.
func TestHandoverOtherFormat(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	a, b := startAgent(t, h[0], "a"), startAgent(t, h[1], "b")
	converse(t, "239.8.8.6", a, b)
	h[0].Altered("internal/snapshot/snapshot.go", "const Format = 1\n", "const Format = 2\n")
	h[0].Upgrade(h[0].WeftPath(), "--replace")
	if s, err := h[0].Status(); err != nil || s.HandedOver != nil {
		t.Errorf("%+v, %v", s, err)
	}
	if log := h[0].Daemon().Errors(); len(log) == 0 || !strings.Contains(log[0], "another format") {
		t.Errorf("it is not said first:\n%s", strings.Join(log, "\n"))
	}
	rig.AllKnowAll(t, 20*time.Second, h...)
	converse(t, "239.8.8.6", a, b)
}

// TestHandoverPlain: a plain network's frames never stop, on a host that has no attachment in a sealed one; in the
// background, and under systemd, which hears who the daemon is now.
func TestHandoverPlain(t *testing.T) {
	t.Parallel()
	two := rig.Version(t, "v1.0.0-two")
	_, h := cloud(t, 3)
	h[0].MustWeft("network", "create", "open", "--plain")
	var agents []*agent
	for i, host := range h {
		rig.Eventually(t, 5*time.Second, func() error { // the definition is on its way
			if r := host.Weft("network", "show", "open"); r.Code != 0 {
				return fmt.Errorf("%s: %s", host.Name, r.Stderr)
			}
			return nil
		})
		agents = append(agents, startAgent(t, host, fmt.Sprintf("a%d", i+1), "--network", "open"))
	}
	for _, host := range h {
		rig.Eventually(t, 5*time.Second, func() error {
			all, err := host.Attachments()
			if err == nil && len(all) != len(agents) {
				err = fmt.Errorf("%s knows %d attachments", host.Name, len(all))
			}
			return err
		})
	}
	notify := h[1].NotifySocket()
	h[1].Setenv("NOTIFY_SOCKET=" + notify.Path)
	h[1].Restart()
	notify.Expect("READY=1")
	h[1].Setenv()
	rig.AllKnowAll(t, 15*time.Second, h...)
	f := startFlowsIn(t, "open", 6, agents...)
	upgrade(t, h[0], two)
	h[1].Runs(two)
	if r := h[1].Weft("up", "--detach"); r.Code != 0 || r.Stdout != "" {
		t.Fatalf("weft up --detach: %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	s, err := h[1].Status()
	if err != nil || s.HandedOver == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	notify.Expect(fmt.Sprintf("MAINPID=%d", s.PID))
	notify.Expect("READY=1")
	f.check()
	converse(t, "239.8.8.7", agents...)
	h[1].MustWeft("down")
}
