package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/run"
)

const defaultNetwork = "weft"

func (a *App) attachments() *cobra.Command {
	return &cobra.Command{
		Use: "attachments", Short: "Show what is plugged into the networks", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			l, err := d.Attachments(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(api.Attachments{Attachments: l}, func(w io.Writer) { attachmentRows(w, l...) })
		},
	}
}

func attachmentRows(w io.Writer, l ...client.Attachment) {
	row(w, "NAME", "NETWORK", "HOST", "KIND", "MAC", "IPS")
	for _, at := range l {
		row(w, at.Name, at.Network, at.Host, at.Kind, at.MAC, join(at.IPs))
	}
}

// plug is what all commands share that make an attachment.
type plug struct {
	network, name string
	ips           []string
}

func (p *plug) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.network, "network", defaultNetwork, "network")
	c.Flags().StringVar(&p.name, "name", "", "name of the attachment (default: made up)")
	c.Flags().StringArrayVar(&p.ips, "ip", nil, "address wanted; once for IPv4, once for IPv6 (default: the next free ones)")
}

func (p *plug) check() error {
	if err := ident.CheckName("network", p.network); err != nil {
		return &usageError{err}
	}
	if p.name != "" {
		if err := ident.CheckName("attachment", p.name); err != nil {
			return &usageError{err}
		}
	}
	for _, ip := range p.ips {
		addr, err := netip.ParseAddr(ip)
		if err != nil || addr.Zone() != "" || addr.IsMulticast() || addr.IsUnspecified() {
			return usagef("address %s: want an IPv4 or IPv6 unicast address without a prefix length", ip)
		}
	}
	return nil
}

// place is a namespace named by one of three flags.
type place struct {
	netns, container string
	pid              int
}

func (p *place) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.netns, "netns", "", "path of a network namespace, such as /run/netns/NAME")
	c.Flags().IntVar(&p.pid, "pid", 0, "process whose namespace it is")
	c.Flags().StringVar(&p.container, "container", "", "id of a container")
	c.MarkFlagsMutuallyExclusive("netns", "pid", "container")
}

func (p *place) given() bool { return p.netns != "" || p.pid != 0 || p.container != "" }

func (p *place) check() error {
	if p.pid < 0 {
		return usagef("--pid %d: want a process id", p.pid)
	}
	if p.netns == "" {
		return nil
	}
	abs, err := filepath.Abs(p.netns)
	if err != nil {
		return fmt.Errorf("--netns %s: %w", p.netns, err)
	}
	p.netns = abs
	return nil
}

func (a *App) attach() *cobra.Command {
	var p plug
	var at place
	c := &cobra.Command{
		Use: "attach --netns PATH|--pid PID|--container ID", Short: "Plug a namespace or container into a network", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !at.given() {
				return usagef("say what to attach: --netns PATH, --pid PID or --container ID")
			}
			if err := errors.Join(p.check(), at.check()); err != nil {
				return err
			}
			kind := client.KindNetns
			if at.container != "" {
				kind = client.KindContainer
			}
			return a.plugIn(cmd.Context(), client.Attach{
				Network: p.network, Name: p.name, IPs: p.ips, Kind: kind,
				Netns: at.netns, PID: at.pid, Container: at.container,
			})
		},
	}
	p.flags(c)
	at.flags(c)
	return c
}

func (a *App) plugIn(ctx context.Context, want client.Attach) error {
	d := a.client()
	defer d.Close()
	got, err := d.Attach(ctx, want)
	if err != nil {
		return err
	}
	return a.print(got, func(w io.Writer) { attachmentRows(w, got) })
}

func (a *App) detach() *cobra.Command {
	var network string
	var at place
	c := &cobra.Command{
		Use: "detach NAME|--netns PATH|--pid PID|--container ID", Short: "Unplug an attachment of this host", Args: words(0, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == at.given() {
				return usagef("say what to detach: NAME, --netns PATH, --pid PID or --container ID")
			}
			if err := at.check(); err != nil {
				return err
			}
			// A name is of the default network unless another is given; a place may be in several.
			if len(args) == 1 {
				return a.unplug(cmd.Context(), fmt.Sprintf("attachment %s in network %s", args[0], network), func(v client.Attachment) bool {
					return v.Name == args[0] && v.Network == network
				})
			}
			anyNetwork := !cmd.Flags().Changed("network")
			return a.unplug(cmd.Context(), "attachment of "+strings.TrimSpace(at.netns+at.container+" "+number(at.pid)), func(v client.Attachment) bool {
				return (anyNetwork || v.Network == network) && at.is(v)
			})
		},
	}
	c.Flags().StringVar(&network, "network", defaultNetwork, "network")
	at.flags(c)
	return c
}

func (p *place) is(v client.Attachment) bool {
	switch {
	case p.netns != "":
		return v.Netns == p.netns
	case p.pid != 0:
		return v.PID == p.pid
	}
	// A container is found by any beginning of its id that people use.
	return v.Container != "" && strings.HasPrefix(v.Container, p.container)
}

// unplug detaches what matches on this host.
func (a *App) unplug(ctx context.Context, what string, match func(client.Attachment) bool) error {
	d := a.client()
	defer d.Close()
	all, err := d.Attachments(ctx)
	if err != nil {
		return err
	}
	var here []client.Attachment
	for _, v := range all {
		switch {
		case !match(v):
		case v.Local:
			here = append(here, v)
		default:
			err = fmt.Errorf("%s is on host %s: detach it there", what, v.Host)
		}
	}
	if len(here) == 0 {
		if err == nil {
			err = fmt.Errorf("no %s (weft attachments lists them)", what)
		}
		return err
	}
	names := make([]string, len(here))
	for i, v := range here {
		names[i] = v.Name
		if err := d.Detach(ctx, v.Network, v.Name); err != nil {
			return err
		}
	}
	return a.done("detached %s", join(names))
}

func (a *App) expose() *cobra.Command {
	var network string
	var route bool
	c := &cobra.Command{
		Use: "expose [IP]", Short: "Give this host itself an address in a network", Args: words(0, 1, "IP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := plug{network: network, ips: args}
			if err := p.check(); err != nil {
				return err
			}
			return a.plugIn(cmd.Context(), client.Attach{Network: network, IPs: args, Kind: client.KindHost, MulticastRoute: route})
		},
	}
	c.Flags().StringVar(&network, "network", defaultNetwork, "network")
	c.Flags().BoolVar(&route, "multicast-route", false, "route 224.0.0.0/4 into the network, for programs that do not choose an interface")
	return c
}

func (a *App) hide() *cobra.Command {
	var network string
	c := &cobra.Command{
		Use: "hide", Short: "Take this host's own address out of a network", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.unplug(cmd.Context(), "exposed address in network "+network, func(v client.Attachment) bool {
				return v.Kind == client.KindHost && v.Network == network && v.Local
			})
		},
	}
	c.Flags().StringVar(&network, "network", defaultNetwork, "network")
	return c
}

func (a *App) run() *cobra.Command {
	var p plug
	c := &cobra.Command{
		Use: "run [flags] -- COMMAND...", Short: "Run a command in its own namespace, attached to a network",
		Long: `Run a command in its own network namespace, attached to a network.

The exit code is the command's own; 125: weft failed, 126: the command
cannot be executed, 127: it was not found.`,
		Args: words(1, -1, "COMMAND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.check(); err != nil {
				return err
			}
			d := a.client()
			defer d.Close()
			return run.Exec(cmd.Context(), d, run.Options{
				Network: p.network, Name: p.name, IPs: p.ips, Args: args, Env: a.publicEnv(), RunDir: a.runDir,
			})
		},
	}
	p.flags(c)
	// The first word that is no flag begins the command: its flags are its own.
	c.Flags().SetInterspersed(false)
	return c
}

// publicEnv returns the environment without weft's secret.
func (a *App) publicEnv() []string { return a.envWithout(tokenEnv) }
