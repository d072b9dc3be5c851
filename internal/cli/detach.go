package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
)

const (
	// LogName is where a daemon in the background logs to, in the run directory.
	LogName = "weft.log"

	// parentEnv names the descriptor by which a daemon in the background hands over its token.
	parentEnv = "WEFT_PARENT_FD"
	// journalEnv is set by systemd for those whose output it keeps, and for their children (systemd.exec(5)).
	journalEnv = "JOURNAL_STREAM"
	// waitForJoin is how long weft up --detach waits for the first link: the daemon says after 5 s
	// who does not answer.
	waitForJoin = 6 * time.Second
	// startWait bounds the time until the socket answers.
	startWait = 20 * time.Second
	// endWait is how long a daemon that answers no more may take to end.
	endWait = 2 * time.Second
	// maxToken bounds what is read from the daemon, in bytes.
	maxToken = 256
)

// upDetached starts the daemon in the background and returns once it is known how it fares.
func (a *App) upDetached(ctx context.Context, hosts []string, flags map[string][]string) error {
	d := a.client()
	defer d.Close()
	_, replace := flags["replace"]
	if s, err := d.Status(ctx); err == nil && s.Version == a.Version && !replace {
		return fmt.Errorf("weft is already running here: host %s, version %s like this one, answers at %s; weft up --replace takes its place all the same", s.Host, s.Version, d.Socket())
	}
	child, err := a.start(hosts, flags)
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	s, err := child.wait(ctx, d, a.joinWait)
	if err != nil {
		return err
	}
	if s.State == api.StateFounded {
		// The daemon handed the token over before its socket answered; one that goes on with a
		// cluster of its own hands over nothing.
		if token := child.handedOver(); token != "" {
			if a.json {
				return a.printJSON(map[string]string{"token": token})
			}
			_, err := fmt.Fprintln(a.Out, token)
			return err
		}
	}
	if s.Degraded() && s.HandedOver == nil { // else it was so before
		return &degradedError{"weft runs, but has reached nobody yet: " + orElse(s.Reason, s.State)}
	}
	return nil
}

// child is a daemon that was started in the background.
type child struct {
	process *os.Process
	ended   chan error
	token   chan string
	log     *os.File
	offset  int64 // where this start's part of the log begins
}

func (a *App) start(hosts []string, flags map[string][]string) (*child, error) {
	if err := os.MkdirAll(a.runDir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(a.runDir, LogName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	offset, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"up"}
	env := a.Env
	for name, values := range flags {
		for _, v := range values {
			if name == "token" {
				env = append(a.publicEnv(), tokenEnv+"="+v)
				continue
			}
			args = append(args, "--"+name+"="+v)
		}
	}
	c := exec.Command(self, append(append(args, "--"), hosts...)...)
	c.Env = append(env[:len(env):len(env)], parentEnv+"=3", "WEFT_RUN_DIR="+a.runDir)
	c.Stdout, c.Stderr = log, log
	if journaled(a.env(journalEnv, "")) { // there people look for it
		c.Stdout, c.Stderr = a.Err, a.Err
	}
	c.ExtraFiles = []*os.File{w}
	inBackground(c)
	if err := c.Start(); err != nil {
		_ = r.Close()
		return nil, err
	}
	out := &child{process: c.Process, ended: make(chan error, 1), token: make(chan string, 1), log: log, offset: offset}
	go func() { out.ended <- c.Wait() }()
	go func() {
		defer r.Close()
		line, _ := bufio.NewReader(io.LimitReader(r, maxToken)).ReadString('\n')
		out.token <- strings.TrimSpace(line)
	}()
	return out, nil
}

// wait returns the daemon's first state, or why it ended.
func (c *child) wait(ctx context.Context, d *client.Client, joinWait time.Duration) (client.Status, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-c.ended:
			cancel(fmt.Errorf("ended at once: %w", c.lastWords(err)))
		case <-ctx.Done():
		}
	}()
	ours := func(s client.Status) bool { return s.PID == 0 || s.PID == c.process.Pid }
	s, err := waitStatus(ctx, d, startWait, ours)
	if err == nil && ours(s) && !settled(s) && s.HandedOver == nil {
		if next, err := waitStatus(ctx, d, joinWait, settled); err == nil {
			s = next
		}
	}
	if err != nil && ctx.Err() == nil { // its socket goes before it does, and what it has to say comes last
		t := time.NewTimer(endWait)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return s, cause
	}
	if err != nil || !ours(s) {
		return s, fmt.Errorf("the daemon does not answer at %s after %v; see %s", d.Socket(), startWait, c.log.Name())
	}
	return s, nil
}

// lastWords returns what the daemon logged when it ended, for people who have no log open.
func (c *child) lastWords(ended error) error {
	const most = 8 << 10
	b, err := io.ReadAll(io.NewSectionReader(c.log, c.offset, 1<<30))
	if err != nil {
		return errors.Join(ended, err)
	}
	b = bytes.TrimSpace(b[max(0, len(b)-most):])
	var told []string
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "weft: "); ok {
			told = append(told, s)
		}
	}
	if len(told) == 0 {
		return fmt.Errorf("%w; see %s", orEnded(ended), c.log.Name())
	}
	return errors.New(strings.Join(told, "\n"))
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

// handedOver returns the token that the daemon handed over, if it did.
func (c *child) handedOver() string {
	select {
	case t := <-c.token:
		return t
	case <-time.After(200 * time.Millisecond):
		return ""
	}
}

// parent returns what hands a token over to the process that started this one; nil when there is
// no such process.
func parent(fd string) (func(token string), error) {
	if fd == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(fd)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("%s=%s: not a descriptor; unset it", parentEnv, fd)
	}
	w := ownDescriptor(n)
	return func(token string) {
		_, _ = io.WriteString(w, token+"\n") // nobody may be reading any more
		_ = w.Close()
	}, nil
}
