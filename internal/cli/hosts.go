package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
)

func (a *App) hosts() *cobra.Command {
	return &cobra.Command{Use: "hosts", Short: "Show the hosts of the cluster", Args: words(0, 0, ""), RunE: a.listHosts}
}

func (a *App) listHosts(cmd *cobra.Command, _ []string) error {
	d := a.client()
	defer d.Close()
	l, err := d.Hosts(cmd.Context())
	if err != nil {
		return err
	}
	err = a.print(l, func(w io.Writer) {
		row(w, "NAME", "STATE", "ID", "VERSION", "ENDPOINTS", "NOTE")
		for _, h := range l.Hosts {
			var notes []string
			if h.Warning != "" {
				notes = append(notes, h.Warning)
			} else if h.Self {
				notes = append(notes, "this host")
			}
			if h.Ephemeral {
				notes = append(notes, "ephemeral")
			}
			note := strings.Join(notes, ", ")
			row(w, h.Name, h.State, short(h.ID), h.Version, join(h.Endpoints), note)
		}
	})
	if err != nil || a.json || len(l.Strangers) == 0 {
		return err
	}
	return a.print(nil, func(w io.Writer) {
		row(w)
		row(w, "WRONG SECRET FROM", "TIMES", "LAST")
		for _, s := range l.Strangers {
			row(w, s.Source, s.BadSecret, s.LastSeen.UTC().Format(time.DateTime+"Z"))
		}
	})
}

func (a *App) host() *cobra.Command {
	var force bool
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Bar a host that is gone for good and take its addresses", Args: words(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			r, err := d.RemoveHost(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) {
				row(w, "removed", r.Name, short(r.ID))
				row(w, "ranges", join(r.Ranges), "now of "+r.Heir)
				row(w, "in use", join(r.InUse), "known to be in use there")
				if len(r.NotSeen) > 0 {
					row(w, "not seen", join(r.NotSeen), "networks that this host has not: what is in use there is not known here")
				}
				row(w, "token", "rotated", "print the new one: weft token")
			})
		},
	}
	rm.Flags().BoolVar(&force, "force", false, "go on without a majority of the last known hosts: two halves of a partition may then both take the addresses")
	return nouns("host", "List and remove hosts",
		&cobra.Command{Use: "ls", Short: "Show the hosts of the cluster", Args: words(0, 0, ""), RunE: a.listHosts}, rm)
}

func (a *App) token() *cobra.Command {
	show := func(get func(context.Context, *client.Client) (string, error)) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			t, err := get(cmd.Context(), d)
			if err != nil {
				return err
			}
			// Alone on one line: for T=$(weft token).
			return a.print(map[string]string{"token": t}, func(w io.Writer) { row(w, t) })
		}
	}
	var bus string
	c := &cobra.Command{
		Use: "token", Short: "Print the token that admits new hosts, or programs to a bus",
		Long: `Print the token that admits new hosts to the cluster, alone on one line.

With --bus NAME, print the one that admits programs to a bus, and to nothing else:
what package bus takes as Config.Token, with NAME as Config.Name. --json prints the
seeds as well, addresses of the hosts that are on the bus. The host that printed it
stays on the bus, so that programs find it. The cluster's own bus is weft; its token
changes with the cluster's (weft token rotate, weft host rm).

A token is a secret. It is printed to those who may use the daemon's socket.`,
		Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("bus") {
				return a.busToken(cmd.Context(), bus)
			}
			return show(func(ctx context.Context, d *client.Client) (string, error) { return d.Token(ctx) })(cmd, args)
		},
	}
	c.Flags().StringVar(&bus, "bus", "", "bus to admit programs to: "+client.ClusterBus+" is the cluster's own")
	busCompletion(c)
	c.AddCommand(&cobra.Command{
		Use: "rotate", Short: "Replace the token; hosts that were admitted stay so", Args: words(0, 0, ""),
		RunE: show(func(ctx context.Context, d *client.Client) (string, error) { return d.RotateToken(ctx) }),
	})
	return c
}

func (a *App) connect() *cobra.Command {
	return &cobra.Command{
		Use: "connect HOST...", Short: "Keep trying to reach hosts at these addresses", Args: words(1, -1, "HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			if err := d.Connect(cmd.Context(), args...); err != nil {
				return err
			}
			return a.done("trying %s", join(args))
		},
	}
}

func (a *App) forget() *cobra.Command {
	return &cobra.Command{
		Use: "forget HOST...", Short: "Stop trying to reach hosts at these addresses", Args: words(1, -1, "HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := a.client()
			defer d.Close()
			if err := d.Forget(cmd.Context(), args...); err != nil {
				return err
			}
			return a.done("forgot %s", join(args))
		},
	}
}

// pings is what weft ping --json prints.
type pings struct {
	Host        string               `json:"host"`
	Probes      []client.ProbeResult `json:"probes"`
	Sent        int                  `json:"sent"`
	Received    int                  `json:"received"`
	LossPercent float64              `json:"loss_percent"`
}

func (a *App) ping() *cobra.Command {
	var (
		count    int
		size     int
		interval time.Duration
		timeout  time.Duration
		stream   bool
	)
	c := &cobra.Command{
		Use: "ping HOST", Short: "Measure the round trip to a host over weft", Args: words(1, 1, "HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case count < 0:
				return usagef("--count %d: want 0 (no end) or more", count)
			case size < 0 || size > 65507:
				return usagef("--size %d: want 0 to 65507 bytes", size)
			case stream && size > 0:
				return usagef("--size %d: a stream is opened and closed, it carries nothing", size)
			case interval < 10*time.Millisecond:
				return usagef("--interval %v: want 10ms or more", interval)
			case timeout < time.Millisecond || timeout > time.Minute:
				return usagef("--timeout %v: want 1ms to 1m", timeout)
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			return a.pingLoop(ctx, args[0], count, interval, client.Probe{SizeBytes: size, TimeoutMS: int(timeout.Milliseconds()), Stream: stream})
		},
	}
	c.Flags().IntVarP(&count, "count", "c", 0, "stop after this many probes (0: at Ctrl-C)")
	c.Flags().BoolVar(&stream, "stream", false, "open a stream (TCP) each time instead of sending a packet (UDP)")
	c.Flags().IntVarP(&size, "size", "s", 0, "payload in bytes")
	c.Flags().DurationVarP(&interval, "interval", "i", time.Second, "time between probes")
	c.Flags().DurationVarP(&timeout, "timeout", "W", time.Second, "time to wait for each answer")
	return c
}

func (a *App) pingLoop(ctx context.Context, host string, count int, interval time.Duration, p client.Probe) error {
	d := a.client()
	defer d.Close()
	all := pings{Host: host, Probes: []client.ProbeResult{}}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for count == 0 || all.Sent < count {
		if all.Sent > 0 {
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		if ctx.Err() != nil {
			break
		}
		r, err := d.Probe(ctx, host, p)
		switch {
		case err == nil:
			all.Sent, all.Received = all.Sent+1, all.Received+1
			if a.json && count > 0 { // without an end, nobody could hold them
				all.Probes = append(all.Probes, r)
			}
		case ctx.Err() != nil:
			continue
		case client.IsCode(err, client.CodeTimeout):
			all.Sent++
		default:
			return err
		}
		if !a.json {
			a.showProbe(all.Sent, r, err)
		}
	}
	if all.Sent > 0 {
		all.LossPercent = 100 * float64(all.Sent-all.Received) / float64(all.Sent)
	}
	if a.json {
		if err := a.printJSON(all); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.Out, "%s: %d sent, %d received, %.1f %% lost\n", host, all.Sent, all.Received, all.LossPercent)
	}
	if all.Sent > 0 && all.Received == 0 {
		return errors.New("no answer of host " + host)
	}
	return nil
}

func (a *App) showProbe(n int, r client.ProbeResult, err error) {
	if err != nil {
		fmt.Fprintf(a.Out, "%d: %v\n", n, err)
		return
	}
	path := pathOf(client.Link{Path: r.Path, Via: r.Via})
	text := fmt.Sprintf("%d: %s", n, ms(r.RTTMS))
	if r.SizeBytes > 0 {
		text += fmt.Sprintf(", %d bytes", r.SizeBytes)
	}
	text += ", " + path
	if r.Endpoint != "" {
		text += ", " + r.Endpoint
	}
	fmt.Fprintln(a.Out, text)
}
