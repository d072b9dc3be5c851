package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver/apiservertest"
)

// The test binary is also the program under test: with this set, it runs its arguments.
const asRun = "WEFT_RUN_TEST_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(asRun)
	if dir == "" {
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "these tests make namespaces and need root")
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	err := Exec(context.Background(), client.Dial(client.SocketPath(dir)), Options{Args: os.Args[1:], Env: os.Environ(), RunDir: dir})
	fmt.Fprintln(os.Stderr, "weft:", err)
	var e *Error
	if !errors.As(err, &e) {
		os.Exit(99)
	}
	os.Exit(e.Code)
}

// plug gives the namespace named in the request a weft0, as the daemon does.
func plug(a api.Attach, _ *api.Attachment) error {
	ns := fmt.Sprintf("--net=/proc/%d/task/%d/ns/net", a.PID, a.TID)
	for _, line := range []string{"link add weft0 type veth peer name weft9", "addr add 10.32.0.3/20 dev weft0", "link set weft0 up", "link set weft9 up"} {
		if out, err := exec.Command("nsenter", append([]string{ns, "ip"}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

type result struct {
	out, errs string
	state     *os.ProcessState
}

func weftRun(t *testing.T, dir, stdin string, args ...string) result {
	t.Helper()
	c := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	c.Env = append(os.Environ(), asRun+"="+dir)
	c.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), c.ProcessState}
}

func TestTheCommandIsAttached(t *testing.T) {
	b := apiservertest.New()
	b.OnAttach = plug
	dir := apiservertest.Serve(t, b)
	hostsBefore, err := os.ReadFile(hostsPath)
	if err != nil {
		t.Fatal(err)
	}
	mountsBefore, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	script := `ip -4 -o addr show dev weft0; ip -o link show dev lo; ls /sys/class/net; cat /etc/resolv.conf /etc/hosts; cat /proc/sys/net/ipv6/conf/weft0/accept_ra; ls -a ` + dir + `; cat; ls /sys/fs/cgroup | wc -l`
	r := weftRun(t, dir, "typed\n", "sh", "-c", script)
	if !r.state.Success() {
		t.Fatalf("%v: %s", r.state, r.errs)
	}
	for _, want := range []string{
		"inet 10.32.0.3/20", "LOOPBACK,UP", "\nlo\nweft0\nweft9\n", "nameserver 10.32.0.1\n", "search weft.weft.internal\n",
		"10.32.0.3\tsh-", "fd00:7:7::a20:3\tsh-", "weft.sock\n", "typed\n",
	} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in:\n%s", want, r.out)
		}
	}
	for path, before := range map[string][]byte{hostsPath: hostsBefore, "/proc/self/mountinfo": mountsBefore} {
		after, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s of the host changed, %v", path, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left in the run directory: %v, %v", left, err)
	}
}

// What the daemon is told is enough to find the process, and to know it again.
func TestTheRequestNamesTheProcess(t *testing.T) {
	b := apiservertest.New()
	var asked api.Attach
	var here, there string
	b.OnAttach = func(a api.Attach, _ *api.Attachment) (err error) {
		asked = a
		if here, err = os.Readlink("/proc/self/ns/net"); err != nil {
			return err
		}
		there, err = os.Readlink(fmt.Sprintf("/proc/%d/task/%d/ns/net", a.PID, a.TID))
		return err
	}
	r := weftRun(t, apiservertest.Serve(t, b), "", "sh", "-c", "readlink /proc/self/ns/net; cat /proc/$$/stat")
	ns, stat, _ := strings.Cut(r.out, "\n")
	if ns != there || there == here {
		t.Errorf("command in %s, attached %s, host %s (%s)", ns, there, here, r.errs)
	}
	fields := strings.Fields(stat)
	if len(fields) < 22 || fields[0] != fmt.Sprint(asked.PID) || fields[21] != fmt.Sprint(asked.StartTime) || asked.PID != r.state.Pid() {
		t.Errorf("asked %+v, stat %s", asked, stat)
	}
	if asked.Kind != api.KindProcess || !strings.HasPrefix(asked.Name, "sh-") {
		t.Errorf("asked %+v", asked)
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		args     []string
		fail     error
		code     int
		attached bool // asked to attach
		detached bool
		says     string
	}{
		"success":          {args: []string{"true"}, attached: true},
		"its own":          {args: []string{"sh", "-c", "exit 7"}, code: 7, attached: true},
		"its own 125":      {args: []string{"sh", "-c", "exit 125"}, code: 125, attached: true},
		"not found":        {args: []string{"weft-no-such-command"}, code: 127, says: "weft-no-such-command: not found"},
		"no such path":     {args: []string{"/nonexistent/x"}, code: 127, says: "not found"},
		"not executable":   {args: []string{file("plain", "x", 0o600)}, code: 126, says: "not executable"},
		"a directory":      {args: []string{dir}, code: 126, says: "not executable"},
		"not a program":    {args: []string{file("garbage", "\x00\x01", 0o700)}, code: 126, attached: true, detached: true, says: "exec format error"},
		"no interpreter":   {args: []string{file("script", "#!/nonexistent/sh\n", 0o700)}, code: 127, attached: true, detached: true},
		"daemon refuses":   {args: []string{"true"}, fail: api.Errorf(api.CodeRefused, "no address is free"), code: 125, attached: true, says: "no address is free"},
		"daemon not there": {args: []string{"true"}, code: 125, says: "weft up"},
	} {
		t.Run(name, func(t *testing.T) {
			b := apiservertest.New()
			b.Fail(test.fail)
			run := t.TempDir()
			if name != "daemon not there" {
				run = apiservertest.Serve(t, b)
			}
			r := weftRun(t, run, "", test.args...)
			if r.state.ExitCode() != test.code || !strings.Contains(r.errs, test.says) {
				t.Errorf("exit %v, %q", r.state, r.errs)
			}
			asked := func(what string) bool {
				return slices.ContainsFunc(b.Calls(), func(s string) bool { return strings.HasPrefix(s, what) })
			}
			if asked("attach") != test.attached || asked("detach") != test.detached {
				t.Errorf("calls %q", b.Calls())
			}
		})
	}
}

func TestSignalsAreTheCommands(t *testing.T) {
	r := weftRun(t, apiservertest.Serve(t, apiservertest.New()), "", "sh", "-c", "kill -TERM $$")
	if ws := r.state.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v", r.state)
	}
}

func TestHosts(t *testing.T) {
	a := client.Attachment{Name: "web", FQDN: "web.weft.weft.internal", IPs: []string{"10.32.0.3/20", "fd00::3/64"}}
	before := "127.0.0.1 localhost\n127.0.1.1\tBox box.example # this one\n# box is here\n\n10.0.0.9 web\n::1 localhost ip6-localhost"
	want := "10.32.0.3\tweb.weft.weft.internal web box\nfd00::3\tweb.weft.weft.internal web box\n" +
		"127.0.0.1 localhost\n127.0.1.1\tbox.example\n# box is here\n\n::1 localhost ip6-localhost\n"
	if got := hosts(before, "box", a); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestNameFor(t *testing.T) {
	for command, want := range map[string]string{
		"/usr/bin/ruby3.1":              "ruby3-1-",
		"/x/MyServer":                   "myserver-",
		"/x/--":                         "run-",
		"/x/" + strings.Repeat("é", 99): "run-",
		"/x/" + strings.Repeat("a", 99): strings.Repeat("a", 58) + "-",
	} {
		got := nameFor(command)
		if !strings.HasPrefix(got, want) || len(got) != len(want)+4 || len(got) > maxName {
			t.Errorf("nameFor(%q) = %q", command, got)
		}
	}
}
