// Command bench compares weft with bare veth, kernel VXLAN and other overlays on this machine, in one interleaved run.
//
// Every system is set up between the same network namespaces, one after the other in every round, and measured by the
// same programs: ping, iperf3, and a sender and receivers of numbered datagrams that this binary becomes itself. What
// it finds goes to docs/benchmarks.md as medians with their spread. Nothing is taken from a system's own counters.
//
// Set by the environment: ROUNDS (5), ONLY (systems), TESTS (rtt, tcp, udp, mcast, idle), WIRINGS (carried, wire1500), RECEIVERS (of
// a group: 1, 2, 3, 4, 8, 16), OUT (the table; - for standard output), JSON (a file for every single value), WEFT_BIN.
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

// command chooses between the benchmark and the two programs it starts inside namespaces.
func command(args []string) error {
	if len(args) == 0 {
		s, err := settingsFrom(os.Getenv)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		return benchmark(ctx, s)
	}
	switch args[0] {
	case "send":
		return sendCommand(context.Background(), args[1:], os.Stdout)
	case "receive":
		return receiveCommand(context.Background(), args[1:], os.Stdin, os.Stdout)
	}
	return errors.New("takes no arguments: see the package's documentation for what the environment sets")
}
