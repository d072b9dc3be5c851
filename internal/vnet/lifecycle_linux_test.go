package vnet_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/vnet"
)

// links lists our interfaces in the host's namespace, as a person would see them.
func (w *world) links() []string {
	w.t.Helper()
	h, err := nl.OS().Open(w.host)
	if err != nil {
		w.t.Fatal(err)
	}
	defer h.Close()
	all, err := h.Links()
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		if strings.HasPrefix(l.Name, "w") {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (w *world) wantLinks(want ...string) {
	w.t.Helper()
	slices.Sort(want)
	eventually(w.t, 2*time.Second, "interfaces "+strings.Join(want, " "), func() error {
		if got := w.links(); !slices.Equal(got, want) {
			return fmt.Errorf("have %q", got)
		}
		return nil
	})
}

// sleeper starts a process in a network namespace of its own.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func (w *world) attachPID(name string, n byte, pid int) error {
	_, err := w.v.Attach(w.t.Context(), vnet.AttachSpec{
		Network: spec.Name, Name: name, Kind: vnet.KindRun, PID: pid, MAC: mac(n), IPs: []netip.Prefix{netip.PrefixFrom(ip4(n), 20)},
	})
	return err
}

func (w *world) awaitGone(want string) {
	w.t.Helper()
	eventually(w.t, 2*time.Second, "end of "+want, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.gone) != 1 || !strings.HasPrefix(w.gone[0], want+": ") {
			return fmt.Errorf("told: %q", w.gone)
		}
		return nil
	})
}

func TestProcessEnds(t *testing.T) {
	w := newWorld(t)
	cmd := sleeper(t)
	if err := w.attachPID("run", 1, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	w.wantLinks("wb0abcde", "wu0abcde", vnet.PortName(spec.Name, "run"))
	// Children may outlive it: hold its namespace, so that the veth does not just vanish.
	ns, err := netns.OS().PID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.awaitGone("run")
	w.wantLinks("wb0abcde", "wu0abcde")
	if n := len(w.v.Attachments()); n != 0 {
		t.Errorf("%d attachments are left", n)
	}
	_ = cmd.Wait()
	if err := w.attachPID("run", 1, cmd.Process.Pid); !errors.Is(err, netns.ErrGone) {
		t.Errorf("attach of a dead process: %v", err)
	}
}

func TestNamespaceVanishes(t *testing.T) {
	w := newWorld(t)
	ns := w.attach("box", 1)
	w.wantLinks("wb0abcde", "wu0abcde", vnet.PortName(spec.Name, "box"))
	if err := ns.Close(); err != nil { // nothing else holds it
		t.Fatal(err)
	}
	w.awaitGone("box")
	w.wantLinks("wb0abcde", "wu0abcde")
}

func TestAttachTwice(t *testing.T) {
	w := newWorld(t)
	ns := newNS(t)
	s := attachSpec("a", 1, ns)
	first, err := w.v.Attach(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.v.Attach(t.Context(), s)
	if err != nil || again.Port != first.Port || again.Interface != "weft0" {
		t.Errorf("again: %+v, %v", again, err)
	}
	s.MAC = mac(9)
	if _, err := w.v.Attach(t.Context(), s); !errors.Is(err, vnet.ErrExists) {
		t.Errorf("another MAC under the same name: %v", err)
	}
	// A second attachment in the same namespace is weft1.
	second, err := w.v.Attach(t.Context(), attachSpec("b", 2, ns))
	if err != nil || second.Interface != "weft1" {
		t.Fatalf("second in one namespace: %+v, %v", second, err)
	}
	if err := w.v.Remove(spec.VNI); !errors.Is(err, vnet.ErrInUse) {
		t.Errorf("remove a network in use: %v", err)
	}
	for _, name := range []string{"a", "b"} {
		if err := w.v.Detach(spec.Name, name); err != nil {
			t.Error(err)
		}
	}
	if err := w.v.Detach(spec.Name, "a"); !errors.Is(err, vnet.ErrNotFound) {
		t.Errorf("detach twice: %v", err)
	}
	if err := w.v.Remove(spec.VNI); err != nil {
		t.Error(err)
	}
	w.wantLinks()
}

func TestAttachRefuses(t *testing.T) {
	w := newWorld(t)
	ns := newNS(t)
	hostPath := fmt.Sprintf("/proc/self/fd/%d", w.host.FD())
	for name, change := range map[string]func(*vnet.AttachSpec){
		"no such network":    func(s *vnet.AttachSpec) { s.Network = "other" },
		"host's own":         func(s *vnet.AttachSpec) { s.Netns = hostPath },
		"not a namespace":    func(s *vnet.AttachSpec) { s.Netns = "/proc/self/status" },
		"no such file":       func(s *vnet.AttachSpec) { s.Netns = "/run/netns/none-such" },
		"group MAC":          func(s *vnet.AttachSpec) { s.MAC[0] = 1 },
		"no MAC":             func(s *vnet.AttachSpec) { s.MAC = nl.MAC{} },
		"no address":         func(s *vnet.AttachSpec) { s.IPs = nil },
		"group address":      func(s *vnet.AttachSpec) { s.IPs = []netip.Prefix{netip.MustParsePrefix("239.1.1.1/8")} },
		"path as interface":  func(s *vnet.AttachSpec) { s.Interface = "../all" },
		"bad name":           func(s *vnet.AttachSpec) { s.Name = "A b" },
		"another start time": func(s *vnet.AttachSpec) { s.PID, s.StartTime = os.Getpid(), 1 },
		"no such process":    func(s *vnet.AttachSpec) { s.PID = 1 << 30 },
	} {
		t.Run(name, func(t *testing.T) {
			s := attachSpec("a", 1, ns)
			change(&s)
			if a, err := w.v.Attach(t.Context(), s); err == nil {
				t.Errorf("attached: %+v", a)
			} else {
				t.Log(err)
			}
		})
	}
	w.wantLinks("wb0abcde", "wu0abcde")
	if out := inside(t, ns, "ip", "-o", "link"); strings.Contains(out, "weft0") {
		t.Errorf("left inside: %s", out)
	}
}

func TestExpose(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", 1)
	_, err := w.v.Attach(t.Context(), vnet.AttachSpec{
		Network: spec.Name, Name: "host", Kind: vnet.KindExpose, MAC: mac(2), IPs: []netip.Prefix{netip.PrefixFrom(ip4(2), 20)},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.wantLinks("wb0abcde", "wu0abcde", "weft0", vnet.PortName(spec.Name, "a"), vnet.PortName(spec.Name, "host"))
	s := socket(t, w.host, "udp4", "10.32.0.2:4711")
	send(t, socket(t, a, "udp4", "0.0.0.0:0"), "10.32.0.2:4711", "to the host")
	received(t, s, "to the host", 2*time.Second)
	if out := inside(t, w.host, "ip", "route"); strings.Contains(out, "224.0.0.0/4") {
		t.Errorf("a group route that nobody asked for:\n%s", out)
	}
	h, err := nl.OS().Open(w.host)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	routes, err := h.Routes()
	if err != nil || len(routes) != 1 || routes[0].Dst.Masked() != netip.MustParsePrefix("10.32.0.0/20") {
		t.Errorf("routes: %v, %v", routes, err)
	}
	if err := w.v.Detach(spec.Name, "host"); err != nil {
		t.Fatal(err)
	}
	w.wantLinks("wb0abcde", "wu0abcde", vnet.PortName(spec.Name, "a"))
}

// TestRestart: the daemon goes, however it goes (Down changes no more than a kill does: the
// TAP is closed); attachments go on among themselves and are taken over.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	a, b := w.attach("a", 1), w.attach("b", 2)
	cmd, dies := sleeper(t), sleeper(t)
	for name, c := range map[string]*exec.Cmd{"run": cmd, "dies": dies} {
		if err := w.attachPID(name, byte(c.Process.Pid), c.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.v.SetRemotes(spec.VNI, []vnet.Remote{{MAC: mac(50), IPs: []netip.Addr{ip4(50)}}}); err != nil {
		t.Fatal(err)
	}
	sb := socket(t, b, "udp4", "0.0.0.0:4711")
	join4(t, sb, "239.1.2.3")
	w.awaitMembers(time.Second, "b 239.1.2.3 any")

	w.stop()
	_ = dies.Process.Kill()
	_ = dies.Wait()
	ca := socket(t, a, "udp4", "0.0.0.0:0")
	send(t, ca, "239.1.2.3:4711", "while down")
	received(t, sb, "while down", time.Second)
	// What a daemon killed in the middle leaves: a port without a record, a network of nobody.
	inside(t, w.host, "ip", "link", "add", vnet.PortName("weft", "half"), "type", "veth", "peer", "name", "weft7")
	inside(t, w.host, "ip", "link", "add", "wb00beef", "type", "bridge")
	inside(t, w.host, "ip", "tuntap", "add", "wu00beef", "mode", "tap")
	inside(t, w.host, "ip", "link", "add", "wbridge", "type", "bridge") // not ours

	report := w.start()
	var adopted, lost []string
	for _, a := range report.Adopted {
		adopted = append(adopted, a.Name)
	}
	for _, a := range report.Lost {
		lost = append(lost, a.Name)
	}
	slices.Sort(adopted)
	if !slices.Equal(adopted, []string{"a", "b", "run"}) || !slices.Equal(lost, []string{"dies"}) {
		t.Errorf("adopted %q, lost %q", adopted, lost)
	}
	// The kernel may have removed the veth of the dead process already.
	removed := slices.DeleteFunc(slices.Clone(report.Removed), func(s string) bool { return s == vnet.PortName("weft", "dies") })
	if want := []string{"wb00beef", "wu00beef", vnet.PortName("weft", "half")}; !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", report.Removed, want)
	}
	w.ensure()
	w.wantLinks("wbridge", "wb0abcde", "wu0abcde", vnet.PortName("weft", "a"), vnet.PortName("weft", "b"), vnet.PortName("weft", "run"))
	w.awaitMembers(time.Second, "b 239.1.2.3 any")
	// Remotes of the last run are answered for until the new run says otherwise.
	if _, err := w.v.SetRemotes(spec.VNI, nil); err != nil {
		t.Fatal(err)
	}
	if out := inside(t, w.host, "ip", "neigh", "show", "nud", "permanent", "dev", "wb0abcde"); strings.Contains(out, "10.32.0.50") {
		t.Errorf("stale neighbour:\n%s", out)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.awaitGone("run")

	if _, err := w.v.Clean(); err != nil {
		t.Error(err)
	}
	w.wantLinks("wbridge")
	if out := inside(t, a, "ip", "-o", "link"); strings.Contains(out, "weft0") {
		t.Errorf("left inside: %s", out)
	}
}

// TestNamedNamespace attaches by path, as `ip netns` and container engines name namespaces.
func TestNamedNamespace(t *testing.T) {
	w := newWorld(t)
	ns := newNS(t)
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.FD()), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	s := attachSpec("a", 1, ns)
	s.Netns = path
	if _, err := w.v.Attach(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatal(err)
	}
	// The namespace lives on (ns holds it), but its name is free for another one.
	if r := w.start(); len(r.Lost) != 1 || len(r.Removed) != 2 {
		t.Errorf("report: %+v", r)
	}
	w.wantLinks()
}

func TestNetworks(t *testing.T) {
	w := newWorld(t)
	if dev, err := w.v.Ensure(t.Context(), spec); err != nil || dev != w.dev {
		t.Errorf("ensure again: %v, %v", dev, err)
	}
	for name, s := range map[string]vnet.Spec{
		"another name": {Name: "other", VNI: spec.VNI, MTU: 1400},
		"another VNI":  {Name: spec.Name, VNI: 7, MTU: 1400},
		"no VNI":       {Name: "other", MTU: 1400},
		"big VNI":      {Name: "other", VNI: 1 << 24, MTU: 1400},
		"small MTU":    {Name: "other", VNI: 7, MTU: 1000},
		"no name":      {VNI: 7, MTU: 1400},
	} {
		if _, err := w.v.Ensure(t.Context(), s); err == nil {
			t.Errorf("%s: ensured", name)
		}
	}
	// What is in one network does not reach the other.
	if _, err := w.v.Ensure(t.Context(), vnet.Spec{Name: "two", VNI: 2, MTU: 9000}); err != nil {
		t.Fatal(err)
	}
	w.attach("a", 1)
	other := newNS(t)
	s := attachSpec("a", 1, other) // the same name, MAC and addresses
	s.Network = "two"
	if _, err := w.v.Attach(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	send(t, socket(t, other, "udp4", "0.0.0.0:0"), "224.0.0.251:9", "in two")
	c := socket(t, w.attach("b", 2), "udp4", "0.0.0.0:0")
	send(t, c, "224.0.0.251:9", "in weft")
	eventually(t, time.Second, "own frame", func() error {
		if w.payload("in weft") == 0 {
			return errors.New("nothing")
		}
		return nil
	})
	if w.payload("in two") != 0 {
		t.Error("a frame of network two came out of the uplink of weft")
	}
	if out := inside(t, other, "ip", "link", "show", "weft0"); !strings.Contains(out, "mtu 9000") {
		t.Errorf("MTU: %s", out)
	}
}
