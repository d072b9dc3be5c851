package cli

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weft-net/weft/internal/mcast"
)

const ifaceHelp = "interface (default: weft0 if it is there, else where the route to the group leads, else all)"

// groupArg parses a group and refuses what a tool cannot do.
func (a *App) groupArg(s string) (mcast.Target, error) {
	if a.json {
		return mcast.Target{}, usagef("--json is not for datagrams: they are printed as they are")
	}
	t, err := mcast.Parse(s)
	if err != nil {
		return t, &usageError{err}
	}
	return t, nil
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *App) chat() *cobra.Command {
	var iface string
	c := &cobra.Command{
		Use: "chat GROUP:PORT [NICK]", Short: "Talk to a multicast group: lines in, lines out",
		Long: `Send each line as one datagram to a multicast group, and show what others send.
No daemon is needed. IPv6 is [GROUP]:PORT, one sender only is GROUP,SENDER:PORT.
NICK is shown here only: it is not sent.`,
		Args: words(1, 2, "GROUP:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.groupArg(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			return a.talk(ctx, t, iface, args[1:])
		},
	}
	c.Flags().StringVar(&iface, "iface", "", ifaceHelp)
	return c
}

func (a *App) talk(ctx context.Context, t mcast.Target, iface string, nick []string) error {
	r, err := mcast.Listen(ctx, t, iface)
	if err != nil {
		return err
	}
	defer r.Close()
	to := t
	to.Source = mcast.Target{}.Source // who listens to one sender still talks to all
	s, err := mcast.NewSender(ctx, to, iface, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	o := mcast.ChatOptions{In: a.In, Out: a.Out}
	if isTerminal(a.In) && isTerminal(a.Out) {
		o.Prompt = "> "
		if len(nick) > 0 {
			o.Prompt = nick[0] + "> "
		}
	}
	return mcast.Chat(ctx, r, s, o)
}

func (a *App) send() *cobra.Command {
	var iface string
	var ttl int
	c := &cobra.Command{
		Use: "send GROUP:PORT", Short: "Send each line of the input as one multicast datagram", Args: words(1, 1, "GROUP:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.groupArg(args[0])
			if err != nil {
				return err
			}
			if t.Source.IsValid() {
				return usagef("group %s: a sender does not choose the source; leave it out", args[0])
			}
			if ttl < 1 || ttl > 255 {
				return usagef("--ttl %d: want 1 to 255", ttl)
			}
			s, err := mcast.NewSender(cmd.Context(), t, iface, ttl)
			if err != nil {
				return err
			}
			defer s.Close()
			return mcast.SendLines(cmd.Context(), a.In, s)
		},
	}
	c.Flags().StringVar(&iface, "iface", "", ifaceHelp)
	c.Flags().IntVar(&ttl, "ttl", 1, "routers that the datagrams may pass, plus one")
	return c
}

func (a *App) recv() *cobra.Command {
	var iface string
	var o mcast.RecvOptions
	c := &cobra.Command{
		Use: "recv GROUP[,SOURCE]:PORT", Short: "Print multicast datagrams, one per line", Args: words(1, 1, "GROUP:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.groupArg(args[0])
			if err != nil {
				return err
			}
			if o.Count < 0 {
				return usagef("-n %d: want 0 (no end) or more", o.Count)
			}
			if o.Timeout < 0 || cmd.Flags().Changed("timeout") && o.Timeout < time.Millisecond {
				return usagef("--timeout %v: want 1ms or more", o.Timeout)
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			r, err := mcast.Listen(ctx, t, iface)
			if err != nil {
				return err
			}
			defer r.Close()
			o.Harmless = isTerminal(a.Out)
			return mcast.Recv(ctx, r, a.Out, o)
		},
	}
	c.Flags().StringVar(&iface, "iface", "", ifaceHelp)
	c.Flags().IntVarP(&o.Count, "count", "n", 0, "end after this many datagrams (0: no end)")
	c.Flags().DurationVar(&o.Timeout, "timeout", 0, "end after this time; before -n datagrams came, that is a failure")
	return c
}
