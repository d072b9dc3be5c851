// Package run turns the calling process into a command inside a network: weft run.
//
// The process enters namespaces of its own, has itself attached by the daemon and then executes the
// command in its own place. So signals, exit code and terminal are the command's by construction, and
// when it ends, however it ends, the kernel takes the interface away with the namespace; the daemon,
// which watches the process, frees the address.
package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"

	"github.com/weft-net/weft/internal/api"
)

// Exit codes of weft's own errors; a command's own code is passed through (docker run has the same).
const (
	CodeFailed        = 125 // weft could not do it
	CodeNotExecutable = 126
	CodeNotFound      = 127
)

// Error is a failure before the command ran.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Daemon is what run needs of the client.
type Daemon interface {
	Attach(ctx context.Context, a api.Attach) (api.Attachment, error)
	Detach(ctx context.Context, network, name string) error
}

// Options say what to run and where.
type Options struct {
	Network string // empty: the default one
	Name    string // of the attachment; empty: made from the command's name
	IP      string // IPv4 address wanted; empty: the next free one
	Argv    []string
	Env     []string
}

// find returns the file of a command.
func find(argv []string) (string, error) {
	if len(argv) == 0 || argv[0] == "" {
		return "", &Error{CodeFailed, errors.New("no command: weft run [options] -- COMMAND [ARGUMENT...]")}
	}
	path, err := exec.LookPath(argv[0])
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, nil
	case errors.Is(err, fs.ErrPermission):
		return "", &Error{CodeNotExecutable, fmt.Errorf("command %s: not executable", argv[0])}
	}
	return "", &Error{CodeNotFound, fmt.Errorf("command %s: not found", argv[0])}
}

// nameFor makes an attachment's name from a command's: what ident.CheckName allows, and a suffix that tells two of it apart.
func nameFor(command, suffix string) string {
	command = strings.ToLower(command[strings.LastIndexByte(command, '/')+1:])
	command = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, command)
	command = strings.Trim(command[:min(len(command), 40)], "-")
	if command == "" {
		return suffix
	}
	return command + "-" + suffix
}

// hostsFile is /etc/hosts inside.
func hostsFile(a api.Attachment) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n")
	for _, ip := range a.IPs {
		addr, _, _ := strings.Cut(ip, "/")
		fmt.Fprintf(&b, "%s %s", addr, a.Name)
		if a.FQDN != "" {
			fmt.Fprintf(&b, " %s", a.FQDN)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// resolvFile is /etc/resolv.conf inside. A network without a name service gets none of the host's:
// its servers cannot be reached from here, and asking them would only hang.
func resolvFile(a api.Attachment) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# network %s of weft\n", a.Network)
	if len(a.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(a.Search, " "))
	}
	for _, s := range a.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(a.DNS) == 0 {
		b.WriteString("# no name service here\noptions attempts:1 timeout:1\n")
	}
	return b.String()
}
