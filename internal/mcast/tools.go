package mcast

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// ErrTimeout is wrapped by Recv's error when the time was over before enough datagrams came.
var ErrTimeout = errors.New("timed out")

// SendLines sends each line of in as one datagram, without its newline. It ends with in.
func SendLines(ctx context.Context, in io.Reader, s *Sender) error {
	return lines(in, func(line []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return s.Send(line)
	})
}

// lines calls f with each line of in, without its newline; a last line needs none.
func lines(in io.Reader, f func([]byte) error) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 0, 4096), MaxDatagram+2)
	sc.Split(splitLine)
	for n := 1; sc.Scan(); n++ {
		if err := f(sc.Bytes()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line is longer than a datagram holds (%d bytes)", MaxDatagram)
	}
	return sc.Err()
}

// splitLine is bufio.ScanLines but for carriage returns, which belong to the payload.
func splitLine(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// RecvOptions say when Recv ends.
type RecvOptions struct {
	Count   int           // datagrams; 0: no end
	Timeout time.Duration // from the start; 0: none
	// Harmless writes control characters as escapes: set it when the output is a terminal.
	Harmless bool
}

// Recv writes each datagram and a newline to out, at once. It ends after Count datagrams, with
// ErrTimeout when Timeout comes before that, or without error when ctx ends.
func Recv(ctx context.Context, r *Receiver, out io.Writer, o RecvOptions) error {
	if o.Timeout > 0 {
		if err := r.SetReadDeadline(time.Now().Add(o.Timeout)); err != nil {
			return fmt.Errorf("receive from %s: %w", r.target, err)
		}
	}
	defer unblock(ctx, r)() // after the deadline: it sets a nearer one
	b := make([]byte, MaxDatagram+1)
	for got := 0; o.Count == 0 || got < o.Count; got++ {
		n, _, err := r.Read(b[:MaxDatagram])
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && o.Count == 0:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w after %v: %d of %d datagrams came to %s", ErrTimeout, o.Timeout, got, o.Count, r.target)
		default:
			return fmt.Errorf("receive from %s: %w", r.target, err)
		}
		line := b[:n]
		if o.Harmless {
			line = []byte(Harmless(line))
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// unblock makes Read fail when ctx ends; the function it returns undoes that.
func unblock(ctx context.Context, r *Receiver) func() {
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// ChatOptions are the two ends of a chat on this side.
type ChatOptions struct {
	In  io.Reader // each line is sent; its end ends sending, not listening
	Out io.Writer
	// Prompt, if not empty, is shown before the line being typed. It stays here.
	Prompt string
}

// Chat sends lines and shows what others send as "ADDRESS: text" until ctx ends. It returns nil
// then; a read of In that hangs is left behind.
func Chat(ctx context.Context, r *Receiver, s *Sender, o ChatOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	defer unblock(ctx, r)()
	screen := &screen{out: o.Out, prompt: o.Prompt}
	screen.ask()
	go func() {
		err := lines(o.In, func(line []byte) error {
			defer screen.ask()
			if line = bytes.TrimSuffix(line, []byte{'\r'}); len(line) == 0 {
				return nil
			}
			return s.Send(line)
		})
		if err != nil {
			failed <- err
			cancel()
		}
	}()
	b := make([]byte, MaxDatagram)
	for {
		n, from, err := r.Read(b)
		if ctx.Err() != nil {
			select {
			case err := <-failed:
				return err
			default:
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("receive from %s: %w", r.target, err)
		}
		// Some programs send the newline, too.
		text := bytes.TrimRight(b[:n], "\r\n")
		if len(text) == 0 || s.Own(from) {
			continue
		}
		if err := screen.show(from.Addr().WithZone("").String() + ": " + Harmless(text)); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
}

// screen keeps what arrives and what is being typed apart.
type screen struct {
	mu     sync.Mutex
	out    io.Writer
	prompt string
}

func (s *screen) ask() {
	if s.prompt == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, s.prompt)
}

func (s *screen) show(line string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prompt != "" {
		line = "\r\x1b[K" + line + "\n" + s.prompt
	} else {
		line += "\n"
	}
	_, err := io.WriteString(s.out, line)
	return err
}
