package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
)

func (a *App) networks() *cobra.Command {
	return &cobra.Command{Use: "networks", Short: "Show the networks of the cluster", Args: words(0, 0, ""), RunE: a.listNetworks}
}

func (a *App) listNetworks(cmd *cobra.Command, _ []string) error {
	d := a.client()
	defer d.Close()
	l, err := d.Networks(cmd.Context())
	if err != nil {
		return err
	}
	return a.print(api.Networks{Networks: l}, func(w io.Writer) { networkRows(w, l...) })
}

func networkRows(w io.Writer, l ...client.Network) {
	row(w, "NAME", "VNI", "ENGINE", "MTU", "SUBNETS", "HOSTS", "ATTACHMENTS", "NOTE")
	for _, n := range l {
		row(w, n.Name, n.VNI, n.Engine, n.MTU, join(n.Subnets), len(n.Hosts), n.Attachments, note(n))
	}
}

// engine names a network's engine so that nobody takes a plain one for safe.
func engine(n client.Network) string {
	if n.Engine == api.EnginePlain {
		return n.Engine + " (NOT encrypted)"
	}
	return n.Engine
}

func note(n client.Network) string {
	var notes []string
	if n.Engine == api.EnginePlain {
		notes = append(notes, "NOT encrypted")
	}
	if len(n.Problems) > 0 {
		notes = append(notes, fmt.Sprintf("problems with %d hosts: weft network show %s", len(n.Problems), n.Name))
	}
	if n.Conflict != "" {
		notes = append(notes, n.Conflict)
	}
	return strings.Join(notes, "; ")
}

func (a *App) network() *cobra.Command {
	ls := &cobra.Command{Use: "ls", Short: "Show the networks of the cluster", Args: words(0, 0, ""), RunE: a.listNetworks}
	show := &cobra.Command{
		Use: "show NAME", Short: "Show all about one network", Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			n, err := d.Network(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(n, func(w io.Writer) { showNetwork(w, n) })
		},
	}
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Withdraw this host's copy of a network", Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			if err := d.RemoveNetwork(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done("removed network %s from this host", args[0])
		},
	}
	return nouns("network", "Create, list, show and remove networks", a.networkCreate(), ls, show, rm)
}

func showNetwork(w io.Writer, n client.Network) {
	row(w, "name", n.Name)
	row(w, "VNI", n.VNI)
	row(w, "engine", engine(n))
	row(w, "subnets", join(n.Subnets))
	row(w, "MTU", n.MTU)
	row(w, "DNS", n.DNS)
	row(w, "bridge", n.Bridge)
	row(w, "hosts", join(n.Hosts))
	row(w, "attachments", n.Attachments)
	row(w, "allowed groups", orElse(join(n.AllowGroups), "all"))
	row(w, "denied groups", join(n.DenyGroups))
	row(w, "rate", number(n.Rate))
	if n.Conflict != "" {
		row(w, "conflict", n.Conflict)
	}
	for _, p := range n.Problems {
		row(w, "problem", p.Host+": "+p.Reason)
	}
}

func (a *App) networkCreate() *cobra.Command {
	var n client.NetworkCreate
	var subnets []string
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a network, or take up the one of that name", Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			if len(subnets) > 0 {
				n.Subnet, n.Subnets = subnets[0], subnets[1:]
			}
			if err := checkNetwork(n); err != nil {
				return &usageError{err}
			}
			d := a.client()
			defer d.Close()
			out, err := d.CreateNetwork(cmd.Context(), n)
			if err != nil {
				return err
			}
			if out.Engine == api.EnginePlain {
				fmt.Fprintf(a.Err, "weft: network %s is PLAIN: its frames cross the underlay unencrypted, and anyone on the way can read and change them\n", out.Name)
			}
			return a.print(out, func(w io.Writer) { networkRows(w, out) })
		},
	}
	f := c.Flags()
	f.BoolVar(&n.Plain, "plain", false, "unencrypted kernel VXLAN, for underlays you trust")
	f.StringArrayVar(&subnets, "subnet", nil, "IPv4 subnet, CIDR (repeatable; default: a /20 of this host's own range, and more when all are in use)")
	f.StringVar(&n.Subnet6, "subnet6", "", "IPv6 subnet, CIDR (default: a /64 of the cluster's range)")
	f.StringArrayVar(&n.AllowGroups, "allow-group", nil, "let only these groups pass, address or CIDR (repeatable)")
	f.StringArrayVar(&n.DenyGroups, "deny-group", nil, "stop these groups, address or CIDR (repeatable)")
	f.IntVar(&n.Rate, "rate", 0, "broadcast and unregistered groups per attachment, in frames per second")
	return c
}

// checkNetwork finds what is wrong with a definition whatever the cluster is.
func checkNetwork(n client.NetworkCreate) error {
	if err := ident.CheckName("network", n.Name); err != nil {
		return err
	}
	if n.Rate < 0 {
		return fmt.Errorf("--rate %d: want 0 (the default) or more", n.Rate)
	}
	var subnets []netip.Prefix
	for i, s := range append([]string{n.Subnet6, n.Subnet}, n.Subnets...) {
		flag := "--subnet"
		if i == 0 {
			flag = "--subnet6"
		}
		if s == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("%s %s: want ADDRESS/BITS", flag, s)
		}
		if p != p.Masked() {
			return fmt.Errorf("%s %s: did you mean %s?", flag, s, p.Masked())
		}
		if p.Addr().Is4() != (flag == "--subnet") {
			return fmt.Errorf("%s %s: wrong IP version; --subnet is IPv4, --subnet6 is IPv6", flag, s)
		}
		for _, o := range subnets {
			if p.Overlaps(o) {
				return fmt.Errorf("--subnet %s overlaps --subnet %s", p, o)
			}
		}
		subnets = append(subnets, p)
	}
	if n.Subnet6 != "" && len(n.Subnets) > 0 {
		return errors.New("--subnet6 goes with one --subnet: leave it out, each has a /64 of the cluster's")
	}
	for _, g := range n.AllowGroups {
		if err := checkGroups("--allow-group", g); err != nil {
			return err
		}
	}
	for _, g := range n.DenyGroups {
		if err := checkGroups("--deny-group", g); err != nil {
			return err
		}
	}
	return nil
}

func checkGroups(flag, s string) error {
	if !strings.Contains(s, "/") {
		g, err := netip.ParseAddr(s)
		if err != nil || !g.IsMulticast() {
			return fmt.Errorf("%s %s: not a multicast address", flag, s)
		}
		return nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p != p.Masked() || !p.Addr().IsMulticast() || p.Bits() < multicastBits(p.Addr()) {
		return fmt.Errorf("%s %s: not a range of multicast addresses", flag, s)
	}
	return nil
}

// multicastBits is the prefix length of all multicast: 224.0.0.0/4 and ff00::/8.
func multicastBits(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 8
}

func (a *App) groups() *cobra.Command {
	return &cobra.Command{
		Use: "groups", Short: "Show multicast groups, their members and their traffic", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			l, err := d.Groups(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(api.Groups{Groups: l}, func(w io.Writer) {
				row(w, "NETWORK", "GROUP", "SOURCE", "PACKETS IN", "PACKETS OUT", "COPIES SENT", "COPIES SAVED", "MEMBERS")
				for _, g := range l {
					members := make([]string, len(g.Members))
					for i, m := range g.Members {
						members[i] = m.Attachment + "@" + m.Host
					}
					if g.Uncounted { // by the kernel, which carries it: no number is better than a wrong one
						row(w, g.Network, g.Group, g.Source, "-", "-", "-", "-", join(members))
						continue
					}
					row(w, g.Network, g.Group, g.Source, g.PacketsIn, g.PacketsOut, g.CopiesSent, g.CopiesSaved, join(members))
				}
			})
		},
	}
}

func (a *App) ipam() *cobra.Command {
	return &cobra.Command{
		Use: "ipam", Short: "Show which host owns which addresses", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			l, err := d.IPAM(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(api.IPAM{IPAM: l}, func(w io.Writer) {
				row(w, "RANGE", "NETWORK", "SUBNET", "OWNER", "STATE", "USED", "FREE")
				for _, r := range l {
					row(w, r.Range, r.Network, r.Subnet, r.Owner, r.State, r.Used, r.Free)
				}
			})
		},
	}
}
