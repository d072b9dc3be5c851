package cli

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
	"testing"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/apiserver/apiservertest"
)

// The test binary is weft, too, when this is set: weft up --detach starts itself again.
const asWeft = "WEFT_CLI_TEST"

const secret = "weft1verysecrettoken"

func TestMain(m *testing.M) {
	if os.Getenv(asWeft) == "" {
		os.Exit(m.Run())
	}
	args := TakeArgs(os.Args)
	app := &App{
		Version: "v0.0.0-test", Args: args[1:], Env: os.Environ(), In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Up: fakeUp, joinWait: 200 * time.Millisecond,
	}
	os.Exit(app.Main(context.Background()))
}

// fakeUp serves the fake backend until weft down. Its arguments say how it fares.
func fakeUp(ctx context.Context, o UpOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir := o.Flags["run-dir"][0]
	if slices.Contains(o.Hosts, "broken") {
		return errors.New("port 6783 is taken by another program")
	}
	cmdline, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		return err
	}
	seen := fmt.Sprintf("cmdline %s\nenv %q\nown %q\nflags %v\nhosts %v\n", bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}), slices.DeleteFunc(slices.Clone(o.Env), func(e string) bool {
		return !strings.HasPrefix(e, "WEFT_")
	}), os.Getenv(tokenEnv), o.Flags, o.Hosts)
	if err := os.WriteFile(filepath.Join(dir, "seen"), []byte(seen), 0o600); err != nil {
		return err
	}
	b := apiservertest.New()
	b.OnDown = func(api.Down) { cancel() }
	b.Edit(func(s *api.Status) {
		s.PID, s.Version = os.Getpid(), "v0.0.0-test"
		switch {
		case slices.Contains(o.Hosts, "silent"):
			s.State, s.Reason, s.Paths = api.StateJoining, "no answer of silent", nil
		case len(o.Hosts) == 0:
			s.State = api.StateFounded
			o.Founded(secret)
		}
	})
	l, err := apiserver.Listen(dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(o.Stderr, "level=info msg=\"serving\"")
	o.Ready()
	return apiserver.New(b, apiserver.Options{}).Serve(ctx, l)
}

// self runs the test binary as weft.
func self(t *testing.T, runDir string, args ...string) call {
	t.Helper()
	c := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	c.Env = append(os.Environ(), asWeft+"=1", "WEFT_RUN_DIR="+runDir)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return call{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Dial(client.SocketPath(dir)).Down(context.Background(), client.Down{})
		_ = os.RemoveAll(dir)
	})
	return dir
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUpDetached(t *testing.T) {
	dir := shortDir(t)
	got := self(t, dir, "up", "--detach", "--run-dir", dir, "--name", "one", "--ephemeral")
	if got.code != ExitOK || got.out != secret+"\n" || got.errs != "" {
		t.Fatalf("founding: %+v\n%s", got, read(t, dir, LogName))
	}
	log := read(t, dir, LogName)
	if !strings.Contains(log, "serving") || strings.Contains(log, secret) {
		t.Errorf("log %q", log)
	}
	seen := read(t, dir, "seen")
	if !strings.Contains(seen, "ephemeral:[true]") || !strings.Contains(seen, "name:[one]") || strings.Contains(seen, "detach") || strings.Contains(seen, parentEnv) {
		t.Errorf("the daemon saw %s", seen)
	}
	if got := self(t, dir, "up", "--detach", "--run-dir", dir); got.code != ExitFailed || !strings.Contains(got.errs, "already running") {
		t.Errorf("second up: %+v", got)
	}
	if got := self(t, dir, "down"); got.code != ExitOK || got.out != "stopped\n" {
		t.Errorf("down: %+v", got)
	}
	if got := self(t, dir, "status"); got.code != ExitFailed {
		t.Errorf("status after down: %+v", got)
	}
}

func TestUpDetachedJoins(t *testing.T) {
	for name, test := range map[string]struct {
		host, says string
		code       int
	}{
		"reached":        {"two", "", ExitOK},
		"nobody reached": {"silent", "no answer of silent", ExitDegraded},
		"cannot start":   {"broken", "port 6783 is taken", ExitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			got := self(t, dir, "up", "--detach", "--run-dir", dir, "--token", secret, test.host)
			if got.code != test.code || got.out != "" || !strings.Contains(got.errs, test.says) {
				t.Fatalf("%+v", got)
			}
			if strings.Contains(got.errs+read(t, dir, LogName), secret) {
				t.Error("the token was shown")
			}
			if test.code == ExitFailed {
				return
			}
			seen := read(t, dir, "seen")
			cmdline, rest, _ := strings.Cut(seen, "\n")
			if strings.Contains(cmdline, secret) || !strings.Contains(rest, tokenEnv+"="+secret) || !strings.Contains(rest, `own ""`) {
				t.Errorf("the daemon saw %s", seen)
			}
			if !strings.Contains(seen, "hosts ["+test.host+"]") {
				t.Errorf("the daemon saw %s", seen)
			}
		})
	}
}

// In the foreground, the token given as a flag reaches the daemon and vanishes from the list that
// every user of the machine may read.
func TestTokenIsBlanked(t *testing.T) {
	for _, form := range [][]string{{"--token", secret}, {"--token=" + secret}} {
		dir := shortDir(t)
		c := exec.CommandContext(t.Context(), "/proc/self/exe", append([]string{"up", "two", "--run-dir", dir}, form...)...)
		c.Env = append(os.Environ(), asWeft+"=1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		d := client.Dial(client.SocketPath(dir))
		if _, err := waitStatus(t.Context(), d, 10*time.Second, func(client.Status) bool { return true }); err != nil {
			t.Fatal(err)
		}
		cmdline, rest, _ := strings.Cut(read(t, dir, "seen"), "\n")
		if strings.Contains(cmdline, secret) || !strings.Contains(cmdline, strings.Repeat("x", len(secret))) {
			t.Errorf("cmdline %q", cmdline)
		}
		if !strings.Contains(rest, "token:["+secret+"]") {
			t.Errorf("the daemon saw %s", rest)
		}
		if err := d.Down(t.Context(), client.Down{}); err != nil {
			t.Error(err)
		}
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
}
