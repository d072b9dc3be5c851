// Package run turns the calling process into a command in its own network namespace, attached to
// a network.
//
// The command is executed in place: process id, terminal, signals and exit code are its own by
// construction, and nothing of weft stays behind to pass them on.
package run

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/weft-net/weft/client"
)

// Exit codes of weft run itself, as env(1) and docker run have them.
const (
	ExitFailed        = 125 // weft could not make the namespace or the attachment
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// Error says with which code the process should end.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func failed(format string, args ...any) error {
	return &Error{ExitFailed, fmt.Errorf(format, args...)}
}

// Daemon is what run asks of the daemon; *client.Client is one.
type Daemon interface {
	Attach(ctx context.Context, a client.Attach) (client.Attachment, error)
	Detach(ctx context.Context, network, name string) error
}

// Options of a run.
type Options struct {
	Network string   // empty: the daemon's default
	Name    string   // empty: made from the command's
	IPs     []string // empty: the next free ones
	Args    []string // the command and its arguments; at least one
	Env     []string
	// RunDir is an existing directory that is covered for a moment while the command's own
	// resolv.conf and hosts are put in place; the daemon's run directory does.
	RunDir string
}

// maxName is the length of a DNS label, which an attachment's name is.
const maxName = 63

// nameFor returns a name for an attachment that runs the command: its base name, as far as a DNS
// label can hold it, and four random digits.
func nameFor(command string) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, filepath.Base(command))
	label = strings.Trim(label[:min(len(label), maxName-5)], "-")
	if label == "" {
		label = "run"
	}
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return label + "-" + hex.EncodeToString(b[:])
}

// lookPath finds the command before anything is made for it.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return filepath.Abs(path)
	case errors.Is(err, exec.ErrDot):
		return "", &Error{ExitNotFound, fmt.Errorf("command %s is in the current directory only: write ./%s", name, name)}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", &Error{ExitNotFound, fmt.Errorf("command %s: not found", name)}
	}
	return "", &Error{ExitNotExecutable, fmt.Errorf("command %s: not executable", name)}
}
