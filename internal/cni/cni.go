// Package cni is weft as a plugin of the Container Network Interface: it translates what a runtime asks by environment and standard
// input into requests of the host's daemon.
//
// The specification is 1.1 (github.com/containernetworking/cni, SPEC.md); versions since 0.1.0 are answered in their own form. An
// attachment is known by its name alone, which follows from what the runtime says each time,
//
//	cni-NETWORK-CONTAINER
//
// hashes of the name of the CNI network, and of the container's id and the interface that the runtime names. So the plugin keeps
// nothing on disk: a repeated ADD finds what the first one made, DEL and CHECK find it without the namespace, and GC finds all of one
// CNI network and none of another's.
package cni

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
)

const (
	// pluginType is what configurations call weft, and the name of the binary in the runtime's folder.
	pluginType     = "weft"
	defaultNetwork = "weft"

	// callTime is how long one call may take: a new address may have to be asked of another host. Runtimes wait for minutes.
	callTime = 60 * time.Second
)

// Weft is what the plugin asks of the daemon; *client.Client is one.
type Weft interface {
	Status(ctx context.Context) (client.Status, error)
	Networks(ctx context.Context) ([]client.Network, error)
	Attachments(ctx context.Context) ([]client.Attachment, error)
	Attach(ctx context.Context, a client.Attach) (client.Attachment, error)
	Detach(ctx context.Context, network, name string) error
	SetAliases(ctx context.Context, network, attachment string, aliases ...string) error
}

// Plugin is one call of a runtime.
type Plugin struct {
	Env []string // NAME=VALUE
	In  io.Reader
	Out io.Writer
	// Dial returns the daemon with a run directory; empty: where it is by default.
	Dial func(runDir string) Weft
	// Host is what the plugin looks at by itself.
	Host Host
}

const envCommand = "CNI_COMMAND"

// Called reports whether a process was started by a runtime: with CNI_COMMAND in its environment, and without arguments.
func Called(args, env []string) bool {
	return len(args) == 1 && lookup(env, envCommand) != ""
}

func lookup(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// Main answers the call and returns the exit code.
func (p *Plugin) Main(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	c, out, err := p.answer(ctx)
	code := 0
	if err != nil {
		e := *told(err)
		e.Version = c.Version
		if !slices.Contains(versions, e.Version) {
			e.Version = latest
		}
		out, code = encode(e), 1
	}
	if len(out) == 0 {
		return code
	}
	if _, err := p.Out.Write(append(out, '\n')); err != nil {
		return 1
	}
	return code
}

// encode writes what cannot fail to be written.
func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err)
	}
	return b
}

// call is what a runtime says of one attachment.
type call struct {
	config
	command   string
	container string            // its id
	netns     string            // its namespace; DEL may do without
	ifname    string            // the interface
	args      map[string]string // CNI_ARGS
}

// commands by what they need. CHECK came with version 0.4.0 of the specification, GC and STATUS with 1.1.0.
var commands = map[string]struct {
	attachment bool // CNI_CONTAINERID and CNI_IFNAME
	netns      bool
	since      string
	do         func(*Plugin, context.Context, Weft, call) ([]byte, error)
}{
	"ADD":    {true, true, unsaid, (*Plugin).add},
	"DEL":    {true, false, unsaid, (*Plugin).del},
	"CHECK":  {true, true, "0.4.0", (*Plugin).check},
	"GC":     {false, false, "1.1.0", (*Plugin).gc},
	"STATUS": {false, false, "1.1.0", (*Plugin).status},
}

// answer does what was asked. What it returns of the configuration is as far as it could be read.
func (p *Plugin) answer(ctx context.Context) (config, []byte, error) {
	c := call{command: lookup(p.Env, envCommand)}
	if c.command == "VERSION" {
		return p.version()
	}
	what, ok := commands[c.command]
	if !ok {
		return config{}, nil, errorf(CodeEnvironment, "%s: %.40q is none of ADD, DEL, CHECK, GC, STATUS, VERSION", envCommand, c.command)
	}
	var err error
	if c.config, err = readConfig(p.In); err != nil {
		return c.config, nil, err
	}
	if !since(c.Version, what.since) {
		return c.config, nil, errorf(CodeVersion, "%s came with version %s, the configuration is of %s", c.command, what.since, c.Version)
	}
	if what.attachment {
		c.container, c.netns, c.ifname = lookup(p.Env, "CNI_CONTAINERID"), lookup(p.Env, "CNI_NETNS"), lookup(p.Env, "CNI_IFNAME")
		switch {
		case !plainName.MatchString(c.container):
			return c.config, nil, errorf(CodeEnvironment, "CNI_CONTAINERID %.80q: want letters, digits, '_', '.' and '-', a letter or digit first", c.container)
		case !interfaceName.MatchString(c.ifname):
			return c.config, nil, errorf(CodeEnvironment, "CNI_IFNAME %.40q: want 1 to 15 letters, digits, '_', '.' and '-'", c.ifname)
		case what.netns && c.netns == "":
			return c.config, nil, errorf(CodeEnvironment, "CNI_NETNS is empty: want the file of the container's network namespace")
		}
	}
	out, err := what.do(p, ctx, p.Dial(c.RunDir), c)
	return c.config, out, err
}

// version says what is understood. The version asked with comes back, whatever it is.
func (p *Plugin) version() (config, []byte, error) {
	c, err := readConfig(p.In)
	if err != nil && c.Version == "" { // nothing has to be said on standard input
		c.Version = latest
	}
	return c, encode(struct {
		Version   string   `json:"cniVersion"`
		Supported []string `json:"supportedVersions"`
	}{c.Version, versions}), nil
}

// name returns the attachment's name in its weft network.
func (c call) name() string {
	return prefix(c.Name) + nameOf(c.container, c.ifname)
}

// prefix begins the names of all attachments of a CNI network.
func prefix(network string) string { return "cni-" + digest(8, network) + "-" }

// nameOf is the rest of the name: 80 bits of a hash.
func nameOf(container, ifname string) string { return digest(16, container, ifname) }

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// digest returns n characters, 5 bits each, of a hash of texts that hold no zero byte.
func digest(n int, texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return base32Lower.EncodeToString(sum[:])[:n]
}

// status tells whether a container could be added now.
func (p *Plugin) status(ctx context.Context, w Weft, c call) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s, err := w.Status(ctx)
	switch {
	case err != nil:
		e := told(err)
		e.Code = CodeDisconnected
		if errors.Is(err, client.ErrNoDaemon) {
			e.Details = "until then containers hear those on this host only"
		}
		return nil, e
	case s.State == api.StateJoining, s.State == api.StateStopping:
		e := errorf(CodeUnavailable, "weft on this host is %s", s.State)
		if s.Reason != "" {
			e = errorf(CodeUnavailable, "weft on this host is %s: %s", s.State, s.Reason)
		}
		return nil, e.with("weft status says more")
	}
	for _, l := range s.Limits {
		if l.Name == "attachments" && l.Used >= l.Max {
			return nil, errorf(CodeUnavailable, "this host has %d attachments, the most it takes", l.Used)
		}
	}
	all, err := w.Networks(ctx)
	if err != nil {
		e := told(err)
		e.Code = CodeUnavailable
		return nil, e
	}
	if !slices.ContainsFunc(all, func(n client.Network) bool { return n.Name == c.Network }) {
		return nil, errorf(CodeUnavailable, "no network %q", c.Network).with(fmt.Sprintf("weft network create %s, on any host", c.Network))
	}
	return nil, nil
}
