package daemon

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/discover"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/mesh"
)

// discoverLabel makes the key of beacons on the local segment from the cluster's secret (HKDF, RFC 5869).
const discoverLabel = "weft discover beacons 1"

// discovery finds hosts by what the cluster's machines already have, and passes their addresses to the mesh.
type discovery struct {
	s       *System
	service *discover.Service
	ctx     context.Context // of run
	cancel  context.CancelFunc
	ran     chan struct{} // closed when run has ended
	once    sync.Once     // of withdraw

	secret atomic.Pointer[ident.Secret] // of key
	key    atomic.Pointer[discover.Key]
	inside atomic.Uint64 // addresses left out: they are in the cluster's own range
}

// checkDiscover refuses sources that nobody could ask.
func checkDiscover(c config.Up) error {
	if err := discover.Check(withoutOff(c.Discover)); err != nil {
		return usage{err}
	}
	return nil
}

// buildDiscovery makes the sources. A host that founds a cluster asks them first: where there is one, or where that cannot be told, it
// does not found another.
func (s *System) buildDiscovery() error {
	d := &discovery{s: s, ran: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(s.ctx)
	d.service = discover.NewService(discover.Config{
		Sources: s.id.Discover, Log: s.log, Self: d.self, Looking: d.looking, Found: d.found,
		Environment: discover.Environment{Port: uint16(s.cfg.Port), Interfaces: s.underlay.Addrs, Key: d.key.Load},
	})
	if s.id.Founding && len(s.id.Discover) > 0 {
		if err := d.service.First(s.ctx, s.underlay.Endpoints()); err != nil {
			var e *discover.Error
			if errors.As(err, &e) && e.Hint != "" {
				err = fmt.Errorf("no cluster is founded: %w; %s", err, e.Hint)
			}
			return errors.Join(err, d.service.Close())
		}
	}
	s.finder = d
	return nil
}

// run asks until this run ends.
func (d *discovery) run() {
	defer close(d.ran)
	if len(d.s.id.Discover) > 0 {
		d.service.Run(d.ctx)
	}
}

// withdraw takes this host out of the stores: it stops. It is for good in this run.
func (d *discovery) withdraw(ctx context.Context) {
	d.once.Do(func() {
		d.cancel()
		<-d.ran
		d.service.Withdraw(ctx)
	})
}

func (d *discovery) close() error {
	if d == nil {
		return nil
	}
	return d.service.Close()
}

func (d *discovery) drops() map[string]uint64 {
	out := d.service.Drops()
	out["discover_inside"] = d.inside.Load()
	return out
}

// self is what this host says of itself.
func (d *discovery) self() discover.Self {
	d.refreshKey()
	out := discover.Self{ID: d.s.mesh.Self(), Port: uint16(d.s.cfg.Port), Looking: d.looking()}
	for _, ap := range d.s.mesh.Endpoints() {
		if len(out.Addrs) < discover.MaxOwn && discover.CheckAddress(ap) == nil {
			out.Addrs = append(out.Addrs, ap)
		}
	}
	return out
}

// looking reports whether this host reaches nobody.
func (d *discovery) looking() bool { return len(d.s.mesh.Reachable()) == 1 }

// refreshKey follows the cluster's token.
func (d *discovery) refreshKey() {
	t := d.s.mesh.Token()
	if old := d.secret.Load(); old != nil && *old == t.Secret || t.Secret == (ident.Secret{}) { // closed: it has none to tell
		return
	}
	key, err := hkdf.Key(sha256.New, t.Secret[:], t.Cluster[:], discoverLabel, len(discover.Key{}))
	if err != nil {
		d.s.log.Error("no key for beacons", "err", err)
		return
	}
	d.key.Store((*discover.Key)(key))
	d.secret.Store(&t.Secret)
}

// found takes what the sources have. An address in the cluster's own range is an attachment's, whoever listed it: to reach it this host
// would need the very link that it is to find.
func (d *discovery) found(addrs []netip.AddrPort) {
	d.s.mu.Lock()
	cluster := d.s.cluster
	d.s.mu.Unlock()
	if cluster != nil {
		n := len(addrs)
		addrs = slices.DeleteFunc(addrs, func(ap netip.AddrPort) bool {
			return cluster.Range.Contains(ap.Addr()) || cluster.ULA.Contains(ap.Addr())
		})
		d.inside.Add(uint64(n - len(addrs)))
	}
	_ = d.s.mesh.SetFound(addrs) // closed: nobody is to be found any more
}

// How a source fares, for status: in the order in which the sources were given.
func (d *discovery) status() []api.Discovery {
	at := d.s.mesh.Found()
	var out []api.Discovery
	for _, st := range d.service.Status() {
		x := api.Discovery{
			Source: st.Source, State: api.DiscoveryOK, Registered: st.Registered, ReadOnly: st.ReadOnly, Addresses: len(st.Addresses), Refused: st.Refused, RefusedWhy: st.Why,
			Failures: st.Failures, Error: st.Err, Hint: st.Hint, Unanswered: []string{}, Silent: []string{},
		}
		if !st.Answered.IsZero() {
			x.LastSuccess = &st.Answered
		}
		switch {
		case st.Err != "":
			x.State = api.DiscoveryFailing
			x.RetryS = max(time.Until(st.Next).Seconds(), 0)
		case st.Answered.IsZero():
			x.State = api.DiscoveryAsking
		}
		for _, ap := range st.Addresses {
			v, tried := at[ap]
			if tried && (v == mesh.FoundTrying || v == mesh.FoundSilent) {
				x.Unanswered = append(x.Unanswered, ap.String())
			}
			if tried && v == mesh.FoundSilent {
				x.Silent = append(x.Silent, ap.String())
			}
		}
		out = append(out, x)
	}
	return out
}

// discoveryWarnings are the faults of sources, for people.
func discoveryWarnings(all []api.Discovery) []api.Warning {
	var out []api.Warning
	for _, x := range all {
		if x.Error != "" {
			out = append(out, api.Warning{Code: "discover", Text: x.Source + ": " + x.Error, Fix: x.Hint})
		}
		// In a store a host was there not long ago. A list by others may well name machines without weft.
		if n := len(x.Silent); n > 0 && x.Registered {
			out = append(out, api.Warning{
				Code: "discover", Text: fmt.Sprintf("%s: a host is registered at %s, and no host of this cluster answers there", x.Source, strings.Join(x.Silent[:min(n, 3)], ", ")),
				Fix: "is its UDP and TCP port open? If it is of another cluster (weft status there), one of the two needs another name at that place",
			})
		}
		if x.Refused > 0 && x.Error == "" {
			out = append(out, api.Warning{Code: "discover", Text: fmt.Sprintf("%s: %d entries are passed over: %s", x.Source, x.Refused, x.RefusedWhy), Fix: "remove there what is not weft's"})
		}
	}
	return out
}

// nobodyFound says why a host that only has sources to join by has not joined yet.
func nobodyFound(all []api.Discovery) string {
	var reasons []string
	for _, x := range all {
		others := len(x.Unanswered)
		switch {
		case x.Error != "":
			reasons = append(reasons, x.Source+": "+x.Error)
		case x.State == api.DiscoveryAsking:
			reasons = append(reasons, x.Source+": asking")
		case others > 0:
			reasons = append(reasons, fmt.Sprintf("%s: %s does not answer (is weft up there with the same token, and its UDP and TCP port open?)", x.Source, strings.Join(x.Unanswered[:min(others, 3)], ", ")))
		default:
			reasons = append(reasons, x.Source+": no other host is there yet; this one waits for it")
		}
	}
	return strings.Join(reasons, "; ")
}
