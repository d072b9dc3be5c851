package cli

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/names"
)

// inNetwork adds the flag that names a network, and completes it.
func (a *App) inNetwork(c *cobra.Command, network *string, otherwise string) *cobra.Command {
	c.Flags().StringVar(network, "network", "", "network (default "+otherwise+")")
	_ = c.RegisterFlagCompletionFunc("network", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		d := a.client()
		defer d.Close()
		l, err := d.Networks(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, n := range l {
			out = append(out, n.Name)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

func (a *App) names() *cobra.Command { return a.listNames("names") }

func (a *App) listNames(use string) *cobra.Command {
	var network string
	return a.inNetwork(&cobra.Command{
		Use: use, Short: "Show the names in this host's networks, and whose they are", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			l, err := d.Names(cmd.Context(), network)
			if err != nil {
				return err
			}
			return a.print(api.Names{Names: l}, func(w io.Writer) { nameRows(w, l...) })
		},
	}, &network, "all")
}

func nameRows(w io.Writer, l ...client.Name) {
	row(w, "NAME", "ADDRESSES", "KIND", "HOST", "FULL NAME")
	for _, n := range l {
		kind := n.Kind
		if n.Kind == api.NameAlias {
			kind = "alias of " + n.Attachment
		}
		row(w, n.Name, join(n.Addresses), kind, n.Host, n.FQDN)
	}
}

func (a *App) name() *cobra.Command {
	return nouns("name", "Give names in a network, take them back, look them up", a.nameAdd(), a.nameRm(), a.listNames("ls"), a.nameLookup())
}

func (a *App) nameAdd() *cobra.Command {
	var network string
	return a.inNetwork(&cobra.Command{
		Use: "add NAME ADDRESS...", Short: "Give addresses a name in a network",
		Long: `Give addresses a name in a network: NAME.NETWORK.DOMAIN, or NAME alone, leads to
them as long as this host lives. Several hosts may give one name; attachments
have theirs without it.`,
		Args: words(2, -1, "NAME ADDRESS..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			n := client.NameAdd{Network: network, Name: args[0], Addresses: args[1:]}
			if err := checkNames(network, n.Name); err != nil {
				return err
			}
			if err := checkAddresses(n.Addresses); err != nil {
				return err
			}
			d := a.client()
			defer d.Close()
			out, err := d.AddName(cmd.Context(), n)
			if err != nil {
				return err
			}
			return a.print(out, func(w io.Writer) { nameRows(w, out) })
		},
	}, &network, defaultNetwork)
}

func (a *App) nameRm() *cobra.Command {
	var network string
	return a.inNetwork(&cobra.Command{
		Use: "rm NAME [ADDRESS...]", Short: "Take back a name that this host gave", Args: words(1, -1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(network, args[0]); err != nil {
				return err
			}
			if err := checkAddresses(args[1:]); err != nil {
				return err
			}
			d := a.client()
			defer d.Close()
			if err := d.RemoveName(cmd.Context(), orElse(network, defaultNetwork), args[0], args[1:]...); err != nil {
				return err
			}
			if len(args) > 1 {
				return a.done("removed %s from name %s", join(args[1:]), args[0])
			}
			return a.done("removed name %s", args[0])
		},
	}, &network, defaultNetwork)
}

func (a *App) nameLookup() *cobra.Command {
	var network string
	return a.inNetwork(&cobra.Command{
		Use: "lookup NAME|ADDRESS", Short: "Show the addresses of a name, or the names of an address", Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			l, err := d.Lookup(cmd.Context(), network, args[0])
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				list := l.Addresses
				if len(l.Names) > 0 {
					list = l.Names
				}
				for _, x := range list {
					row(w, x)
				}
			})
		},
	}, &network, defaultNetwork)
}

func (a *App) service() *cobra.Command {
	var lsNetwork, rmNetwork string
	ls := a.inNetwork(&cobra.Command{
		Use: "ls", Short: "Show services, and where they are", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			l, err := d.Services(cmd.Context(), lsNetwork)
			if err != nil {
				return err
			}
			return a.print(api.Services{Services: l}, func(w io.Writer) { serviceRows(w, l...) })
		},
	}, &lsNetwork, "all")
	rm := a.inNetwork(&cobra.Command{
		Use: "rm SERVICE NAME", Short: "Take back a service that this host said", Args: words(2, 2, "SERVICE NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkService(rmNetwork, args[0], args[1]); err != nil {
				return err
			}
			d := a.client()
			defer d.Close()
			if err := d.RemoveService(cmd.Context(), orElse(rmNetwork, defaultNetwork), args[0], args[1]); err != nil {
				return err
			}
			return a.done("removed service %s of %s", args[0], args[1])
		},
	}, &rmNetwork, defaultNetwork)
	return nouns("service", "Say where services are, by SRV records and DNS-SD", a.serviceAdd(), rm, ls)
}

func serviceRows(w io.Writer, l ...client.Service) {
	row(w, "SERVICE", "NAME", "PORT", "PRIORITY", "WEIGHT", "TEXTS", "HOST", "FULL NAME")
	for _, s := range l {
		row(w, s.Service, s.Name, s.Port, s.Priority, s.Weight, join(s.Texts), s.Host, s.FQDN)
	}
}

func (a *App) serviceAdd() *cobra.Command {
	var s client.ServiceAdd
	c := &cobra.Command{
		Use: "add _SERVICE._PROTO NAME PORT", Short: "Say where a service is",
		Long: `Say that a service is at a port of a name's addresses: _http._tcp web 80. Programs
find it by browsing (DNS-SD: PTR of _http._tcp.NETWORK.DOMAIN, SRV and TXT of
web._http._tcp.NETWORK.DOMAIN) and by SRV of _http._tcp.web.NETWORK.DOMAIN, as
long as this host lives.`,
		Args: words(3, 3, "_SERVICE._PROTO NAME PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Service, s.Name = args[0], args[1]
			if err := checkService(s.Network, s.Service, s.Name); err != nil {
				return err
			}
			var err error
			if s.Port, err = strconv.Atoi(args[2]); err != nil || s.Port < 1 || s.Port > 65535 {
				return usagef("port %s: want 1 to 65535", args[2])
			}
			for flag, v := range map[string]int{"--priority": s.Priority, "--weight": s.Weight} {
				if v < 0 || v > 65535 {
					return usagef("%s %d: want 0 to 65535", flag, v)
				}
			}
			if err := (names.Service{Port: uint16(s.Port), Texts: s.Texts}).Check(); err != nil {
				return usagef("--txt: %w", err)
			}
			d := a.client()
			defer d.Close()
			out, err := d.AddService(cmd.Context(), s)
			if err != nil {
				return err
			}
			return a.print(out, func(w io.Writer) { serviceRows(w, out) })
		},
	}
	c.Flags().IntVar(&s.Priority, "priority", 0, "the lowest that answers is used")
	c.Flags().IntVar(&s.Weight, "weight", 0, "share among those of one priority")
	c.Flags().StringArrayVar(&s.Texts, "txt", nil, "KEY=VALUE that says more of it (repeatable)")
	return a.inNetwork(c, &s.Network, defaultNetwork)
}

func checkNames(network, name string) error {
	if network != "" {
		if err := ident.CheckName("network", network); err != nil {
			return &usageError{err}
		}
	}
	if err := names.CheckName(name); err != nil {
		return &usageError{err}
	}
	return nil
}

func checkService(network, service, name string) error {
	if err := names.CheckService(service); err != nil {
		return &usageError{err}
	}
	return checkNames(network, name)
}

func checkAddresses(list []string) error {
	for _, t := range list {
		if _, err := netip.ParseAddr(t); err != nil {
			return &usageError{fmt.Errorf("address %s: want IPv4 or IPv6, without a length", t)}
		}
	}
	return nil
}
