package test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/test/rig"
)

// TestBenchNet: weft bench net measures sealed and plain networks, one measurement at a time, and leaves nothing behind,
// however it ends.
func TestBenchNet(t *testing.T) {
	_, h := cloud(t, 3)
	for i, host := range h { // the plain one is for the figures, and for a host that lacks a network
		if i == 0 {
			host.MustWeft("network", "create", "open", "--plain")
			rig.Eventually(t, 5*time.Second, func() error {
				for _, o := range h {
					if r := o.Weft("network", "show", "open"); r.Code != 0 {
						return fmt.Errorf("%s: %s", o.Name, r.Stderr)
					}
				}
				return nil
			})
		}
	}
	refused(t, h[0].Weft("bench", "net", "--network", "open"), 1, "no other host has network open")
	refused(t, h[0].Weft("bench", "net", "--network", "open", "h2"), 1, "h2", "no network")
	refused(t, h[0].Weft("bench", "net", "--network", "nowhere"), 1, "nowhere")
	refused(t, h[0].Weft("bench", "net", "ghost"), 1, "ghost")
	refused(t, h[0].Weft("bench", "net", "h1"), 2, "h1")
	refused(t, h[0].Weft("bench", "net", "--duration", "2m"), 2, "2m")
	refused(t, h[0].Weft("bench", "net", "--rate", "2000000"), 2, "2000000")
	refused(t, h[0].Weft("bench", "net", "--tests", "speed"), 2, "speed")
	for _, host := range h[1:] {
		host.MustWeft("network", "create", "open", "--plain")
	}
	clean := restOf(t, h)
	all := "map[mcast:1 pps1400:2 pps64:2 rtt:2 tcp:2 udp:2]"
	for _, c := range []struct {
		network, engine, rows string
		options               []string
	}{
		{"weft", "sealed", all, []string{"--duration", "500ms"}},
		{"open", "plain", "map[mcast:1 rtt:2 tcp:2]", []string{"--duration", "300ms", "--tests", "mcast,rtt,tcp"}},
	} {
		var b client.Bench
		if err := h[0].JSON(&b, append([]string{"bench", "net", "--network", c.network}, c.options...)...); err != nil {
			t.Fatal(err)
		}
		plausible(t, b, c.network, c.engine, c.rows)
		clean()

		network := c.network
		var slow client.Bench
		if err := h[1].JSON(&slow, "bench", "net", "--network", network, "--tests", "mcast", "--rate", "400", "--duration", "1s"); err != nil {
			t.Fatal(err)
		}
		if len(slow.Bench) != 1 || len(slow.Bench[0].Receivers) != 2 || slow.Bench[0].Sent < 395 || slow.Bench[0].LossPercent != 0 || slow.Bench[0].Duplicates != 0 {
			t.Errorf("%s: 400 datagrams a second to two hosts: %+v", network, slow.Bench)
		}
	}
	r := h[0].Weft("bench", "net", "--tests", "rtt,tcp", "--duration", "300ms", "h2")
	if r.Code != 0 || strings.Count(r.Stdout, "\n") != 3 || !strings.Contains(r.Stdout, "RTT P50") || !strings.Contains(r.Stderr, "2 of 2: tcp to h2") {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Log("\n" + r.Stdout)
	clean()

	// One at a time, and however it ends, nothing stays.
	run := func() *rig.Process {
		t.Helper()
		p := h[0].StartWeft("bench", "net", "--tests", "tcp,mcast", "--duration", "30s", "--max-mbit", "50")
		rig.Eventually(t, 20*time.Second, func() error {
			if !slices.ContainsFunc(p.Errors(), func(l string) bool { return strings.Contains(l, "1 of 3: tcp to h2") }) {
				return errors.New("the measurement has not begun")
			}
			return nil
		})
		return p
	}
	p := run()
	refused(t, h[0].Weft("bench", "net"), 1, "host h1 began")
	refused(t, h[1].Weft("bench", "net", "h3"), 1, "host h1 began")
	p.Signal(syscall.SIGINT)
	if code := p.Wait(5 * time.Second); code != 1 {
		t.Errorf("exit %d after Ctrl-C, want 1", code)
	}
	clean()

	p = run()
	p.Kill9()
	clean()

	p = run()
	h[1].Kill9() // one that takes part
	if code := p.Wait(15 * time.Second); code != 1 || !strings.Contains(strings.Join(p.Errors(), "\n"), "host h2") {
		t.Errorf("exit %d without h2\n%s", code, strings.Join(p.Errors(), "\n"))
	}
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	clean()

	p = run()
	h[0].Kill9() // the one that conducts
	p.Wait(5 * time.Second)
	h[0].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	clean()

	p = run()
	h[1].MustWeft("down")
	p.Wait(15 * time.Second)
	h[1].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	clean()

	// Who does not want to is skipped, or refused when named.
	h[2].Daemon().Stop(10 * time.Second)
	h[2].Up("--bench", "off")
	rig.AllKnowAll(t, 20*time.Second, h...)
	refused(t, h[0].Weft("bench", "net", "h3"), 1, "h3", "bench is off")
	refused(t, h[2].Weft("bench", "net"), 1, "h3", "bench is off")
	r = h[0].Weft("bench", "net", "--tests", "rtt", "--duration", "200ms")
	if r.Code != 0 || !strings.Contains(r.Stdout, "h2") || !strings.Contains(r.Stderr, "not measured: host h3") {
		t.Errorf("exit %d, want a measurement with h2 and without h3\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// plausible checks the figures of all tests between three hosts.
func plausible(t *testing.T, b client.Bench, network, engine, rows string) {
	t.Helper()
	if b.Network != network || b.Engine != engine || len(b.Hosts) != 3 || len(b.Skipped) != 0 {
		t.Fatalf("%+v", b)
	}
	seen := map[string]int{}
	for _, r := range b.Bench {
		seen[r.Test]++
		ok := r.Error == "" && r.From == "h1" && r.Seconds > 0 && len(r.CPU) == len(r.To)+1
		switch r.Test {
		case "rtt":
			ok = ok && r.RTTMinMS > 0 && r.RTTMinMS <= r.RTTP50MS && r.RTTP50MS <= r.RTTP99MS && r.RTTP99MS <= r.RTTMaxMS && r.RTTP50MS < 100
		case "tcp":
			ok = ok && r.MbitPerS > 50 && r.MbitPerS < 1e6
		case "mcast":
			ok = ok && len(r.Receivers) == 2
			fallthrough
		default:
			ok = ok && r.PacketsPerS > 1000 && r.MbitPerS > 0 && r.LossPercent <= 0.1 && r.LimitedBy != "" && len(r.Receivers) == len(r.To) && r.Receivers[0].Received > 0
		}
		if !ok {
			t.Errorf("%s: %+v", network, r)
		}
		if r.DeliveredBytes > 100e6 && (r.MachinesSPerGB <= 0 || r.MachinesSPerGB > 1000 || engine == "sealed" && r.DaemonsSPerGB <= 0) {
			t.Errorf("%s: processor time: %+v", network, r)
		}
		t.Logf("%-6s %-7s %-8v %8.1f Mbit/s %8.0f packets/s, p50 %.2f ms, CPU/GB %.2f and %.2f s, by %s", engine, r.Test, r.To, r.MbitPerS, r.PacketsPerS, r.RTTP50MS, r.DaemonsSPerGB, r.MachinesSPerGB, r.LimitedBy)
	}
	if fmt.Sprint(seen) != rows {
		t.Errorf("%s: tests %v, want %s", network, seen, rows)
	}
}

// restOf remembers what hosts have, and returns a check that they have the same again, and no agent runs.
func restOf(t *testing.T, h []*rig.Host) func() {
	t.Helper()
	look := func() (string, error) {
		var b strings.Builder
		for _, host := range h {
			attachments, err := host.Attachments()
			if err != nil {
				return "", err
			}
			var ipam struct {
				IPAM []struct {
					Owner string
					Used  uint64
				}
			}
			if err := host.JSON(&ipam, "ipam"); err != nil {
				return "", err
			}
			var used uint64
			for _, r := range ipam.IPAM {
				used += r.Used
			}
			groups, err := host.Groups()
			if err != nil {
				return "", err
			}
			members := 0
			for _, g := range groups {
				members += len(g.Members)
			}
			fmt.Fprintf(&b, "%s: attachments %v, %d addresses in use, %d ports, %d members of groups, agents %v\n", host.Name, attachments, used, ports(host), members, agentsOf(host.Daemon().PID()))
		}
		return b.String(), nil
	}
	was, err := look()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		rig.Eventually(t, 15*time.Second, func() error {
			now, err := look()
			if err == nil && now != was {
				err = fmt.Errorf("left by a measurement:\n%swant\n%s", now, was)
			}
			return err
		})
		if orphans := agentsOf(1); len(orphans) > 0 {
			t.Errorf("agents without a daemon: %v", orphans)
		}
	}
}

// agentsOf returns the load agents whose parent is a process: 1 for those whose daemon has ended.
func agentsOf(parent int) []int {
	dirs, _ := os.ReadDir("/proc")
	found := []int{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		cmd, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		stat, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err1 != nil || err2 != nil || !strings.HasSuffix(string(cmd), "bench\x00agent\x00") {
			continue
		}
		if f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(f) > 1 && f[1] == strconv.Itoa(parent) {
			found = append(found, pid)
		}
	}
	return found
}
