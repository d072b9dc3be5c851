package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/link"
)

// seed is a name by which the cluster may be found. Owned by the loop.
type seed struct {
	name    string
	addrs   []netip.AddrPort
	asked   time.Time // last look-up
	tried   time.Time
	pause   time.Duration // before the next try
	since   time.Time     // first try without success
	said    string        // what was last logged about it
	probed  bool
	refusal string
	host    ident.HostID // who answered
	busy    bool         // a look-up runs
	err     string
}

const (
	seedRetry   = time.Second // and twice as long each time, up to seedSlow
	seedSlow    = 4 * time.Second
	seedLookup  = 15 * time.Second
	seedPatient = 5 * time.Second // then say why nobody answers
	maxSeeds    = 256
	maxSeedIPs  = 16
)

// tickSeeds asks seeds whose host we have no link to.
func (m *Mesh) tickSeeds(now time.Time) {
	for _, s := range m.seeds {
		if h := m.hosts[s.host]; h != nil && (h.known || h.barred) {
			if !h.up {
				continue // its link tries by itself
			}
			s.since, s.said, s.refusal = time.Time{}, "", ""
			continue
		}
		if m.leaving || m.isFrozen() {
			continue
		}
		if s.since.IsZero() {
			s.since = now
		}
		if !s.busy && now.Sub(s.asked) >= seedLookup {
			s.busy, s.asked = true, now
			m.lookUp(s.name)
		}
		if now.Sub(s.tried) >= s.pause && len(s.addrs) > 0 {
			s.tried = now
			s.pause = min(max(2*s.pause, seedRetry), seedSlow)
			m.trySeed(now, s)
		}
		if now.Sub(s.since) >= seedPatient && !s.probed {
			s.probed = true
			m.explain(s)
		}
	}
}

func (m *Mesh) trySeed(now time.Time, s *seed) {
	for _, ap := range s.addrs {
		at, err := m.machine.Start(now, nil)
		if err != nil {
			m.log.Debug("handshake not begun", "seed", s.name, "err", err)
			return
		}
		a := link.Direct(ap)
		m.attempts[at.Index] = attempt{addr: a, seed: s.name, at: now}
		m.sendRaw(a, ident.HostID{}, at.Packet)
	}
}

// seedReached notes which host answers under a seed's name.
func (m *Mesh) seedReached(name string, h *host) {
	if s := m.seeds[name]; s != nil {
		s.host, s.since, s.probed, s.said, s.refusal, s.err, s.pause = h.id, time.Time{}, false, "", "", "", 0
	}
}

// lookUp resolves a seed's name outside the loop.
func (m *Mesh) lookUp(name string) {
	m.done.Go(func() {
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		defer cancel()
		addrs, err := Resolve(ctx, net.DefaultResolver, name, m.cfg.Port)
		_ = m.do(func() {
			s := m.seeds[name]
			if s == nil {
				return
			}
			s.busy = false
			if err != nil {
				s.err = err.Error()
				if s.said != s.err {
					s.said = s.err
					m.log.Warn("cannot find host", "host", name, "err", err)
				}
				return
			}
			s.err = ""
			s.addrs = addrs
			m.tickSeeds(time.Now())
		})
	})
}

// Resolver is the part of net.Resolver that Resolve uses.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Resolve turns what a person gives as a host to join into endpoints: ADDRESS, ADDRESS:PORT,
// NAME:PORT, or NAME, for which SRV records _weft._udp.NAME come before addresses and the port given.
func Resolve(ctx context.Context, r Resolver, s string, port uint16) ([]netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), port)}, nil
	}
	name := s
	if h, p, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("host %q: port %q is not a number from 1 to 65535", s, p)
		}
		name, port = h, uint16(n)
	} else if out := lookupBoth(ctx, r, name, port); len(out) > 0 {
		return out[:min(len(out), maxSeedIPs)], nil
	}
	out := lookupHost(ctx, r, name, port)
	if len(out) == 0 {
		return nil, fmt.Errorf("host %q: no such name, and no SRV record _weft._udp.%s", name, name)
	}
	return out[:min(len(out), maxSeedIPs)], nil
}

// srvPatience is how long SRV records are waited for once there are addresses: /etc/hosts answers at
// once even where no name server does.
const srvPatience = 500 * time.Millisecond

// lookupBoth asks for SRV records and for addresses at the same time; SRV records win.
func lookupBoth(ctx context.Context, r Resolver, name string, port uint16) []netip.AddrPort {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv, addrs := make(chan []netip.AddrPort, 1), make(chan []netip.AddrPort, 1)
	go func() {
		var out []netip.AddrPort
		if _, srvs, err := r.LookupSRV(ctx, "weft", "udp", name); err == nil {
			for _, v := range srvs {
				out = append(out, lookupHost(ctx, r, strings.TrimSuffix(v.Target, "."), v.Port)...)
			}
		}
		srv <- out
	}()
	go func() { addrs <- lookupHost(ctx, r, name, port) }()
	var found []netip.AddrPort
	select {
	case out := <-srv:
		if len(out) > 0 {
			return out
		}
		return <-addrs
	case found = <-addrs:
	}
	if len(found) == 0 {
		return <-srv
	}
	patience := time.NewTimer(srvPatience)
	defer patience.Stop()
	select {
	case out := <-srv:
		if len(out) > 0 {
			return out
		}
	case <-patience.C:
	}
	return found
}

func lookupHost(ctx context.Context, r Resolver, name string, port uint16) []netip.AddrPort {
	addrs, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil
	}
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a.Unmap(), port))
	}
	return out
}

// settled reports whether this host is part of a cluster by now, so that who does not answer it may be part of another.
func (m *Mesh) settled() bool {
	if m.cfg.Founder {
		return true
	}
	for _, h := range m.hosts {
		if h.known {
			return true
		}
	}
	return false
}

// explain says why a seed does not answer: members are silent to a wrong token, so a TCP
// connection is all that tells a wrong token from a closed port.
func (m *Mesh) explain(s *seed) {
	name, addrs, port := s.name, s.addrs, m.cfg.Port
	m.done.Go(func() {
		text, closed := "no address found", true
		for _, ap := range addrs {
			text = fmt.Sprintf("no answer from %s (is weft up there, and UDP and TCP port %d open?)", ap, ap.Port())
			d := net.Dialer{Timeout: 2 * time.Second}
			if c, err := d.DialContext(m.ctx, "tcp", ap.String()); err == nil {
				_ = c.Close()
				text = fmt.Sprintf("%s takes TCP but not this token (or its UDP port %d is closed)", ap, port)
				closed = false
				break
			}
		}
		_ = m.do(func() {
			if s := m.seeds[name]; s != nil && s.probed && s.refusal == "" {
				s.probed = false
				s.since = time.Now().Add(20 * time.Second) // again, later
				s.err = text
				if !closed && m.settled() {
					s.err += "; if it is of another cluster: two clusters never become one, weft down --leave there and join this one by its token"
				}
				if s.said != text {
					s.said = text
					m.log.Warn("cannot join by this host, trying on", "host", name, "reason", text)
				}
			}
		})
	})
}
