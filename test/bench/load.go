package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/load"
	"github.com/weft-net/weft/internal/measure"
)

// sendCommand sends numbered datagrams at a pace and reports load.Sent on its standard output.
func sendCommand(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("send", flag.ContinueOnError)
	to := f.String("to", "", "address and port")
	dev := f.String("dev", "", "interface for multicast")
	size := f.Int("size", 1200, "payload in bytes")
	pps := f.Float64("pps", 1000, "datagrams per second")
	d := f.Duration("time", time.Second, "how long")
	run := f.Uint("run", 0, "number of the run, in every datagram")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*to)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	s, err := load.Flow{
		To: addr, Interface: *dev, PayloadBytes: max(*size, measure.HeaderSize), Rate: *pps, Duration: *d, Run: uint32(*run),
	}.Send(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(s)
}

// receiveCommand counts datagrams until its input ends. Asked for a run, by its number on a line, it answers with the
// count once no more come.
func receiveCommand(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	f := flag.NewFlagSet("receive", flag.ContinueOnError)
	at := f.String("at", "", "address and port; a group is joined")
	dev := f.String("dev", "", "interface for multicast")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*at)
	if err != nil {
		return fmt.Errorf("--at: %w", err)
	}
	var group netip.Addr
	if addr.Addr().IsMulticast() {
		group = addr.Addr()
	}
	r, err := load.Receive(int(addr.Port()), group, *dev, false)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	fmt.Fprintln(out, "ready")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var run uint32
		if _, err := fmt.Sscan(strings.TrimSpace(lines.Text()), &run); err != nil {
			return fmt.Errorf("want a number of a run: %w", err)
		}
		fmt.Fprintln(out, "got", run, r.Settled(ctx, run).Datagrams)
	}
	return nil
}
