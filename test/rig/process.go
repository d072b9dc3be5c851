package rig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// maxKept bounds what is kept of a process's output, in bytes of each stream.
const maxKept = 4 << 20

// Process is a child with its lines kept. Its methods may be called from any goroutine.
type Process struct {
	name  string
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu       sync.Mutex // guards what follows
	out, err []string   // lines of the two streams
	size     int
	seen     int // lines of out that ExpectLine has consumed
	changed  chan struct{}

	done chan struct{} // closed when it has ended and its output was read
	code int           // valid after done
}

// start runs a program in a namespace, its lines collected.
func (w *World) start(ns, name string, env []string, args ...string) *Process {
	w.T.Helper()
	p := &Process{name: name, t: w.T, changed: make(chan struct{}), done: make(chan struct{})}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	p.cmd.Env = env
	p.cmd.SysProcAttr = ownGroup()
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		w.T.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		w.T.Fatalf("start %s: %v", name, err)
	}
	w.mu.Lock()
	w.procs = append(w.procs, p)
	_, _ = fmt.Fprintln(w.groups, p.cmd.Process.Pid)
	w.mu.Unlock()

	var readers sync.WaitGroup
	readers.Go(func() { p.collect(stdout, &p.out) })
	readers.Go(func() { p.collect(stderr, &p.err) })
	go func() {
		readers.Wait()
		err := p.cmd.Wait()
		var exit *exec.ExitError
		switch {
		case err == nil:
		case errors.As(err, &exit):
			p.code = exitCode(exit.ProcessState)
		default:
			p.code = -1
		}
		close(p.done)
	}()
	return p
}

func (p *Process) collect(r io.Reader, to *[]string) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			if p.size += len(line); p.size < maxKept {
				*to = append(*to, strings.TrimSuffix(line, "\n"))
			}
			close(p.changed)
			p.changed = make(chan struct{})
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// String names the process for messages.
func (p *Process) String() string { return fmt.Sprintf("%s (pid %d)", p.name, p.cmd.Process.Pid) }

// exitCode is what a shell calls the end of a process: 128+N when signal N killed it.
func exitCode(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Send writes a line to its standard input.
func (p *Process) Send(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatalf("write to %s: %v", p, err)
	}
}

// CloseStdin ends its input.
func (p *Process) CloseStdin() { _ = p.stdin.Close() }

// ExpectLine waits for a line of standard output that matches re, after those earlier calls returned, and returns it.
func (p *Process) ExpectLine(re string, d time.Duration) string {
	p.t.Helper()
	line, err := p.AwaitLine(re, d)
	if err != nil {
		p.t.Fatal(err)
	}
	return line
}

// AwaitLine is ExpectLine for those who decide themselves what an absent line means.
func (p *Process) AwaitLine(re string, d time.Duration) (string, error) {
	r := regexp.MustCompile(re)
	timer := time.NewTimer(d)
	defer timer.Stop()
	ended := false
	for {
		p.mu.Lock()
		for i := p.seen; i < len(p.out); i++ {
			if r.MatchString(p.out[i]) {
				p.seen = i + 1
				line := p.out[i]
				p.mu.Unlock()
				return line, nil
			}
		}
		changed := p.changed
		p.mu.Unlock()
		if ended {
			return "", fmt.Errorf("%s ended with code %d before a line matched %q\n%s", p, p.code, re, p.tail(10))
		}
		select {
		case <-changed:
		case <-p.done:
			ended = true
		case <-timer.C:
			return "", fmt.Errorf("%s: no line matched %q in %v\n%s", p, re, d, p.tail(10))
		}
	}
}

// RefuseLine fails the test when a line of standard output matches re within d, or already has.
func (p *Process) RefuseLine(re string, d time.Duration) {
	p.t.Helper()
	r := regexp.MustCompile(re)
	During(p.t, d, func() error {
		if i := slices.IndexFunc(p.Lines(), r.MatchString); i >= 0 {
			return fmt.Errorf("%s printed %q", p, p.Lines()[i])
		}
		return nil
	})
}

// Lines returns the lines of standard output so far.
func (p *Process) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.out)
}

// Errors returns the lines of standard error so far.
func (p *Process) Errors() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.err)
}

// Count returns how many lines of standard output match re.
func (p *Process) Count(re string) int {
	r := regexp.MustCompile(re)
	n := 0
	for _, l := range p.Lines() {
		if r.MatchString(l) {
			n++
		}
	}
	return n
}

// tail returns the last n lines of both streams.
func (p *Process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b bytes.Buffer
	for _, s := range []struct {
		name  string
		lines []string
	}{{"out", p.out}, {"err", p.err}} {
		for _, l := range s.lines[max(0, len(s.lines)-n):] {
			fmt.Fprintf(&b, "    %s| %s\n", s.name, l)
		}
	}
	return b.String()
}

// Running reports whether it has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return alive(p.PID()) // what was killed may not have been waited for yet
	}
}

// Signal signals the process itself.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// Kill9 kills the process, and nothing it started, with SIGKILL, and waits until it is gone.
func (p *Process) Kill9() {
	_ = p.cmd.Process.Kill()
	// What it started may hold its output open for long; only its own end counts here.
	deadline := time.Now().Add(5 * time.Second)
	_ = Poll(time.Until(deadline), func() error {
		if p.Running() && alive(p.PID()) {
			return errors.New("alive")
		}
		return nil
	})
}

// Stop asks the process group to end, kills it after d, and returns the exit code.
func (p *Process) Stop(d time.Duration) int {
	_ = signalGroup(p.PID(), syscall.SIGTERM)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = signalGroup(p.PID(), syscall.SIGKILL)
	}
	return p.wait()
}

// Wait waits for its end, at most d, and returns the exit code; it fails the test when the process runs on.
func (p *Process) Wait(d time.Duration) int {
	p.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.code
	case <-timer.C:
		p.t.Fatalf("%s still runs after %v\n%s", p, d, p.tail(10))
		return -1
	}
}

func (p *Process) wait() int {
	<-p.done
	return p.code
}
