package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weft-net/weft/internal/measure"
)

// process is a child that runs until it is stopped, with the end of its output kept for messages.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when it has ended

	mu    sync.Mutex // guards tail
	tail  []string
	lines chan string // of standard output; those nobody waits for are dropped
}

// start runs a program in a namespace; env is added to our own without its WEFT_ settings.
func start(ns string, env []string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(args[0]), done: make(chan struct{}), lines: make(chan string, 64)}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	p.cmd.Env = environment(env)
	p.cmd.SysProcAttr = ownGroup()
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	stdout, err1 := p.cmd.StdoutPipe()
	stderr, err2 := p.cmd.StderrPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.collect(stdout, true) })
	readers.Go(func() { p.collect(stderr, false) })
	go func() {
		readers.Wait()
		_ = p.cmd.Wait() // how it ended is told by its output, if by anything
		close(p.done)
	}()
	return p, nil
}

func environment(extra []string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "WEFT_") {
			env = append(env, e)
		}
	}
	return append(env, extra...)
}

func (p *process) collect(r io.Reader, out bool) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		p.mu.Lock()
		p.tail = append(p.tail, in.Text())
		p.tail = p.tail[max(0, len(p.tail)-5):]
		p.mu.Unlock()
		if out {
			select {
			case p.lines <- in.Text():
			default:
			}
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line too long must not block the program
}

// line returns the next line of standard output that begins with prefix.
func (p *process) line(ctx context.Context, prefix string, d time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		select {
		case l := <-p.lines:
			if strings.HasPrefix(l, prefix) {
				return l, nil
			}
		case <-p.done:
			return "", p.ended()
		case <-ctx.Done():
			return "", fmt.Errorf("%s: no line %q: %w: %s", p.name, prefix, ctx.Err(), p.last())
		}
	}
}

// ended returns an error when the process has.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended (%s): %s", p.name, p.cmd.ProcessState, p.last())
	default:
		return nil
	}
}

func (p *process) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail, " | ")
}

// cpu returns the processor time used so far.
func (p *process) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	return measure.ParseProcess(b)
}

// cpuExact returns the same to the nanosecond, but only of threads that live: for times in which little happens.
func (p *process) cpuExact() (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("%s: no threads", p.name)
	}
	var total time.Duration
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var d time.Duration
		if _, scanned := fmt.Sscan(string(b), &d); err != nil || scanned != nil {
			return 0, errors.Join(err, scanned)
		}
		total += d
	}
	return total, nil
}

// stop ends processes: all are asked before the first is waited for.
func stop(ps []*process) {
	for _, p := range ps {
		if p.ended() == nil {
			_ = signalGroup(p.cmd.Process.Pid, syscall.SIGTERM)
		}
	}
	patience := time.After(3 * time.Second)
	for _, p := range ps {
		select {
		case <-p.done:
			continue
		case <-patience:
			patience = expired
		}
		_ = signalGroup(p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// expired is a timer that has run out and stays so.
var expired = func() chan time.Time { c := make(chan time.Time); close(c); return c }()

// execute runs a program to its end and returns its standard output, even of one that failed.
func execute(ctx context.Context, env []string, args ...string) (string, error) {
	return executeInput(ctx, env, "", args...)
}

func executeInput(ctx context.Context, env []string, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = environment(env)
	cmd.SysProcAttr = ownGroup()
	cmd.WaitDelay = time.Second
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(errs.String())
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.String(), fmt.Errorf("%s: %w: %s", called(args), err, said)
	}
	return out.String(), nil
}

// called is a command as it was meant: without the namespace, and without the folder of the program.
func called(args []string) string {
	if len(args) > 4 && slices.Equal(args[:3], []string{"ip", "netns", "exec"}) {
		args = args[4:]
	}
	return strings.Join(append([]string{filepath.Base(args[0])}, args[1:]...), " ")
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// await asks again and again until f is content, and returns its last complaint when it never was.
func await(ctx context.Context, d time.Duration, f func() error) error {
	limit := time.Now().Add(d)
	for {
		err := f()
		if err == nil || time.Now().After(limit) {
			return err
		}
		if cancelled := pause(ctx, 50*time.Millisecond); cancelled != nil {
			return errors.Join(cancelled, err)
		}
	}
}
