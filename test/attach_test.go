package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// gone waits until no host shows an attachment any more.
func gone(t *testing.T, name string, hosts ...*rig.Host) {
	t.Helper()
	rig.Eventually(t, 10*time.Second, func() error {
		for _, h := range hosts {
			all, err := h.Attachments()
			if err != nil {
				return err
			}
			for _, a := range all {
				if a.Name == name {
					return fmt.Errorf("%s still shows attachment %s", h.Name, name)
				}
			}
		}
		return nil
	})
}

// ports returns the attachments' ends on a host, without those of the name service, which each network has one of.
func ports(h *rig.Host) int {
	all := h.MustExec("ip", "-o", "link", "show", "type", "veth")
	return strings.Count(all, ": wv") - strings.Count(all, ": wvdns")
}

// TestNetworkCommands: networks as an administrator makes and removes them.
func TestNetworkCommands(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	h[0].MustWeft("network", "create", "lab", "--subnet", "10.90.0.0/24")
	if out := h[0].MustWeft("network", "show", "lab"); !strings.Contains(out, "10.90.0.0/24") || !strings.Contains(out, "sealed") {
		t.Errorf("network show lab:\n%s", out)
	}
	known := func(at *rig.Host, want bool) error {
		all, err := at.Networks()
		if err != nil {
			return err
		}
		for _, n := range all {
			if n.Name == "lab" {
				if !want {
					return fmt.Errorf("%s still lists network lab", at.Name)
				}
				return nil
			}
		}
		if want {
			return fmt.Errorf("%s does not list network lab", at.Name)
		}
		return nil
	}
	rig.Eventually(t, 5*time.Second, func() error { return known(h[1], true) })
	refused(t, h[0].Weft("network", "create", "lab"), 1, "lab", "already")
	refused(t, h[1].Weft("network", "create", "lab", "--subnet", "10.91.0.0/24"), 1, "10.90.0.0/24", "10.91.0.0/24")
	refused(t, h[0].Weft("network", "create", "other", "--subnet", "10.90.0.0/20"), 1, "overlaps", "lab")
	refused(t, h[0].Weft("network", "create", "Bad_Name"), 2, "Bad_Name")
	refused(t, h[0].Weft("network", "rm", "weft"), 1, "weft")
	refused(t, h[0].Weft("network", "rm", "nowhere"), 1, "nowhere")
	refused(t, h[0].Weft("network", "show", "nowhere"), 1, "nowhere")

	a, b := startAgent(t, h[0], "a", "--network", "lab", "--ip", "10.90.0.77"), startAgent(t, h[1], "b", "--network", "lab")
	if got := a.ip4(); got != "10.90.0.77" {
		t.Errorf("a has address %s, asked for 10.90.0.77", got)
	}
	converse(t, "239.7.7.1", a, b)
	refused(t, h[0].Weft("network", "rm", "lab"), 1, "lab", "a")
	for _, x := range []*agent{a, b} {
		x.Signal(syscall.SIGKILL)
		gone(t, x.name, h...)
	}
	for _, at := range h {
		at.MustWeft("network", "rm", "lab")
	}
	for _, at := range h {
		rig.Eventually(t, 5*time.Second, func() error { return known(at, false) })
		if n := strings.Count(at.MustExec("ip", "-o", "link", "show", "type", "bridge"), "\n"); n != 1 {
			t.Errorf("%s has %d bridges after network rm, want the default network's", at.Name, n)
		}
	}
	// The name and its addresses are free again.
	h[1].MustWeft("network", "create", "lab", "--subnet", "10.90.0.0/24")
	startAgent(t, h[1], "again", "--network", "lab", "--ip", "10.90.0.77")
}

// TestExpose: the host itself takes part in a network, until it hides.
func TestExpose(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	far := startAgent(t, h[1], "far")
	h[0].MustWeft("expose")
	ping := func(family, to string) error {
		if r := h[0].Exec("ping", family, "-c", "1", "-W", "1", to); r.Code != 0 {
			return fmt.Errorf("ping %s: %s%s", to, r.Stdout, r.Stderr)
		}
		return nil
	}
	rig.Eventually(t, 10*time.Second, func() error { return ping("-4", far.ip4()) })
	rig.Eventually(t, 10*time.Second, func() error { return ping("-6", far.ip6()) })
	refused(t, h[0].Weft("expose"), 1, "weft hide")
	h[0].MustWeft("hide")
	if err := ping("-4", far.ip4()); err == nil {
		t.Error("the host reaches the network after weft hide")
	}
	if n := ports(h[0]); n != 0 {
		t.Errorf("%d attachments' interfaces left after weft hide", n)
	}
	refused(t, h[0].Weft("hide"), 1, "no exposed address")
}

// TestAttachAndDetach: namespaces made by others, by path and by process.
func TestAttachAndDetach(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	begin := func(host *rig.Host, name string) *agent {
		p := host.Start("unshare", "-n", python, script(t, "agent.py"), agentPort)
		p.ExpectLine("^ready$", 10*time.Second)
		return &agent{Process: p, t: t, host: host, name: name}
	}
	a, b := begin(h[0], "by-pid"), begin(h[1], "by-path")
	h[0].MustWeft("attach", "--pid", fmt.Sprint(a.PID()), "--name", a.name)
	path := fmt.Sprintf("/proc/%d/ns/net", b.PID())
	h[1].MustWeft("attach", "--netns", path, "--name", b.name)
	refused(t, h[0].Weft("attach", "--pid", fmt.Sprint(h[0].Daemon().PID()), "--name", "host"), 1, "weft expose")
	refused(t, h[0].Weft("attach", "--pid", "4194303", "--name", "nobody"), 1, "4194303")
	refused(t, h[0].Weft("attach", "--netns", "/run/netns/missing", "--name", "nobody"), 1, "/run/netns/missing")
	refused(t, h[0].Weft("attach"), 2, "--netns")
	converse(t, "239.7.7.2", a, b)

	refused(t, h[0].Weft("detach", b.name), 1, h[1].Name)
	refused(t, h[0].Weft("detach", "nobody"), 1, "nobody")
	h[0].MustWeft("detach", "--pid", fmt.Sprint(a.PID()))
	h[1].MustWeft("detach", b.name)
	gone(t, a.name, h...)
	gone(t, b.name, h...)
	for _, x := range []*agent{a, b} {
		if !x.Running() {
			t.Errorf("%s ended when it was detached", x.name)
		}
		if n := ports(x.host); n != 0 {
			t.Errorf("%s: %d attachments' interfaces left", x.host.Name, n)
		}
	}
	h[0].MustWeft("attach", "--pid", fmt.Sprint(a.PID()), "--name", a.name) // as if nothing had been
	a.Signal(syscall.SIGKILL)
	gone(t, a.name, h...)
}

// TestRunIsTheCommand: exit codes, signals, terminal and standard streams are the command's own.
func TestRunIsTheCommand(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	h := w.Cloud().Host("h1")
	h.Up()
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"run", "--", "true"}, 0},
		{[]string{"run", "--", "sh", "-c", "exit 7"}, 7},
		{[]string{"run", "--", "/no/such/command"}, 127},
		{[]string{"run", "--", "/etc/passwd"}, 126},
		{[]string{"run", "--network", "nowhere", "--", "true"}, 125},
		{[]string{"run"}, 125},
	} {
		if r := h.Weft(c.args...); r.Code != c.code {
			t.Errorf("weft %s: exit %d, want %d: %s", strings.Join(c.args, " "), r.Code, c.code, r.Stderr)
		}
	}
	if r := h.WeftInput("a line\n", "run", "--", "cat"); r.Stdout != "a line\n" {
		t.Errorf("cat in weft run printed %q", r.Stdout)
	}
	p := h.Run("trap", "sh", "-c", `trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.1; done`)
	p.ExpectLine("^ready$", 10*time.Second)
	p.Signal(syscall.SIGTERM)
	p.ExpectLine("^asked$", 5*time.Second)
	if code := p.Wait(5 * time.Second); code != 9 {
		t.Errorf("exit %d after SIGTERM, want the command's 9", code)
	}
	gone(t, "trap", h)
	tty := h.Exec("script", "-qec", h.WeftPath()+" run -- sh -c 'test -t 0 && test -t 1 && echo on a terminal'", "/dev/null")
	if !strings.Contains(tty.Stdout, "on a terminal") {
		t.Errorf("a command of weft run has no terminal where weft has one: %q %q", tty.Stdout, tty.Stderr)
	}
	rig.Eventually(t, 5*time.Second, func() error {
		if n := ports(h); n != 0 {
			return fmt.Errorf("%d interfaces left of commands that ended", n)
		}
		return nil
	})
}

// TestRunEndsWithTheCommand: a command that is killed leaves nothing behind, also when no daemon was there to see it.
func TestRunEndsWithTheCommand(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	a, b := startAgent(t, h[0], "a"), startAgent(t, h[0], "b")
	addr := b.ip4()
	rig.Eventually(t, 10*time.Second, func() error { _, err := h[1].Attachment("b"); return err })
	a.Signal(syscall.SIGKILL)
	gone(t, "a", h...)
	if n := ports(h[0]); n != 1 {
		t.Errorf("%d interfaces of attachments, want that of b", n)
	}

	h[0].Kill9()
	b.Signal(syscall.SIGKILL)
	b.Wait(5 * time.Second)
	h[0].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	gone(t, "b", h...)
	if n := ports(h[0]); n != 0 {
		t.Errorf("%d interfaces of attachments, want none", n)
	}
	b = startAgent(t, h[0], "b", "--ip", addr) // name and address are free
	c := startAgent(t, h[1], "c")
	converse(t, "239.7.7.3", b, c)
}
