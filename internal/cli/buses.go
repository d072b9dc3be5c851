package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/bare"
	"github.com/weft-net/weft/internal/ident"
)

func (a *App) buses() *cobra.Command {
	return &cobra.Command{Use: "buses", Short: "Show buses, and who is on them", Args: words(0, 0, ""), RunE: a.listBuses}
}

// busToken prints what a program needs to join a bus.
func (a *App) busToken(ctx context.Context, name string) error {
	if err := ident.CheckName("bus", name); err != nil {
		return &usageError{err}
	}
	d := a.client()
	defer d.Close()
	t, err := d.BusToken(ctx, name)
	if err != nil {
		return err
	}
	return a.print(t, func(w io.Writer) { row(w, t.Token) })
}

func (a *App) listBuses(cmd *cobra.Command, _ []string) error {
	d := a.client()
	defer d.Close()
	list, err := d.Buses(cmd.Context())
	if err != nil {
		return err
	}
	return a.print(api.Buses{Buses: list}, func(w io.Writer) { busTable(w, list...) })
}

func busTable(w io.Writer, list ...client.Bus) {
	row(w, "BUS", "HOST", "STATE", "ENDPOINT", "MULTICAST", "NOTE")
	for _, b := range list {
		if b.Bare != nil {
			bareRows(w, b)
			continue
		}
		note := "joins when it is needed"
		if b.Joined {
			note = fmt.Sprintf("%d subscriptions here, %d published, %d delivered", b.Subscriptions, b.Published, b.Delivered)
		}
		row(w, b.Name, "this one", joined(b.Joined), "", "", note)
		for _, m := range b.Members {
			var notes []string
			if m.Program {
				notes = append(notes, "a program")
			}
			if !m.Known {
				notes = append(notes, "what it wants is not known yet: it gets everything")
			}
			switch m.Path {
			case "tcp":
				notes = append(notes, "by TCP: UDP does not reach it")
			case "member":
				notes = append(notes, "by way of "+m.Via+": neither UDP nor a connection reaches it")
			}
			row(w, b.Name, m.Host, m.State, m.Endpoint, m.Multicast, strings.Join(notes, "; "))
		}
	}
}

// bareState says what this host does for a bare bus.
func bareState(b *client.Bare) string {
	switch {
	case !b.Here:
		return "not here"
	case b.Problem != "":
		return "failed"
	case b.Bridging:
		return "passing"
	}
	return "waiting"
}

// bareWarning is said wherever one is made or shown.
const bareWarning = "NOT encrypted on the LAN"

func bareRows(w io.Writer, b client.Bus) {
	v := b.Bare
	notes := []string{bareWarning, "subject " + v.Subject}
	switch {
	case v.Problem != "":
		notes = append(notes, v.Problem)
	case v.Here && !v.Bridging && v.Bridge != "":
		notes = append(notes, v.Bridge+" passes them on this LAN")
	case v.Here:
		notes = append(notes, fmt.Sprintf("%d datagrams in, %d out on %s", v.DatagramsIn, v.DatagramsOut, orElse(v.Interface, "no interface")))
	}
	if v.Conflict != "" {
		notes = append(notes, v.Conflict)
	}
	notes = append(notes, "on "+join(v.Hosts))
	row(w, b.Name, "this one", bareState(v), v.Group, "", strings.Join(notes, "; "))
}

func showBus(w io.Writer, b client.Bus) {
	v := b.Bare
	if v == nil {
		busTable(w, b)
		return
	}
	row(w, "name", b.Name)
	row(w, "kind", "bare: plain UDP datagrams, "+bareWarning)
	row(w, "group", v.Group)
	row(w, "subject", v.Subject)
	row(w, "hosts", join(v.Hosts))
	if v.Conflict != "" {
		row(w, "conflict", v.Conflict)
	}
	row(w, "here", bareState(v))
	if !v.Here {
		return
	}
	if v.Problem != "" {
		row(w, "problem", v.Problem)
	}
	row(w, "interface", v.Interface)
	row(w, "TTL", v.TTL)
	row(w, "passed by", orElse(v.Bridge, "nobody yet"))
	row(w, "also on this LAN", join(v.OnLAN))
	row(w, "from the LAN", fmt.Sprintf("%d datagrams, %d bytes", v.DatagramsIn, v.BytesIn))
	row(w, "to the LAN", fmt.Sprintf("%d datagrams, %d bytes", v.DatagramsOut, v.BytesOut))
	for _, reason := range slices.Sorted(maps.Keys(v.Drops)) {
		row(w, "dropped", fmt.Sprintf("%d: %s", v.Drops[reason], reason))
	}
}

func (a *App) bus() *cobra.Command {
	ls := &cobra.Command{Use: "ls", Short: "Show buses, and who is on them", Args: words(0, 0, ""), RunE: a.listBuses}
	show := &cobra.Command{
		Use: "show NAME", Short: "Show all about one bus", Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			b, err := d.Bus(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(b, func(w io.Writer) { showBus(w, b) })
		},
	}
	rm := &cobra.Command{
		Use: "rm NAME", Short: "End a bare bus on this host", Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			if err := d.RemoveBus(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done("removed bus %s from this host", args[0])
		},
	}
	return nouns("bus", "Create, list, show and remove bare buses: plain UDP datagrams of a group, NOT encrypted on the LAN", a.busCreate(), ls, rm, show)
}

func (a *App) busCreate() *cobra.Command {
	var q client.BareCreate
	c := &cobra.Command{
		Use: "create NAME --bare GROUP:PORT", Short: "Pass the plain UDP datagrams of a group to the cluster's bus, and back",
		Long: `Pass the plain UDP datagrams of a multicast group on this host's LAN to a subject
of the cluster's own bus, and what is published on the subject to the group. So a
script of ten lines that knows nothing but the group is heard, and hears, on the
LANs of all hosts that have the bus; weft pub and weft sub and NATS clients reach
it by the subject. Hosts that share a LAN choose one of them that passes.

THE DATAGRAMS ARE NOT ENCRYPTED ON THE LAN, AND ANYONE THERE CAN SEND THEM.
Between the hosts they are.`,
		Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkBare(args[0], q, cmd.Flags().Changed("ttl")); err != nil {
				return &usageError{err}
			}
			d := a.client()
			defer d.Close()
			b, err := d.CreateBus(cmd.Context(), client.BusCreate{Name: args[0], Bare: &q})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "weft: bus %s is BARE: datagrams of %s are not encrypted on the LAN, and anyone there can read and send them\n", b.Name, b.Bare.Group)
			return a.print(b, func(w io.Writer) { busTable(w, b) })
		},
	}
	f := c.Flags()
	f.StringVar(&q.Group, "bare", "", "the group and port: 225.4.5.6:5000, or [ff15::6]:5000 (NOT encrypted on the LAN)")
	f.StringVar(&q.Iface, "iface", "", "interface of the LAN, or an address it has (default: where the route to the group leads)")
	f.IntVar(&q.TTL, "ttl", 1, "how many routers away what is sent is heard, plus one: 1 to 255")
	f.StringVar(&q.Subject, "subject", "", "subject on the cluster's bus (default bare.NAME)")
	return c
}

// checkBare finds what is wrong whatever the host is.
func checkBare(name string, q client.BareCreate, ttl bool) error {
	if err := ident.CheckName("bus", name); err != nil {
		return err
	}
	if q.Group == "" {
		return fmt.Errorf("bus create: --bare GROUP:PORT is missing; other buses are made by the programs that join them")
	}
	group, err := netip.ParseAddrPort(q.Group)
	if err != nil {
		return fmt.Errorf("--bare %s: want GROUP:PORT, IPv6 as [GROUP]:PORT", q.Group)
	}
	if err := bare.CheckGroup(group); err != nil {
		return fmt.Errorf("--bare %w", err)
	}
	if ttl && (q.TTL < 1 || q.TTL > 255) {
		return fmt.Errorf("--ttl %d: want 1 to 255", q.TTL)
	}
	if q.Subject != "" {
		if err := bare.CheckSubject(q.Subject); err != nil {
			return fmt.Errorf("--subject: %w", err)
		}
	}
	return nil
}

func joined(yes bool) string {
	if yes {
		return "joined"
	}
	return "not joined"
}

// busRows shows the bus in the status.
func busRows(w io.Writer, b *client.Bus) {
	if b == nil {
		return
	}
	alive := 0
	for _, m := range b.Members {
		if m.State == "alive" {
			alive++
		}
	}
	if b.Joined {
		row(w, "bus", b.Name, fmt.Sprintf("%d of %d other members alive, UDP port %d, %d subscriptions here", alive, len(b.Members), b.Port, b.Subscriptions))
	}
	if n := b.NATS; n != nil {
		text := fmt.Sprintf("%d clients", n.Clients)
		if n.TLS {
			text += ", TLS"
		}
		if n.Token {
			text += ", token"
		}
		row(w, "nats", n.Address, text)
	}
}
