package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
)

func (a *App) benchBus() *cobra.Command {
	var (
		r        client.BenchBusRequest
		duration time.Duration
	)
	c := &cobra.Command{
		Use: "bus [HOST...]", Short: "Measure the cluster's bus between this host and others",
		Long: `Measure the cluster's bus between this host and others, all unless some are named:
this host publishes on a subject that nobody else uses, the others subscribe to it.
The subscriptions end with the measurement, however it ends.

  rtt    messages of 64 bytes at a pace, and back from one host: median and 99th percentile
  msg64  messages of 64 bytes to all, one by one, as fast as they go
  msg1k  the same with 1024 bytes

CPU/M is processor seconds for a million messages delivered: of weft on the hosts of
the row, and of all that runs on their machines. A host takes part in one measurement
at a time. It loads the hosts and the links between them.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Hosts, r.DurationMS = args, int(duration.Milliseconds())
			if err := checkBenchBus(r, duration); err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			return a.runBenchBus(ctx, r)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&r.Tests, "tests", nil, "some of "+strings.Join(api.BenchBusTests, ",")+" (default: all)")
	f.DurationVar(&duration, "duration", api.DefaultBenchMS*time.Millisecond, "of each test, 200ms to 1m")
	f.IntVar(&r.Rate, "rate", api.DefaultBenchBusRate, "rtt: messages per second, at most 100000")
	_ = c.RegisterFlagCompletionFunc("tests", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return api.BenchBusTests, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

func checkBenchBus(r client.BenchBusRequest, duration time.Duration) error {
	if err := checkBenchAny(r.Tests, api.BenchBusTests, duration, len(r.Hosts)); err != nil {
		return err
	}
	if r.Rate < 1 || r.Rate > api.MaxBenchBusRate {
		return usagef("--rate %d: want 1 to %d messages per second", r.Rate, api.MaxBenchBusRate)
	}
	return nil
}

func (a *App) runBenchBus(ctx context.Context, r client.BenchBusRequest) error {
	d := a.client()
	defer d.Close()
	out, err := d.BenchBus(ctx, r, a.benchProgress)
	if err := a.benchOver(ctx, err, out.Skipped); err != nil {
		return err
	}
	if err := a.print(out, func(w io.Writer) { benchBusRows(w, out) }); err != nil {
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

func benchBusRows(w io.Writer, b client.BenchBus) {
	row(w, "TEST", "TO", "MESSAGES/S", "LOST", "DUPLICATES", "MISPLACED", "RTT P50", "RTT P99", "CPU/M WEFT", "CPU/M ALL", "NOTE")
	for _, r := range b.Bench {
		lost, twice, misplaced := "", "", ""
		if r.Sent > 0 {
			lost = percent(r.LossPercent)
		}
		if len(r.Receivers) > 0 {
			twice, misplaced = fmt.Sprint(r.Duplicates), fmt.Sprint(r.Misplaced)
		}
		row(w, r.Test, join(r.To), figure(r.MessagesPerS), lost, twice, misplaced, ms(r.RTTP50MS), ms(r.RTTP99MS),
			perGB(r.DaemonsSPerMillion), perGB(r.MachinesSPerMillion), r.Error)
		if len(r.Receivers) > 1 {
			for _, v := range r.Receivers {
				row(w, "", v.Host, figure(v.MessagesPerS), percent(v.LossPercent), v.Duplicates, v.Misplaced, "", "", "", "", "")
			}
		}
	}
}
