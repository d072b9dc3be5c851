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
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/load"
)

// AgentArgs make this program a load agent, which the daemon starts for a measurement.
var AgentArgs = []string{"bench", "agent"}

func (a *App) bench() *cobra.Command {
	agent := &cobra.Command{
		Use: "agent", Short: "Make and count traffic, as told on standard input", Hidden: true, Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return load.Serve(cmd.Context(), a.In, a.Out) },
	}
	return nouns("bench", "Measure", a.benchNet(), a.benchBus(), agent)
}

func (a *App) benchNet() *cobra.Command {
	var (
		r        client.BenchRequest
		duration time.Duration
	)
	c := &cobra.Command{
		Use: "net [HOST...]", Short: "Measure a network between this host and others",
		Long: `Measure a network between this host and others, all that have it unless some are
named, as programs use it: every host plugs a temporary attachment into the
network, and takes it out when the measurement ends, however it ends.

  rtt      round trips of small datagrams, one every 10 ms: median and 99th percentile
  tcp      one connection, as fast as it goes
  udp      datagrams handed over many at once (UDP GSO)
  pps64    packets of 64 bytes, one by one
  pps1400  packets of 1400 bytes, one by one
  mcast    packets of 1400 bytes to a group that all the others join

udp, pps64, pps1400 and mcast show the highest rate found with less than 0.1 % lost.
CPU/GB is processor seconds for 10^9 bytes of payload delivered: of weft on the
hosts of the row, and of all that runs on their machines. A host takes part in one
measurement at a time. It loads the hosts and the links between them.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Hosts, r.DurationMS = args, int(duration.Milliseconds())
			if err := checkBench(r, duration); err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			return a.runBench(ctx, r)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Network, "network", defaultNetwork, "network")
	f.StringSliceVar(&r.Tests, "tests", nil, "some of "+strings.Join(api.BenchTests, ",")+" (default: all)")
	f.DurationVar(&duration, "duration", api.DefaultBenchMS*time.Millisecond, "of each test, 200ms to 1m")
	f.IntVar(&r.Rate, "rate", 0, "mcast: datagrams per second, at most 1000000 (default: the highest without loss)")
	f.IntVar(&r.MaxMbit, "max-mbit", 0, "what no test may exceed, in Mbit/s (default: nothing)")
	_ = c.RegisterFlagCompletionFunc("tests", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return api.BenchTests, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

// checkBench finds what is wrong with a measurement whatever the cluster is.
func checkBench(r client.BenchRequest, duration time.Duration) error {
	if err := ident.CheckName("network", r.Network); err != nil {
		return &usageError{err}
	}
	if err := checkBenchAny(r.Tests, api.BenchTests, duration, len(r.Hosts)); err != nil {
		return err
	}
	switch {
	case r.Rate < 0 || r.Rate > api.MaxBenchRate:
		return usagef("--rate %d: want 0 (look for it) to %d datagrams per second", r.Rate, api.MaxBenchRate)
	case r.Rate > 0 && len(r.Tests) > 0 && !slices.Contains(r.Tests, api.BenchMcast):
		return usagef("--rate %d: it is that of test %s, which --tests leaves out", r.Rate, api.BenchMcast)
	case r.MaxMbit < 0 || r.MaxMbit > 1_000_000:
		return usagef("--max-mbit %d: want 0 (no bound) to 1000000", r.MaxMbit)
	}
	return nil
}

// checkBenchAny checks what measurements of networks and of buses share.
func checkBenchAny(tests, known []string, duration time.Duration, hosts int) error {
	for _, t := range tests {
		if !slices.Contains(known, t) {
			return usagef("--tests %s: want some of %s", t, strings.Join(known, ","))
		}
	}
	switch {
	case duration < 200*time.Millisecond || duration > api.MaxBenchMS*time.Millisecond:
		return usagef("--duration %v: want 200ms to 1m", duration)
	case hosts > api.MaxBenchHosts:
		return usagef("%d hosts: at most %d take part", hosts, api.MaxBenchHosts)
	}
	return nil
}

func (a *App) runBench(ctx context.Context, r client.BenchRequest) error {
	d := a.client()
	defer d.Close()
	out, err := d.BenchNet(ctx, r, a.benchProgress)
	if err := a.benchOver(ctx, err, out.Skipped); err != nil {
		return err
	}
	if err := a.print(out, func(w io.Writer) { benchRows(w, out) }); err != nil {
		return err
	}
	failed := 0
	for _, row := range out.Bench {
		if row.Error != "" {
			failed++
		}
	}
	return benchFailed(failed, len(out.Bench))
}

// benchProgress tells what begins.
func (a *App) benchProgress(p client.BenchProgress) {
	if p.Number == 0 {
		fmt.Fprintf(a.Err, "%6.1f s  preparing\n", p.ElapsedS)
		return
	}
	fmt.Fprintf(a.Err, "%6.1f s  %d of %d: %s to %s\n", p.ElapsedS, p.Number, p.Of, p.Test, join(p.To))
}

// benchOver says why there is nothing to show, and who is missing in what there is.
func (a *App) benchOver(ctx context.Context, err error, skipped []client.BenchSkip) error {
	if ctx.Err() != nil {
		return errors.New("measurement stopped")
	}
	if err != nil {
		return err
	}
	for _, s := range skipped {
		fmt.Fprintf(a.Err, "weft: not measured: %s\n", s.Reason)
	}
	return nil
}

func benchFailed(failed, of int) error {
	if failed > 0 {
		return fmt.Errorf("%d of %d measurements failed", failed, of)
	}
	return nil
}

func benchRows(w io.Writer, b client.Bench) {
	row(w, "TEST", "TO", "MBIT/S", "PACKETS/S", "LOST", "DUPLICATES", "RTT P50", "RTT P99", "CPU/GB WEFT", "CPU/GB ALL", "NOTE")
	for _, r := range b.Bench {
		lost, twice := "", ""
		if r.Sent > 0 {
			lost = percent(r.LossPercent)
		}
		if len(r.Receivers) > 0 {
			twice = fmt.Sprint(r.Duplicates)
		}
		row(w, r.Test, join(r.To), figure(r.MbitPerS), figure(r.PacketsPerS), lost, twice, ms(r.RTTP50MS), ms(r.RTTP99MS),
			perGB(r.DaemonsSPerGB), perGB(r.MachinesSPerGB), benchNote(r))
		if len(r.Receivers) > 1 {
			for _, v := range r.Receivers {
				row(w, "", v.Host, "", "", percent(v.LossPercent), v.Duplicates, "", "", "", "", "")
			}
		}
	}
}

// benchNote says what a row's figures mean.
func benchNote(r client.BenchRow) string {
	switch {
	case r.Error != "":
		return r.Error
	case r.LimitedBy == api.LimitSender:
		return "the sender goes no faster"
	case r.LimitedBy == api.LimitTime:
		return "more may be possible: --duration is over"
	case r.LimitedBy == api.LimitRate:
		return "the highest rate allowed"
	}
	return ""
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", v) }

// figure shows a rate without digits that mean nothing.
func figure(v float64) string {
	switch {
	case v == 0:
		return ""
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func perGB(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f s", v)
}
