package bench

import (
	"context"

	"github.com/weft-net/weft/internal/api"
)

// used is the processor time of one host.
type used struct {
	host string
	usage
}

// usage asks this host and others.
func (r *runner) usage(ctx context.Context, others []*party) ([]used, error) {
	ts := append([]*party{r.self}, others...)
	out := make([]used, len(ts))
	return out, all(ts, func(i int, t *party) error {
		a, err := t.ask(ctx, ask{Usage: &struct{}{}}, 0)
		if err == nil && a.Usage == nil {
			err = t.odd()
		}
		if err == nil {
			out[i] = used{t.peer.Name, *a.Usage}
		}
		return err
	})
}

// account tells processor time. A machine with several hosts is counted once.
func account(row *api.BenchRow, before, after []used) {
	cpu, daemons, machines := accounts(before, after)
	row.CPU = append(row.CPU, cpu...)
	if row.DeliveredBytes >= enough {
		gb := float64(row.DeliveredBytes) / 1e9
		row.DaemonsSPerGB, row.MachinesSPerGB = daemons/gb, machines/gb
	}
}

// accounts returns processor time in seconds, host by host and of all.
func accounts(before, after []used) (cpu []api.BenchCPU, daemons, machines float64) {
	seen := map[string]bool{}
	for i := range after {
		c := api.BenchCPU{
			Host:     after[i].host,
			DaemonS:  float64(after[i].DaemonNS-before[i].DaemonNS) / 1e9,
			MachineS: float64(after[i].MachineNS-before[i].MachineNS) / 1e9,
			Shared:   seen[after[i].Boot],
		}
		seen[after[i].Boot] = true
		daemons += c.DaemonS
		if !c.Shared {
			machines += c.MachineS
		}
		cpu = append(cpu, c)
	}
	return cpu, daemons, machines
}
