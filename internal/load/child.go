package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// Child is an agent in a process and a network namespace of its own. The namespace ends with the process, and the process
// when its input does: so both end with whoever started them, however that ends.
type Child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	done  chan struct{}
	lines chan Reply // closed when it says nothing more
	said  bytes.Buffer

	doing sync.Mutex // one request at a time
	end   sync.Once
}

// endTime is how long a child may take to end by itself.
const endTime = 2 * time.Second

// Start runs this program again with args, which must make it call Serve on its standard input and output.
func Start(args ...string) (*Child, error) {
	attr, err := isolated()
	if err != nil {
		return nil, fmt.Errorf("start a load agent: %w", err)
	}
	c := &Child{cmd: exec.Command(self, args...), done: make(chan struct{}), lines: make(chan Reply)}
	c.cmd.SysProcAttr, c.cmd.Stderr = attr, &limited{b: &c.said}
	c.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"} // what else is in ours, a token for one, is not for it
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start a load agent: %w", err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a load agent: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a load agent: %w", err)
	}
	go func() {
		defer close(c.done)
		lines := NewLines(out)
		for {
			var r Reply
			if lines.Next(&r) != nil {
				break
			}
			c.lines <- r
		}
		close(c.lines)
		_ = c.cmd.Wait() // how it ended, its output tells
	}()
	return c, nil
}

// PID returns the process's id; it stays the child's until Close.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Do has the child carry out a request. After an error of ctx it is of no more use.
func (c *Child) Do(ctx context.Context, r Request) (Reply, error) {
	c.doing.Lock()
	defer c.doing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, r.Takes())
	defer cancel()
	if err := WriteLine(c.in, r); err != nil {
		return Reply{}, c.lost(err)
	}
	select {
	case reply, ok := <-c.lines:
		switch {
		case !ok:
			return Reply{}, c.lost(io.ErrUnexpectedEOF)
		case reply.Error != "":
			return Reply{}, errors.New(reply.Error)
		}
		return reply, nil
	case <-ctx.Done():
		return Reply{}, fmt.Errorf("load agent: %s: %w", r.Op, ctx.Err())
	}
}

func (c *Child) lost(err error) error {
	select {
	case <-c.done: // else it may still be writing why
		if said := bytes.TrimSpace(c.said.Bytes()); len(said) > 0 {
			return fmt.Errorf("load agent ended: %s", said)
		}
	case <-time.After(endTime):
	}
	return fmt.Errorf("load agent ended: %w", err)
}

// Close ends the child and waits until it is gone.
func (c *Child) Close() {
	c.end.Do(func() {
		_ = c.in.Close()
		timer := time.AfterFunc(endTime, func() { _ = c.cmd.Process.Kill() })
		defer timer.Stop()
		for range c.lines { // a reply that nobody waits for
		}
		<-c.done
	})
}

// limited keeps the first bytes of what is written.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	const most = 4 << 10
	l.b.Write(p[:min(len(p), max(0, most-l.b.Len()))])
	return len(p), nil
}
