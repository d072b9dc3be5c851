// Command bench compares weft with bare veth, kernel VXLAN and other overlays on this machine, in one interleaved run.
//
// Every system is set up between the same network namespaces, one after the other in every round, and measured by the
// same programs: ping, iperf3, and a sender and receivers of numbered datagrams that this binary becomes itself. What
// it finds goes to docs/benchmarks.md as medians with their spread. Nothing is taken from a system's own counters.
//
// bench bus does the same for messages from one publisher to many subscribers, with package bus beside brokers and raw multicast, into
// docs/benchmarks-bus.md.
//
// Set by the environment: ROUNDS (5), ONLY (systems), TESTS (rtt, tcp, udp, mcast, idle), WIRINGS (carried, wire1500), RECEIVERS (of
// a group: 1, 2, 3, 4, 8, 16), OUT (the table; - for standard output), JSON (a file for every single value), WEFT_BIN. Of bench bus: ROUNDS, ONLY, TESTS (rate, latency, busy), WIRINGS, SUBSCRIBERS (1, 4, 16), OUT, JSON, PROFILE (a folder for CPU
// profiles of weft's clients), OTHER (another build of this program, whose bus is measured beside this one's).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command chooses between the benchmarks and the programs they start inside namespaces.
func command(args []string) error {
	if len(args) == 0 || len(args) == 1 && args[0] == "bus" {
		read, run := settingsFrom, benchmark
		if len(args) == 1 {
			read, run = busSettingsFrom, busBenchmark
		}
		s, err := read(os.Getenv)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		return run(ctx, s)
	}
	switch args[0] {
	case "send":
		return sendCommand(context.Background(), args[1:], os.Stdout)
	case "receive":
		return receiveCommand(context.Background(), args[1:], os.Stdin, os.Stdout)
	case rolePublish, roleSubscribe:
		return busCommand(context.Background(), args[0], args[1:], os.Stdin, os.Stdout)
	}
	return errors.New("takes no arguments, or bus: see the package's documentation for what the environment sets")
}
