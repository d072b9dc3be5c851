package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/sdnotify"
)

// tokenEnv carries the token, so that it is in no argument list.
const tokenEnv = "WEFT_TOKEN"

// UpOptions are what weft up was called with. Precedence over the environment, the configuration
// file and the defaults is left to who reads them.
type UpOptions struct {
	// Hosts are the arguments: hosts to join by.
	Hosts []string
	// Flags holds the flags that were given, by name without dashes, with their values as text;
	// paths in them are absolute. It never has detach.
	Flags map[string][]string
	// Env is the environment at the start: the token is no longer in the process's own.
	Env []string
	// Stderr is where to log to.
	Stderr io.Writer
	// Founded must be called with the token when a cluster was founded, before the socket answers.
	Founded func(token string)
	// Ready must be called once the socket answers: systemd waits for it.
	Ready func()
}

// upFlags are the flags of weft up; the daemon's side knows their defaults and checks them.
func upFlags(f *pflag.FlagSet) {
	f.String("token", "", "token of the cluster; better WEFT_TOKEN or --token-file")
	f.String("token-file", "", "file with the token")
	f.String("name", "", "name of this host (default: hostname)")
	f.String("port", "", "UDP and TCP port (default 6783)")
	f.String("advertise", "", "IP[:PORT] where other hosts reach this one")
	f.String("range", "", "IPv4 range of a new cluster (default 10.32.0.0/12)")
	f.Bool("force", false, "start although the range overlaps a route of this host")
	f.Bool("ephemeral", false, "this host comes and goes: it borrows its addresses, and when it is gone for 15 minutes they come back by themselves")
	f.String("mtu", "", "MTU of networks, 1280 to 9000 (default 1400)")
	f.String("domain", "", "domain of the names of a new cluster (default weft.internal)")
	f.StringArray("underlay-group", nil, "multicast group on the underlay of a new cluster, one of a family at most, or off (default: follows from its id)")
	f.String("underlay-ttl", "", "TTL of multicast on the underlay of a new cluster (default 1)")
	f.String("fanout", "", "packets that leave this host at most for one frame to many, 2 to 32 (default 8)")
	f.String("state-dir", "", "where this host's identity and state are kept (default "+defaultStateDir+")")
	f.String("nats", "", "where NATS clients connect: ADDRESS:PORT or unix:PATH (default off)")
	f.String("nats-token-file", "", "file with the token that NATS clients must show")
	f.String("nats-cert", "", "file with the certificate for TLS with NATS clients")
	f.String("nats-key", "", "file with its private key")
	f.Bool("nats-open", false, "let other machines connect by NATS although no token or no TLS is asked for")
	f.String("docker-plugin", "", "where Docker finds weft: a socket, or off (default /run/docker/plugins/weft.sock; off with another --run-dir)")
	f.String("docker-names", "", "socket of Docker, whose names of containers the name service is to know, or off (default off)")
	f.String("bench", "", "on or off: take part in weft bench net (default on)")
	f.String("log-level", "", "debug, info, warn or error (default info)")
	f.String("log-format", "", "logfmt or json (default logfmt)")
	f.StringArray("discover", nil, "find hosts by a source, again and again: consul://HOST:8500/NAME, etcd://HOST:2379/NAME, dns+srv://_weft._udp.NAME, dns://NAME, lan, exec:/PROGRAM, swarm; several times, or off")
	f.Bool("detach", false, "run in the background; log to RUN_DIR/weft.log, or to systemd's journal")
	f.Bool("replace", false, "take the place of a running weft of the same version, too")
	// Understood by the configuration and refused by the daemon; shown once the parts behind them are there.
	f.String("api", "", "")
	_ = f.MarkHidden("api")
}

// discoverForms complete --discover: what comes before a host's own names.
var discoverForms = []cobra.Completion{
	"consul://\tconsul://HOST:8500/NAME", "consul+https://\tthe same by TLS", "etcd://\tetcd://HOST:2379,HOST:2379/NAME", "etcd+https://\tthe same by TLS",
	"dns+srv://\tdns+srv://_weft._udp.NAME", "dns://\taddresses of a name", "lan\tbeacons on the local segment", "exec:/\ta program that prints addresses",
	"swarm\tnodes of this machine's Docker Swarm", "off\tnone, whatever was given before",
}

func (a *App) up() *cobra.Command {
	c := &cobra.Command{
		Use: "up [HOST...]", Short: "Run this host: found a cluster, or join one",
		Long: `Run this host in the foreground. The first host founds a cluster and prints its
token; others join by naming one that is there, with the token. A host that was
up before goes on with what it knew.

--discover finds hosts by what their machines already have, in place of names: a
store (Consul, etcd), DNS, the local segment, a program, or Docker's Swarm. With
a token such a host joins, and waits for others if nobody is there yet; without
one it founds a cluster, unless there is one already.

Where a weft of another version runs, this one takes its place without a pause:
sockets, keys and uplinks are handed over, and traffic goes on.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.Up == nil {
				return fmt.Errorf("this weft (%s) cannot run a host: that needs Linux; chat, send and recv work here", runtime.GOOS)
			}
			flags, err := a.given(cmd.Flags())
			if err != nil {
				return err
			}
			if detach, _ := cmd.Flags().GetBool("detach"); detach {
				return a.upDetached(cmd.Context(), args, flags)
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			founded, err := a.founded()
			if err != nil {
				return err
			}
			_ = os.Unsetenv(tokenEnv) // children of ours need not have it
			defer context.AfterFunc(ctx, func() { _ = sdnotify.Send(sdnotify.Stopping) })()
			return a.Up(ctx, UpOptions{
				Hosts: args, Flags: flags, Env: a.envWithout(parentEnv), Stderr: a.Err, Founded: founded,
				// Without systemd it does nothing; with it, failing to say so is systemd's to notice.
				Ready: func() { _ = sdnotify.Send(sdnotify.Ready) },
			})
		},
	}
	upFlags(c.Flags())
	_ = c.RegisterFlagCompletionFunc("discover", cobra.FixedCompletions(discoverForms, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return c
}

// given returns the flags that were set. Paths become absolute: a daemon's directory may change.
func (a *App) given(f *pflag.FlagSet) (map[string][]string, error) {
	out := map[string][]string{}
	var failed error
	f.Visit(func(f *pflag.Flag) {
		switch v := f.Value.(type) {
		case pflag.SliceValue:
			out[f.Name] = v.GetSlice()
		default:
			out[f.Name] = []string{v.String()}
		}
		switch f.Name {
		case "detach", "json":
			delete(out, f.Name)
		case "run-dir":
			out[f.Name][0] = a.runDir
		case "docker-plugin", "docker-names":
			if out[f.Name][0] == "off" {
				break
			}
			fallthrough
		case "state-dir", "token-file", "nats-token-file", "nats-cert", "nats-key":
			abs, err := filepath.Abs(out[f.Name][0])
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("--%s: %w", f.Name, err))
			}
			out[f.Name][0] = abs
		}
	})
	return out, failed
}

// founded returns what to do with a new cluster's token: print it or, in the background, hand it
// to the process that started this one.
func (a *App) founded() (func(string), error) {
	handOver, err := parent(a.env(parentEnv, ""))
	if err != nil {
		return nil, err
	}
	if handOver != nil {
		_ = os.Unsetenv(parentEnv)
		return handOver, nil
	}
	return func(token string) {
		if a.json {
			_ = a.printJSON(map[string]string{"token": token})
			return
		}
		_, _ = fmt.Fprintln(a.Out, token)
	}, nil
}

// How long weft down waits until the daemon has gone.
const downTimeout = 30 * time.Second

func (a *App) down() *cobra.Command {
	var o client.Down
	stateDir := a.env("WEFT_STATE_DIR", defaultStateDir)
	c := &cobra.Command{
		Use: "down", Short: "Stop this host",
		Long: `Stop this host. Bridges, attachments and programs wait for the next weft up:
sealed traffic stops, plain traffic goes on. --clean removes all of it; --leave
also gives this host's addresses back and leaves the cluster for good.`,
		Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), downTimeout)
			defer cancel()
			err := d.Down(ctx, o)
			if errors.Is(err, client.ErrNoDaemon) {
				return a.downWithout(ctx, o, stateDir, err)
			}
			if err != nil {
				return err
			}
			if err := gone(ctx, d); err != nil {
				return err
			}
			return a.done("stopped")
		},
	}
	c.Flags().BoolVar(&o.Leave, "leave", false, "give the addresses back and leave the cluster for good")
	c.Flags().BoolVar(&o.Clean, "clean", false, "remove bridges and attachments, too")
	c.Flags().StringVar(&stateDir, "state-dir", stateDir, "the host's state directory, for --clean without a daemon")
	c.MarkFlagsMutuallyExclusive("leave", "clean")
	return c
}

// downWithout does what can be done when no daemon runs.
func (a *App) downWithout(ctx context.Context, o client.Down, stateDir string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return err
	case o.Leave:
		return fmt.Errorf("only a running host can give its addresses back: %w", err)
	case !o.Clean:
		return a.done("not running")
	case a.Clean == nil:
		return fmt.Errorf("this weft (%s) cannot run a host, nor clean up after one: that needs Linux", runtime.GOOS)
	}
	state, absErr := filepath.Abs(stateDir)
	if absErr != nil {
		return fmt.Errorf("--state-dir: %w", absErr)
	}
	if err := a.Clean(ctx, CleanOptions{RunDir: a.runDir, StateDir: state}); err != nil {
		return fmt.Errorf("clean up after a daemon that no longer runs: %w", err)
	}
	return a.done("cleaned")
}

// gone waits until nothing answers at the socket.
func gone(ctx context.Context, d *client.Client) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := d.Status(ctx); errors.Is(err, client.ErrNoDaemon) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the daemon at %s has not ended after %v", d.Socket(), downTimeout)
		case <-tick.C:
		}
	}
}

// settled reports whether a starting daemon has reached its first state.
func settled(s client.Status) bool {
	return s.State == api.StateFounded || s.State == api.StateConnected
}
