package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/test/rig"
)

// TestBenchBus: weft bench bus measures the cluster's bus on hosts that nobody told of it, in a cloud and on a LAN, loses
// nothing, and leaves no subscription behind, however it ends.
func TestBenchBus(t *testing.T) {
	for name, underlay := range map[string]func(w *rig.World) *rig.Underlay{
		"cloud": func(w *rig.World) *rig.Underlay { return w.Cloud() },
		"lan":   func(w *rig.World) *rig.Underlay { return w.LAN(rig.LANOptions{}) },
	} {
		t.Run(name, func(t *testing.T) { benchBus(t, underlay(rig.New(t))) })
	}
}

func benchBus(t *testing.T, u *rig.Underlay) {
	h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
	rig.Found(t, h...)
	refused(t, h[0].Weft("bench", "bus", "ghost"), 1, "ghost")
	refused(t, h[0].Weft("bench", "bus", "h1"), 2, "h1")
	refused(t, h[0].Weft("bench", "bus", "--tests", "tcp"), 2, "tcp")
	nothing := func() {
		t.Helper()
		rig.Eventually(t, 15*time.Second, func() error {
			for _, host := range h {
				var all api.Buses
				if err := host.JSON(&all, "buses"); err != nil {
					return err
				}
				if n := all.Buses[0].Subscriptions; n != 0 {
					return fmt.Errorf("%s: %d subscriptions left by a measurement", host.Name, n)
				}
			}
			return nil
		})
	}
	var b client.BenchBus
	if err := h[0].JSON(&b, "bench", "bus", "--duration", "500ms"); err != nil {
		t.Fatal(err)
	}
	if b.Bus != api.ClusterBus || len(b.Hosts) != 3 || len(b.Skipped) != 0 || len(b.Bench) != 4 {
		t.Fatalf("%+v", b)
	}
	for _, r := range b.Bench {
		ok := r.Error == "" && r.From == "h1" && r.LossPercent == 0 && r.Duplicates == 0 && r.Misplaced == 0 && len(r.CPU) == len(r.To)+1
		if r.Test == api.BenchBusRTT {
			ok = ok && r.Sent == 500 && r.RTTMinMS > 0 && r.RTTMinMS <= r.RTTP50MS && r.RTTP50MS <= r.RTTP99MS && r.RTTP99MS <= r.RTTMaxMS && r.RTTP50MS < 100
		} else {
			ok = ok && r.MessagesPerS > 1000 && len(r.Receivers) == 2 && r.Delivered == 2*r.Sent
		}
		if !ok {
			t.Errorf("%+v", r)
		}
		t.Logf("%-6s %-8v %9.0f messages/s, p50 %.2f p99 %.2f ms, CPU/M %.2f and %.2f s", r.Test, r.To, r.MessagesPerS, r.RTTP50MS, r.RTTP99MS, r.DaemonsSPerMillion, r.MachinesSPerMillion)
	}
	nothing()
	r := h[1].Weft("bench", "bus", "h3", "--tests", "rtt,msg1k", "--duration", "300ms", "--rate", "300")
	if r.Code != 0 || strings.Count(r.Stdout, "\n") != 3 || !strings.Contains(r.Stdout, "MESSAGES/S") || !strings.Contains(r.Stderr, "2 of 2: msg1k to h3") {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Log("\n" + r.Stdout)

	// One at a time, beside those of networks, and however it ends, nothing stays.
	run := func() *rig.Process {
		t.Helper()
		p := h[0].StartWeft("bench", "bus", "--tests", "rtt,msg64", "--duration", "30s")
		rig.Eventually(t, 20*time.Second, func() error {
			if !slices.ContainsFunc(p.Errors(), func(l string) bool { return strings.Contains(l, "1 of 3: rtt to h2") }) {
				return errors.New("the measurement has not begun")
			}
			return nil
		})
		return p
	}
	p := run()
	refused(t, h[1].Weft("bench", "bus", "h3"), 1, "host h1 began")
	refused(t, h[0].Weft("bench", "net"), 1, "host h1 began")
	p.Signal(syscall.SIGINT)
	if code := p.Wait(5 * time.Second); code != 1 {
		t.Errorf("exit %d after Ctrl-C, want 1", code)
	}
	nothing()
	p = run()
	p.Kill9()
	nothing()
	p = run()
	h[1].Kill9() // one that takes part
	if code := p.Wait(15 * time.Second); code != 1 || !strings.Contains(strings.Join(p.Errors(), "\n"), "host h2") {
		t.Errorf("exit %d without h2\n%s", code, strings.Join(p.Errors(), "\n"))
	}
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	nothing()

	h[2].Daemon().Stop(10 * time.Second)
	h[2].Up("--bench", "off")
	rig.AllKnowAll(t, 20*time.Second, h...)
	refused(t, h[0].Weft("bench", "bus", "h3"), 1, "h3", "bench is off")
}
