package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/docker"
	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/swarm"
	"github.com/weft-net/weft/internal/unixsock"
)

func (a *App) docker() *cobra.Command {
	return nouns("docker", "Networks of weft in Docker, and in its Swarm mode", a.dockerSetup(), a.dockerNetwork(), a.dockerProxy(), a.dockerPlugin(), a.dockerRelay())
}

// dockerSocket adds the flag that says where weft answers Docker.
func (a *App) dockerSocket(c *cobra.Command, socket *string) {
	at := a.env("WEFT_DOCKER_PLUGIN", config.DefaultDockerPlugin)
	if at == "off" {
		at = config.DefaultDockerPlugin
	}
	c.Flags().StringVar(socket, "docker-plugin", at, "where weft answers Docker, as weft up has it (WEFT_DOCKER_PLUGIN)")
	c.PreRunE = func(*cobra.Command, []string) error {
		if !filepath.IsAbs(*socket) {
			return usagef("--docker-plugin %s: want the path of a socket from the root", *socket)
		}
		return nil
	}
}

// engineOf is this host's Docker.
func (a *App) engineOf() (*dockerapi.Client, error) {
	socket, err := dockerapi.Socket(a.env("DOCKER_HOST", ""))
	if err != nil {
		return nil, err
	}
	return dockerapi.New(socket), nil
}

func (a *App) dockerSetup() *cobra.Command {
	var socket string
	var inSwarm, follow bool
	c := &cobra.Command{
		Use: "setup", Short: "Make sure that Docker on this host can use weft",
		Long: `Make sure that Docker on this host can use weft. Without --swarm there is nothing to
install: Docker finds weft by its socket. Where systemd has weft.service it is enabled, so
that weft starts before Docker at boot. With --swarm Docker gets a plugin that it
starts itself, ` + swarm.Driver + `: Swarm takes no other. The plugin is this binary,
made without a registry; it has no rights but to pass Docker's calls on to weft on this
host, and need not follow its upgrades. From then on weft may also make in this Docker
the networks that only hold configuration, for weft docker network create on another
node, and nothing else (--follow=false: not). Done again, nothing changes.

DOCKER_HOST says where Docker's socket is.`,
		Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.engineOf()
			if err != nil {
				return &usageError{err}
			}
			if !inSwarm {
				info, err := swarm.Check(cmd.Context(), d, socket)
				if err != nil {
					return err
				}
				if err := a.done("Docker %s can use weft: docker network create -d weft --ipam-driver weft --ipam-opt weft.network=NAME NAME on each host", info.ServerVersion); err != nil {
					return err
				}
				return a.enableUnit(cmd.Context())
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this binary: %w", err)
			}
			s, err := swarm.SetUp(cmd.Context(), d, self, socket)
			if err != nil {
				return err
			}
			if s.Follows, err = a.follow(cmd.Context(), follow); err != nil {
				return err
			}
			if err := a.setUp(s); err != nil {
				return err
			}
			return a.enableUnit(cmd.Context())
		},
	}
	a.dockerSocket(c, &socket)
	c.Flags().BoolVar(&inSwarm, "swarm", false, "for Swarm mode: install and enable the plugin "+swarm.Driver)
	c.Flags().BoolVar(&follow, "follow", true, "with --swarm: let weft make configurations here that another node asks for")
	return c
}

// follow lets weft make configurations in this host's Docker, or not any more.
func (a *App) follow(ctx context.Context, allow bool) (bool, error) {
	socket := ""
	if allow {
		var err error
		if socket, err = dockerapi.Socket(a.env("DOCKER_HOST", "")); err != nil {
			return false, &usageError{err}
		}
	}
	d := a.client()
	defer d.Close()
	return allow, d.AllowSwarm(ctx, socket)
}

// setUp says what a node has now, and what to do next.
func (a *App) setUp(s swarm.Setup) error {
	if a.json {
		return a.printJSON(struct {
			Plugin  string `json:"plugin"`
			Docker  string `json:"docker"`
			InSwarm bool   `json:"in_swarm"`
			Made    bool   `json:"made"`
			Enabled bool   `json:"enabled"`
			Follows bool   `json:"follows"` // weft may make configurations here
		}{swarm.Driver, s.Docker, s.InSwarm, s.Made, s.Enabled, s.Follows})
	}
	what := "is enabled already"
	switch {
	case s.Made:
		what = "made and enabled"
	case s.Enabled:
		what = "enabled"
	}
	next := "then, on a manager: weft docker network create NAME"
	if !s.InSwarm {
		next = "this node is in no Swarm yet: docker swarm init, or docker swarm join; " + next
	}
	_, err := fmt.Fprintf(a.Out, "plugin %s %s\ndo the same on every node; %s\n", swarm.Driver, what, next)
	return err
}

func (a *App) dockerPlugin() *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use: "plugin DIR", Short: "Write the plugin for Swarm as a folder, for docker plugin create and a registry",
		Args: words(1, 1, "DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this binary: %w", err)
			}
			if err := swarm.WriteDir(args[0], self, socket); err != nil {
				return fmt.Errorf("write the plugin: %w", err)
			}
			return a.done("wrote the plugin: docker plugin create %s %s", swarm.Plugin, args[0])
		},
	}
	a.dockerSocket(c, &socket)
	return c
}

// dockerRelay is what runs in the plugin.
func (a *App) dockerRelay() *cobra.Command {
	var listen, to, known string
	c := &cobra.Command{
		Use: "relay", Short: "Hand Docker's calls to weft on this host", Hidden: true, Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			if !unixsock.Fits(listen) {
				return usagef("--listen %s: too long for a socket", listen)
			}
			l, err := unixsock.Listen(listen, "")
			if err != nil {
				return err
			}
			return docker.NewRelay(to, known, slog.New(slog.NewTextHandler(a.Err, nil))).Serve(ctx, l)
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "socket at which Docker calls")
	c.Flags().StringVar(&to, "to", "", "socket at which weft answers, as seen from here")
	c.Flags().StringVar(&known, "known-as", "", "the same, as seen on the host")
	return c
}

func (a *App) dockerNetwork() *cobra.Command {
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Remove a network from the Swarm, and from this node",
		Long: `Remove a network of the Swarm (on a manager) and, on all nodes, the networks that hold
its configuration. The weft network stays: weft network rm NAME.`,
		Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.engineOf()
			if err != nil {
				return &usageError{err}
			}
			return a.removeSwarmNetwork(cmd.Context(), d, args[0])
		},
	}
	return nouns("network", "Make and remove networks of a Swarm", a.dockerNetworkCreate(), rm)
}

// swarmNetwork is what weft docker network create was asked for.
type swarmNetwork struct {
	client.NetworkCreate
	options  []string
	internal bool
}

func (a *App) dockerNetworkCreate() *cobra.Command {
	var w swarmNetwork
	var subnets []string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a weft network one of the Swarm's",
		Long: `Make a weft network one of the Swarm's, under its name. On a manager: makes the weft
network if there is none, gives all nodes the network NAME-weft, which only holds
configuration, and makes the network of the Swarm. Nodes that are down, or come later,
get theirs when weft is up there; what is left to do by hand is printed. On a worker:
gives that node the configuration. Every node needs weft docker setup --swarm before.
Done again, nothing changes.`,
		Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w.Name = args[0]
			if len(subnets) > 0 {
				w.Subnet, w.Subnets = subnets[0], subnets[1:]
			}
			if err := checkNetwork(w.NetworkCreate); err != nil {
				return &usageError{err}
			}
			return a.createSwarmNetwork(cmd.Context(), w)
		},
	}
	f := c.Flags()
	f.BoolVar(&w.Plain, "plain", false, "a new weft network is plain: unencrypted kernel VXLAN, for underlays you trust")
	f.StringArrayVar(&subnets, "subnet", nil, "IPv4 subnet of a new weft network, CIDR (repeatable; default: a /20 of this host's own range)")
	f.StringArrayVarP(&w.options, "opt", "o", nil, "option of the network: weft.ipv6=false, weft.multicast-route=false, com.docker.network.driver.mtu=N (repeatable)")
	f.BoolVar(&w.internal, "internal", false, "containers have no way out")
	return c
}

// read makes Docker's form of it, all but the subnet.
func (w swarmNetwork) read() (swarm.Network, error) {
	n := swarm.Network{Name: w.Name, Internal: w.internal, Options: map[string]string{}}
	for _, o := range w.options {
		k, v, ok := strings.Cut(o, "=")
		if !ok || k == "" {
			return n, fmt.Errorf("-o %s: want KEY=VALUE", o)
		}
		n.Options[k] = v
	}
	return n, ident.CheckName("network", w.Name)
}

// nodeLeft is a node that has, or lacks, a network's configuration.
type nodeLeft struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Done   bool   `json:"done"`
	Reason string `json:"reason,omitempty"`
}

// swarmNetworkMade is what weft docker network create --json prints.
type swarmNetworkMade struct {
	Network string     `json:"network"`
	Subnet  string     `json:"subnet"`
	Config  string     `json:"config"`
	Manager bool       `json:"manager"`
	Made    bool       `json:"made"` // on this node, or in the Swarm, something was made
	Nodes   []nodeLeft `json:"nodes"`
	Command string     `json:"command"` // for the nodes that are not done
}

func (a *App) createSwarmNetwork(ctx context.Context, w swarmNetwork) error {
	n, err := w.read()
	if err != nil {
		return &usageError{err}
	}
	d, err := a.engineOf()
	if err != nil {
		return &usageError{err}
	}
	info, err := d.Info(ctx)
	if err != nil {
		return err
	}
	if !info.InSwarm() {
		return fmt.Errorf("this Docker is in no Swarm: docker swarm init, or docker swarm join; without Swarm, on each host: docker network create -d weft --ipam-driver weft --ipam-opt weft.network=%s %s", n.Name, n.Name)
	}
	manager := info.Swarm.ControlAvailable
	if n.Subnet, err = a.subnetFor(ctx, w, manager); err != nil {
		return err
	}
	out := swarmNetworkMade{Network: n.Name, Subnet: n.Subnet, Config: swarm.ConfigName(n.Name), Manager: manager, Nodes: []nodeLeft{}, Command: n.Command()}
	if out.Made, err = swarm.MakeConfig(ctx, d, n); err != nil {
		return err
	}
	if manager {
		made, err := swarm.MakeNetwork(ctx, d, n)
		if err != nil {
			return err
		}
		out.Made = out.Made || made
		nodes, err := swarm.Nodes(ctx, d, info.Swarm.NodeID)
		if err != nil {
			return err
		}
		has, err := a.spread(ctx, n)
		if err != nil {
			return err
		}
		for _, x := range nodes {
			out.Nodes = append(out.Nodes, left(x, has))
		}
	}
	if a.json {
		return a.printJSON(out)
	}
	return out.write(a.Out)
}

// left says what a node lacks, beside what hosts say of themselves.
func left(x swarm.Node, has []client.SwarmNode) nodeLeft {
	l := nodeLeft{ID: x.ID, Name: x.Name}
	i := slices.IndexFunc(has, func(h client.SwarmNode) bool { return h.Node == x.ID })
	switch {
	case i >= 0 && has[i].Waiting:
		l.Reason = "no answer of weft there yet"
	case i >= 0 && has[i].Reason != "":
		l.Reason = has[i].Reason
	case i >= 0:
		l.Done = true
	case !x.Ready:
		l.Reason = "down"
	case !x.Plugin:
		l.Reason = "no plugin: weft docker setup --swarm there, first"
	}
	return l
}

func (m swarmNetworkMade) write(w io.Writer) error {
	where := "this node"
	if m.Manager {
		where = "the Swarm, and this node"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "network %s (%s) is in %s\n", m.Network, m.Subnet, where)
	if slices.ContainsFunc(m.Nodes, func(n nodeLeft) bool { return !n.Done }) {
		fmt.Fprintf(&text, "type on these nodes, before tasks come there:\n  %s\n", m.Command)
		for _, n := range m.Nodes {
			if !n.Done {
				fmt.Fprintf(&text, "    %s\n", strings.TrimSuffix(n.Name+"  "+n.Reason, "  "))
			}
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// subnetFor returns the subnet of a weft network, which a manager makes, or takes up, so that one subnet is agreed on before tasks ask.
func (a *App) subnetFor(ctx context.Context, w swarmNetwork, manager bool) (string, error) {
	d := a.client()
	defer d.Close()
	n, err := d.Network(ctx, w.Name)
	switch {
	case client.IsCode(err, client.CodeNotFound) && !manager:
		return "", fmt.Errorf("weft has no network %s: on a manager of the Swarm first: weft docker network create %s", w.Name, w.Name)
	case err != nil && !client.IsCode(err, client.CodeNotFound):
		return "", err
	case err == nil && w.Plain && n.Engine != api.EnginePlain:
		return "", fmt.Errorf("network %s is sealed, not plain, and a network's engine never changes: choose another name", w.Name)
	case err != nil || n.Bridge == "" && manager:
		w.Plain = w.Plain || err == nil && n.Engine == api.EnginePlain
		if n, err = d.CreateNetwork(ctx, w.NetworkCreate); err != nil {
			return "", err
		}
	}
	if n.Engine == api.EnginePlain {
		fmt.Fprintf(a.Err, "weft: network %s is PLAIN: its frames cross the underlay unencrypted, and anyone on the way can read and change them\n", n.Name)
	}
	for _, s := range append([]string{w.Subnet}, w.Subnets...) {
		if s != "" && !slices.Contains(n.Subnets, s) {
			return "", fmt.Errorf("network %s has the subnets %s, not %s: leave --subnet out, or choose another name", w.Name, join(n.Subnets), s)
		}
	}
	if w.Subnet != "" && len(w.Subnets) == 0 {
		return w.Subnet, nil
	}
	for _, s := range n.Subnets { // the first: when it is full, its pool is answered from the others
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
			return s, nil
		}
	}
	return "", fmt.Errorf("network %s has no IPv4 subnet: choose another name", w.Name)
}
