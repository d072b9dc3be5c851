package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
)

// How long weft status --wait waits for the first link, and how often it looks.
const (
	waitForLink = 30 * time.Second
	waitStep    = 100 * time.Millisecond
)

func (a *App) status() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "status", Short: "Show how this host fares, and what is wrong", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			var s client.Status
			var err error
			if wait {
				s, err = waitStatus(cmd.Context(), d, a.linkWait, func(s client.Status) bool { return s.LinksUp() > 0 })
			} else {
				s, err = d.Status(cmd.Context())
			}
			if err != nil {
				return err
			}
			if err := a.print(s, func(w io.Writer) { showStatus(w, s) }); err != nil {
				return err
			}
			switch {
			case wait && s.LinksUp() == 0:
				return &degradedError{fmt.Sprintf("no link after %v", a.linkWait)}
			case s.State == api.StateRemoved:
				return &degradedError{"this host is no member any more: " + s.Reason}
			case s.Degraded():
				return &degradedError{"this host reaches no other: " + orElse(s.Reason, s.State)}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until the first link is up, 30 s at most")
	return c
}

// waitStatus asks until the daemon answers something that is enough, or the time is over. It
// returns the last answer; an error only when there never was one.
func waitStatus(ctx context.Context, d *client.Client, limit time.Duration, enough func(client.Status) bool) (client.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(waitStep)
	defer tick.Stop()
	var last client.Status
	lastErr := client.ErrNoDaemon
	for {
		s, err := d.Status(ctx)
		switch {
		case err == nil && enough(s):
			return s, nil
		case err == nil:
			last, lastErr = s, nil
		case ctx.Err() == nil && last.Host == "":
			lastErr = err
			if !errors.Is(err, client.ErrNoDaemon) && !client.IsCode(err, client.CodeUnavailable) {
				return last, err
			}
		}
		select {
		case <-ctx.Done():
			return last, lastErr
		case <-tick.C:
		}
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func showStatus(w io.Writer, s client.Status) {
	row(w, "host", s.Host, short(s.HostID))
	row(w, "state", s.State, s.Reason)
	row(w, "cluster", s.Cluster, fmt.Sprintf("%d of %d hosts alive", s.HostsAlive, s.HostsKnown))
	up := "up " + seconds(s.UptimeS)
	if h := s.HandedOver; h != nil {
		up += fmt.Sprintf(", handed over by %s; frames waited %.1f ms", h.Version, h.PauseMS)
	}
	row(w, "version", s.Version, up)
	row(w, "port", s.Port, "UDP and TCP, must be open to the other hosts; "+join(s.Endpoints))
	row(w, "range", s.Range, s.Range6)
	switch {
	case len(s.UnderlayGroups) > 0:
		row(w, "multicast", fmt.Sprintf("hears %d, heard by %d", s.Heard, s.HeardBy), "hosts on the underlay; "+join(s.UnderlayGroups))
	case s.Range != "":
		row(w, "multicast", "off", "this cluster uses none on the underlay")
	}
	for _, d := range s.Discovery {
		row(w, "discover", d.State, d.Source+": "+discoveryOf(d, time.Now()))
	}
	row(w, "links", paths(s.Paths), "")
	for _, l := range s.Detours {
		row(w, "", l.Host, pathOf(l)+": "+l.Reason)
	}
	for _, x := range s.Seeds {
		if !x.Reached {
			row(w, "looking for", x.Name, orElse(x.Error, "no answer yet; weft forget "+x.Name+" ends it"))
		}
	}
	for _, n := range s.Networks {
		row(w, "network", n.Name, fmt.Sprintf("%s, VNI %d, MTU %d, %d attachments, %s", engine(n), n.VNI, n.MTU, n.Attachments, join(n.Subnets)))
	}
	busRows(w, s.Bus)
	for _, d := range s.Drops {
		row(w, "dropped", d.Count, d.Reason)
	}
	for _, l := range s.Limits {
		// Half full is nobody's concern.
		if l.Max > 0 && l.Used >= l.Max/10*9 {
			row(w, "limit", l.Name, fmt.Sprintf("%d of %d used", l.Used, l.Max))
		}
	}
	for _, warning := range s.Warnings {
		text := warning.Text
		if warning.Count > 1 {
			text += fmt.Sprintf(" (%d times)", warning.Count)
		}
		row(w, "warning", warning.Code, text)
		if warning.Fix != "" {
			row(w, "", "", "fix: "+warning.Fix)
		}
	}
}

// discoveryOf says how a source of hosts fares; why it fails stands among the warnings.
func discoveryOf(d api.Discovery, now time.Time) string {
	out := []string{"has not answered yet"}
	if d.LastSuccess != nil {
		out = []string{fmt.Sprintf("%d addresses", d.Addresses)}
		if n := len(d.Unanswered); n > 0 {
			out = append(out, fmt.Sprintf("%d without an answer (%s)", n, join(d.Unanswered[:min(n, 3)])))
		}
		switch {
		case d.Registered:
			out = append(out, "this host is registered")
		case !d.ReadOnly && d.State == api.DiscoveryOK:
			out = append(out, "this host is not registered")
		}
		out = append(out, "answered "+seconds(max(now.Sub(*d.LastSuccess).Seconds(), 0))+" ago")
	}
	if d.State == api.DiscoveryFailing {
		out = append(out, fmt.Sprintf("%d tries failed, the next in %s", d.Failures, seconds(d.RetryS)))
	}
	return strings.Join(out, ", ")
}

// paths counts links by path, best first.
func paths(counts map[string]int) string {
	var out []string
	for _, p := range []string{api.PathMulticast, api.PathKernel, api.PathDirect, api.PathRelayed, api.PathNone} {
		if n := counts[p]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, p))
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func pathOf(l client.Link) string {
	if l.Path == api.PathRelayed && l.Via != "" {
		return "relayed via " + l.Via
	}
	return l.Path
}

func streamOf(l client.Link) string {
	if l.StreamVia != "" {
		return "via " + l.StreamVia
	}
	return l.Stream
}

func (a *App) links() *cobra.Command {
	return &cobra.Command{
		Use: "links", Short: "Show how packets reach each host, and why not better", Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := a.client()
			defer d.Close()
			links, err := d.Links(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(links, func(a, b client.Link) int { return strings.Compare(a.Host, b.Host) })
			return a.print(api.Links{Links: links}, func(w io.Writer) {
				row(w, "HOST", "PATH", "ENDPOINT", "RTT", "MTU", "LOSS", "STREAMS", "MULTICAST", "REASON")
				for _, l := range links {
					row(w, l.Host, pathOf(l), l.Endpoint, ms(l.RTTMS), number(l.MTU), fmt.Sprintf("%.0f %%", l.LossPercent), streamOf(l), l.Multicast, l.Reason)
				}
			})
		},
	}
}
