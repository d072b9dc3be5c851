package discover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"strings"
	"time"
)

const (
	// execTime is how long a program has.
	execTime = 10 * time.Second
	// maxOutput is how much of what it prints is read, in bytes.
	maxOutput = 64 << 10
)

// program asks a program, which prints addresses, one a line. There is no shell: words are separated by spaces, and nothing in them means
// anything. It runs as weft does, in the root directory, with nothing on its standard input and no environment but PATH: none of weft's secrets.
type program struct {
	readOnly
	args []string
	port uint16
	time time.Duration
}

func newExec(cmd string, e Environment) (Source, error) {
	args := strings.Fields(cmd)
	if len(args) == 0 || !path.IsAbs(args[0]) {
		return nil, errors.New("want exec: and the absolute path of a program, with arguments if need be")
	}
	if i := strings.IndexAny(cmd, "\"'`$|;&<>\\"); i >= 0 {
		return nil, fmt.Errorf("%q means nothing here, for no shell runs it: put the command into a script", cmd[i:i+1])
	}
	return &program{args: args, port: e.Port, time: execTime}, nil
}

// bounded keeps the first bytes written to it; the others are counted and dropped. It is no bytes.Buffer: that reads by itself, without a bound.
type bounded struct {
	kept       []byte
	most, over int
}

func (b *bounded) Write(p []byte) (int, error) {
	room := min(len(p), b.most-len(b.kept))
	b.kept = append(b.kept, p[:room]...)
	b.over += len(p) - room
	return len(p), nil
}

func (p *program) Find(ctx context.Context) (Found, error) {
	ctx, cancel := context.WithTimeout(ctx, p.time)
	defer cancel()
	c := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
	out, complaint := &bounded{most: maxOutput}, &bounded{most: 4096}
	c.Stdout, c.Stderr, c.Dir = out, complaint, "/"
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LANG=C.UTF-8"}
	c.WaitDelay = time.Second // its children may hold the pipes
	wholeGroup(c)
	err := c.Run()
	said := lastLine(complaint.kept)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Found{}, fault("it must print addresses, one a line, and end", "%s has not ended after %v and was killed", p.args[0], p.time)
	case errors.As(err, &exit):
		return Found{}, fault("run it by hand: it must end with 0", "%s ended with %v%s", p.args[0], exit.ProcessState, said)
	case errors.Is(err, exec.ErrWaitDelay):
		return Found{}, fault("it must leave no process behind that holds its standard output", "%s ended, and left something running", p.args[0])
	case err != nil:
		return Found{}, fault("the program must be there, and executable", "%v", err)
	case out.over > 0:
		return Found{}, fault("it must print addresses, one a line, and nothing else", "%s prints more than %d bytes", p.args[0], maxOutput)
	}
	var g gather
	g.text(out.kept, p.port)
	return g.all("what " + p.args[0] + " prints")
}

// lastLine is the last thing that a program complained of.
func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
		b = b[i+1:]
	}
	if len(b) == 0 {
		return ""
	}
	return ": " + printable(string(b))
}
