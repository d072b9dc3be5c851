package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Host is a machine: a namespace with one underlay interface, eth0, and folders of its own.
type Host struct {
	Name string
	NS   string // of the namespace
	IP   netip.Addr
	IP6  netip.Addr

	w       *World
	u       *Underlay
	nat     *NAT
	bin     string // the weft it runs
	run     string
	state   string
	daemon  *Process
	answers *Process // see Reached
	last    []string // arguments of the last Up
	extra   []string // of the environment
	swarm   bool     // see ForSwarm
}

func (w *World) prepare(h *Host) {
	w.T.Helper()
	h.bin = w.bin
	h.run, h.state = filepath.Join(w.dir, h.Name, "run"), filepath.Join(w.dir, h.Name, "state")
	for _, d := range []string{h.run, h.state} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			w.T.Fatal(err)
		}
	}
	w.mu.Lock()
	w.hosts = append(w.hosts, h)
	w.mu.Unlock()
}

// RunDir and StateDir are the host's folders.
func (h *Host) RunDir() string { return h.run }

// StateDir is where the host's state persists.
func (h *Host) StateDir() string { return h.state }

// env is what weft and programs on this host see: our own environment without WEFT_ settings, and the host's.
func (h *Host) env(extra ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "WEFT_") })
	env = append(env, "WEFT_RUN_DIR="+h.run, "WEFT_STATE_DIR="+h.state)
	return append(append(env, h.extra...), extra...)
}

// Setenv sets, for what is started from now on, variables in the form NAME=VALUE in place of those set before.
func (h *Host) Setenv(vars ...string) { h.extra = vars }

// Launch starts `weft up` with args and waits for nothing. The name is the host's, and the token the World's
// for those who name a host to join, unless args say otherwise.
func (h *Host) Launch(args ...string) *Process {
	h.w.T.Helper()
	h.last = slices.Clone(args)
	full := append([]string{h.bin, "up"}, args...)
	if !slices.Contains(args, "--name") {
		full = append(full, "--name", h.Name)
	}
	var extra []string
	if tok := h.w.Token(); tok != "" && !slices.Contains(args, "--token") && !slices.Contains(args, "--token-file") {
		joins := len(args) > 0 && !strings.HasPrefix(args[0], "-")
		if joins {
			extra = append(extra, "WEFT_TOKEN="+tok)
		}
	}
	h.daemon = h.w.start(h.NS, "weft up on "+h.Name, h.env(extra...), full...)
	return h.daemon
}

// Up runs this host and waits until its socket answers. Without arguments that name another host it founds a
// cluster, the first time, and the World takes its token.
func (h *Host) Up(args ...string) {
	h.w.T.Helper()
	fresh := !h.hasState()
	p := h.Launch(args...)
	h.AwaitUp(15 * time.Second)
	if joins := len(args) > 0 && !strings.HasPrefix(args[0], "-"); fresh && !joins {
		token := p.ExpectLine(`^weft1[a-z2-7]+$`, 5*time.Second)
		if h.w.Token() == "" {
			h.w.SetToken(token)
		}
	}
}

// AwaitUp waits until the socket of the daemon launched last answers.
func (h *Host) AwaitUp(d time.Duration) {
	h.w.T.Helper()
	if err := h.awaitSocket(h.daemon, d); err != nil {
		h.w.T.Fatal(err)
	}
}

// NameServer runs DNS on this host with the given dnsmasq options, such as "--address=/NAME/IP", and has the others use it.
func (h *Host) NameServer(others []*Host, options ...string) {
	h.w.T.Helper()
	for _, o := range others {
		if err := os.WriteFile("/etc/netns/"+o.NS+"/resolv.conf", []byte("nameserver "+h.IP.String()+"\n"), 0o644); err != nil {
			h.w.T.Fatal(err)
		}
	}
	args := append([]string{"dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--log-facility=-", "--listen-address=" + h.IP.String()}, options...)
	p := h.w.start(h.NS, "dnsmasq on "+h.Name, h.env(), args...)
	Eventually(h.w.T, 5*time.Second, func() error {
		if !strings.Contains(strings.Join(p.Errors(), "\n"), "started") {
			return fmt.Errorf("%s has not started", p)
		}
		return nil
	})
}

// DockerFirewall sets the packet filter as a start of Docker does: nothing is forwarded that no rule accepts, and frames
// on bridges are asked as well.
func (h *Host) DockerFirewall() {
	h.w.T.Helper()
	for _, tool := range []string{"iptables", "ip6tables"} {
		h.MustExec(tool, "-P", "FORWARD", "DROP")
	}
	h.MustExec("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
}

func (h *Host) hasState() bool {
	entries, err := os.ReadDir(h.state)
	return err == nil && len(entries) > 0
}

func (h *Host) awaitSocket(p *Process, d time.Duration) error {
	return Poll(d, func() error {
		if !p.Running() {
			return fmt.Errorf("%w: %s ended with code %d\n%s", ErrHopeless, p, p.wait(), p.tail(10))
		}
		if err := h.healthy(); err != nil {
			return fmt.Errorf("%s: %w\n%s", p, err, p.tail(10))
		}
		return nil
	})
}

// healthy asks this host's daemon whether it is there. A connection says little: one that was killed while it began a process of
// its own (iptables) listens until that one has begun, and answers nothing.
func (h *Host) healthy() error {
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.run, "weft.sock"))
		},
	}}
	r, err := c.Get("http://weft/healthz")
	if err != nil {
		return err
	}
	return r.Body.Close()
}

// Daemon is the process of the last Up.
func (h *Host) Daemon() *Process { return h.daemon }

// Kill9 kills the daemon with SIGKILL, and only the daemon.
func (h *Host) Kill9() {
	h.w.T.Helper()
	if h.daemon == nil {
		h.w.T.Fatalf("%s was never up", h.Name)
	}
	h.daemon.Kill9()
}

// Restart runs weft up again as last time.
func (h *Host) Restart() {
	h.w.T.Helper()
	if h.daemon != nil && h.daemon.Running() && alive(h.daemon.PID()) {
		if code := h.daemon.Stop(10 * time.Second); code != 0 {
			h.w.T.Errorf("%s: weft up ended with code %d when asked to stop", h.Name, code)
		}
	}
	h.Up(h.last...)
}

// Runs makes this host run another binary from its next start on.
func (h *Host) Runs(bin string) { h.bin = bin }

// Upgrade runs weft up of another binary over the daemon that runs, as last time, and waits until the new daemon answers
// and the old one has ended well.
func (h *Host) Upgrade(bin string, args ...string) {
	h.w.T.Helper()
	old := h.daemon
	h.bin = bin
	last := h.last
	p := h.Launch(append(slices.Clone(last), args...)...)
	h.last = last
	h.AwaitRun(p, 20*time.Second)
	if code := old.Wait(10 * time.Second); code != 0 {
		h.w.T.Errorf("%s: the daemon before ended with code %d\n%s", h.Name, code, old.tail(10))
	}
}

// AwaitRun waits until a daemon answers at the host's socket.
func (h *Host) AwaitRun(p *Process, d time.Duration) {
	h.w.T.Helper()
	Eventually(h.w.T, d, func() error {
		if !p.Running() {
			return fmt.Errorf("%w: %s ended with code %d\n%s", ErrHopeless, p, p.wait(), p.tail(10))
		}
		s, err := h.Status()
		if err == nil && s.PID != p.PID() {
			err = fmt.Errorf("%s answers, not %s\n%s", s.Version, p, p.tail(5))
		}
		return err
	})
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Weft runs a weft command to its end, at most 60 s.
func (h *Host) Weft(args ...string) Result {
	h.w.T.Helper()
	return h.WeftInput("", args...)
}

// WeftInput is Weft with standard input.
func (h *Host) WeftInput(stdin string, args ...string) Result {
	h.w.T.Helper()
	return h.exec(stdin, append([]string{h.bin}, args...)...)
}

// MustWeft is Weft, failing the test unless it exits 0; it returns standard output.
func (h *Host) MustWeft(args ...string) string {
	h.w.T.Helper()
	r := h.Weft(args...)
	if r.Code != 0 {
		h.w.T.Fatalf("%s: weft %s: exit %d\n%s%s", h.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// JSON runs a weft command with --json and decodes what it prints.
func (h *Host) JSON(v any, args ...string) error {
	r := h.Weft(append(args, "--json")...)
	if r.Code != 0 && r.Code != 3 {
		return fmt.Errorf("%s: weft %s: exit %d: %s", h.Name, strings.Join(args, " "), r.Code, r.Stderr)
	}
	if err := json.Unmarshal([]byte(r.Stdout), v); err != nil {
		return fmt.Errorf("%s: weft %s --json: %w in %q", h.Name, strings.Join(args, " "), err, r.Stdout)
	}
	return nil
}

// Exec runs a command in the host's namespace to its end, at most 60 s.
func (h *Host) Exec(args ...string) Result {
	h.w.T.Helper()
	return h.exec("", args...)
}

// MustExec is Exec, failing the test unless it exits 0; it returns standard output.
func (h *Host) MustExec(args ...string) string {
	h.w.T.Helper()
	r := h.Exec(args...)
	if r.Code != 0 {
		h.w.T.Fatalf("%s: %s: exit %d\n%s%s", h.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

func (h *Host) exec(stdin string, args ...string) Result {
	h.w.T.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.NS}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, &errs, strings.NewReader(stdin)
	cmd.Env = h.env()
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		h.w.T.Fatal(err)
	}
	limit := time.AfterFunc(60*time.Second, func() { _ = signalGroup(cmd.Process.Pid, syscall.SIGKILL) })
	defer limit.Stop()
	// A child that goes on in the background must not keep us: only the command's own end counts.
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		h.w.T.Fatalf("%s: %s: %v", h.Name, strings.Join(args, " "), err)
	}
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: exitCode(cmd.ProcessState)}
}

// Start starts a command in the host's namespace.
func (h *Host) Start(args ...string) *Process {
	h.w.T.Helper()
	return h.w.start(h.NS, strings.Join(args, " ")+" on "+h.Name, h.env(), args...)
}

// StartWeft starts a weft command.
func (h *Host) StartWeft(args ...string) *Process {
	h.w.T.Helper()
	return h.w.start(h.NS, "weft "+strings.Join(args, " ")+" on "+h.Name, h.env(), append([]string{h.bin}, args...)...)
}

// Run starts a command as an attachment: `weft run --name NAME -- CMD`.
func (h *Host) Run(name string, cmd ...string) *Process {
	h.w.T.Helper()
	return h.RunWith([]string{"--name", name}, cmd...)
}

// RunWith is Run with options of weft run.
func (h *Host) RunWith(options []string, cmd ...string) *Process {
	h.w.T.Helper()
	args := append([]string{"run"}, options...)
	return h.StartWeft(append(append(args, "--"), cmd...)...)
}

// WeftPath is the binary under test, for `weft run -- weft chat`.
func (h *Host) WeftPath() string { return h.bin }

// Found makes hosts of a new cluster: the first founds it, the others join at its address, and all see each other as
// alive before it returns.
func Found(t testing.TB, hosts ...*Host) {
	t.Helper()
	hosts[0].Up()
	for _, h := range hosts[1:] {
		h.Up(hosts[0].Endpoint())
	}
	AllKnowAll(t, 15*time.Second, hosts...)
}

// Endpoint is the underlay address at which others reach this host.
func (h *Host) Endpoint() string {
	if h.nat != nil {
		return h.nat.IP.String()
	}
	return h.IP.String()
}
