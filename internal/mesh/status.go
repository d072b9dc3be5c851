package mesh

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/wire"
)

const stateLeft = "left"

// HostStatus is what is known of a host, this one included.
type HostStatus struct {
	ID        ident.HostID
	Name      string
	State     string // alive, suspect, dead, left; removed hosts are not listed
	Endpoints []netip.AddrPort
	Build     string
	Self      bool
	NATed     bool
	Skew      time.Duration // beyond skewWarn only
	Reachable bool
}

// LinkStatus is the link to one host.
type LinkStatus struct {
	Host     ident.HostID
	Name     string
	Path     string // direct, relayed; "" when there is none
	Via      string // name of the relay
	Reason   string // why it is not better
	Endpoint netip.AddrPort
	RTT      time.Duration
	Loss     float64 // from 0 to 1
	Payload  int
	Stream   string // how streams go that are open: direct, the name of a relay, "" when none is
	Since    time.Time
}

// SeedStatus is a host given to `up` or `connect`.
type SeedStatus struct {
	Name, Error string
	Reached     bool
}

// Hosts returns all hosts of the cluster by name, this one included. A host that left is listed until
// its name belongs to another: usually to itself, back with a new identity.
func (m *Mesh) Hosts() []HostStatus {
	suspect := map[ident.HostID]bool{}
	for _, n := range m.members.Members() {
		if id, err := ident.ParseHostID(n.Name); err == nil && n.State == memberlist.StateSuspect {
			suspect[id] = true
		}
	}
	var out []HostStatus
	_ = m.do(func() {
		out = append(out, HostStatus{
			ID: m.self, Name: m.cfg.Name, State: "alive", Endpoints: m.published.Endpoints,
			Build: m.cfg.Build, Self: true, NATed: m.natted, Reachable: true,
		})
		for _, h := range m.hosts {
			if h.barred || !h.known {
				continue
			}
			s := HostStatus{ID: h.id, Name: h.name(), State: "dead", Endpoints: h.rec.Endpoints, Build: h.rec.Build, NATed: h.rec.NATed, Reachable: h.up}
			switch {
			case h.rec.Left:
				s.State = stateLeft
			case h.stopped: // dead, whatever memberlist thinks: it may be back
			case suspect[h.id]:
				s.State = "suspect"
			case h.live == liveAlive, h.live == liveUnknown && h.up:
				s.State = "alive"
			}
			if h.skew > skewWarn || h.skew < -skewWarn {
				s.Skew = h.skew
			}
			out = append(out, s)
		}
	})
	present := map[string]bool{}
	for _, s := range out {
		present[s.Name] = present[s.Name] || s.State != stateLeft
	}
	out = slices.DeleteFunc(out, func(s HostStatus) bool { return s.State == stateLeft && present[s.Name] })
	slices.SortFunc(out, func(a, b HostStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

// Links returns the links to all other hosts by name.
func (m *Mesh) Links() []LinkStatus {
	var out []LinkStatus
	streams := m.streams.Status()
	_ = m.do(func() {
		nameOf := func(id ident.HostID) string {
			if h := m.hosts[id]; h != nil {
				return h.name()
			}
			return id.Short()
		}
		stream := map[ident.HostID]string{}
		for _, x := range streams {
			switch {
			case x.Via.IsZero():
				stream[x.Host] = "direct"
			case stream[x.Host] == "":
				stream[x.Host] = nameOf(x.Via)
			}
		}
		for _, h := range m.hosts {
			if h.barred || !h.known || h.rec.Left {
				continue
			}
			s := LinkStatus{Host: h.id, Name: h.name(), RTT: h.link.RTT(), Loss: h.link.Loss(), Reason: h.link.Reason(), Stream: stream[h.id], Since: h.link.Since()}
			if p := h.peer.Path(); p != nil {
				s.Path, s.Endpoint, s.Payload = "direct", p.Endpoint, p.Payload
				if p.Relay != nil {
					s.Path, s.Via = "relayed", nameOf(p.Relay.Host)
				}
			} else if s.Reason == "" {
				s.Reason = fmt.Sprintf("no answer from %d endpoints", len(h.link.Candidates()))
			}
			out = append(out, s)
		}
	})
	slices.SortFunc(out, func(a, b LinkStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Seeds returns the hosts given to find the cluster by.
func (m *Mesh) Seeds() []SeedStatus {
	var out []SeedStatus
	_ = m.do(func() {
		for _, name := range slices.Sorted(maps.Keys(m.seeds)) {
			s := m.seeds[name]
			h := m.hosts[s.host]
			out = append(out, SeedStatus{Name: name, Error: cmp.Or(s.refusal, s.err), Reached: h != nil && h.up})
		}
	})
	return out
}

// Reached reports whether any other host has ever been linked in this run.
func (m *Mesh) Reached() bool {
	reached := false
	_ = m.do(func() {
		for _, h := range m.hosts {
			reached = reached || !h.lastUp.IsZero()
		}
	})
	return reached
}

// Refused returns the text with which a member refused this host, "" when none did.
func (m *Mesh) Refused() string {
	text := ""
	_ = m.do(func() {
		if time.Since(m.refusal.at) < 15*time.Second {
			text = m.refusal.text
		}
	})
	return text
}

// BadSecrets returns who tried with a wrong token.
func (m *Mesh) BadSecrets() []handshake.BadSecret {
	var out []handshake.BadSecret
	_ = m.do(func() { out = m.machine.BadSecrets() })
	return out
}

// Warnings returns what a person should know, newest last.
func (m *Mesh) Warnings() []string {
	var out []string
	_ = m.do(func() { out = m.warnings.list(time.Now()) })
	return out
}

// Limits returns used and largest sizes of the mesh's tables, by name.
func (m *Mesh) Limits() map[string][2]int {
	out := map[string][2]int{}
	_ = m.do(func() {
		out["hosts"] = [2]int{len(m.hosts), maxHosts}
		out["sessions"] = [2]int{len(*m.sessions.Load()), maxHosts * 4}
		out["seeds"] = [2]int{len(m.seeds), maxSeeds}
		out["found"] = [2]int{len(m.found), maxFound}
		out["early_hosts"] = [2]int{len(m.early), maxHosts}
	})
	return out
}

// ProbeResult is the answer to one probe.
type ProbeResult struct {
	RTT  time.Duration
	Path link.Addr
	Via  string
}

// probe is a `weft ping` under way.
type probe struct {
	sent time.Time
	done chan ProbeResult
}

// probeIDs are above those of links, which count from 1.
const probeIDs = 1 << 63

// Probe sends one ping of size plaintext bytes on the path of the moment and waits for its answer.
func (m *Mesh) Probe(ctx context.Context, to ident.HostID, size int) (ProbeResult, error) {
	id := probeIDs | rand.Uint64()
	p := probe{sent: time.Now(), done: make(chan ProbeResult, 1)}
	if err := m.do(func() { m.probes[id] = p }); err != nil {
		return ProbeResult{}, err
	}
	defer func() { _ = m.do(func() { delete(m.probes, id) }) }()
	b := make([]byte, max(pingSize, min(size, wire.MaxPlain)))
	b[0] = wire.KindPing
	binary.BigEndian.PutUint64(b[1:], id)
	if err := m.Send(to, b); err != nil {
		return ProbeResult{}, err
	}
	select {
	case r := <-p.done:
		return r, nil
	case <-ctx.Done():
		return ProbeResult{}, ctx.Err()
	}
}

// StreamProbe is a stream that was opened to a host and closed again.
type StreamProbe struct {
	RTT      time.Duration // until the other host had taken it
	Via      string        // name of the relay, "" when direct
	Endpoint string        // of the TCP connection, "" when relayed
}

// ProbeStream opens a stream to a host, on a session made for it when there is none.
func (m *Mesh) ProbeStream(ctx context.Context, to ident.HostID) (StreamProbe, error) {
	began := time.Now()
	c, err := m.streams.Dial(ctx, to)
	if err != nil {
		return StreamProbe{}, err
	}
	out := StreamProbe{RTT: time.Since(began)}
	if err := c.Close(); err != nil {
		return StreamProbe{}, err
	}
	for _, x := range m.streams.Status() {
		if x.Host != to || x.Draining {
			continue
		}
		out.Via, out.Endpoint = "", x.Endpoint
		if x.Via.IsZero() {
			break
		}
		out.Via = x.Via.Short()
		_ = m.do(func() {
			if h := m.hosts[x.Via]; h != nil {
				out.Via = h.name()
			}
		})
	}
	return out, nil
}

func (m *Mesh) probed(e event) {
	p, ok := m.probes[binary.BigEndian.Uint64(e.body)]
	if !ok {
		return
	}
	r := ProbeResult{RTT: e.at.Sub(p.sent), Path: e.addr}
	if e.addr.IsRelay() {
		r.Via = e.addr.Relay.Short()
		if h := m.hosts[e.addr.Relay]; h != nil {
			r.Via = h.name()
		}
	}
	select {
	case p.done <- r:
	default:
	}
}

// warnings are texts for a person, each once, for ten minutes.
type warnings map[string]time.Time

const (
	warningLife = 10 * time.Minute
	maxWarnings = 64
)

// add notes a warning; true when it is new.
func (w warnings) add(now time.Time, text string) bool {
	_, had := w[text]
	if had || len(w) < maxWarnings {
		w[text] = now
	}
	return !had
}

func (w warnings) list(now time.Time) []string {
	maps.DeleteFunc(w, func(_ string, at time.Time) bool { return now.Sub(at) > warningLife })
	return slices.SortedFunc(maps.Keys(w), func(a, b string) int { return w[a].Compare(w[b]) })
}
