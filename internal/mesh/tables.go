package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/state"
)

// publish commits own entries: signed, on disk, then pushed to all who hold the scope.
func (m *Mesh) publish(scope state.Scope, puts map[string][]byte, dels []string) error {
	changes := make([]state.Change, 0, len(puts)+len(dels))
	for _, k := range slices.Sorted(maps.Keys(puts)) {
		if err := m.cfg.Tables.Put(scope, k, puts[k]); err != nil {
			m.cfg.Tables.Discard()
			return err
		}
		changes = append(changes, state.Change{Writer: m.self, Scope: scope, Key: k, Value: puts[k]})
	}
	for _, k := range dels {
		if err := m.cfg.Tables.Delete(scope, k); err != nil {
			m.cfg.Tables.Discard()
			return err
		}
		changes = append(changes, state.Change{Writer: m.self, Scope: scope, Key: k, Gone: true})
	}
	return m.commit(changes)
}

func (m *Mesh) commit(changes []state.Change) error {
	blocks, err := m.cfg.Tables.Commit(m.saveOwn)
	if errors.Is(err, ErrHandingOver) {
		return err
	}
	if err != nil {
		return fmt.Errorf("own state not on disk, so not published: %w", err)
	}
	if len(blocks) == 0 {
		return nil
	}
	now := time.Now()
	m.sendState(m.sync.Published(now, blocks))
	m.changed(now, changes)
	return nil
}

func (m *Mesh) saveOthers() {
	if !m.dirty || m.isFrozen() {
		return
	}
	if err := m.cfg.Persist.SaveOthers(m.cfg.Tables.ExportOthers()); err != nil {
		m.log.Error("copy of other hosts' state not saved", "err", err)
		return
	}
	m.dirty = false
}

func (m *Mesh) nudgeSync() {
	now := time.Now()
	for _, h := range m.hosts {
		if h.up {
			m.sendState(m.sync.PeerUp(now, h.id))
		}
	}
}

func (m *Mesh) release(scope state.Scope) error {
	m.cfg.Tables.Release(scope)
	return m.commit(nil)
}

// recall rebuilds the hosts from the tables on disk: a restarted host rejoins by itself.
func (m *Mesh) recall() {
	var all []state.Change
	for i := range m.cfg.Tables.All(state.Cluster, "") {
		all = append(all, state.Change{Writer: i.Writer, Key: i.Key, Value: i.Value})
	}
	// Admissions first: records of hosts that nobody admitted count for nothing.
	slices.SortStableFunc(all, func(a, b state.Change) int { return rank(a.Key) - rank(b.Key) })
	for _, c := range all {
		m.changedOne(time.Now(), c)
	}
}

// Compared waits until some peer has confirmed that it knows nothing newer of this host's own
// tables than this host itself: after a restart from an old copy of the disk, what was said since
// must come back before anything new is said. It gives up when ctx ends: nobody is there to ask.
func (m *Mesh) Compared(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done := true
		err := m.do(func() {
			for _, scope := range m.cfg.Tables.Scopes() {
				behind, compared := m.sync.Behind(scope)
				done = done && compared && behind == 0
			}
		})
		if done || err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func rank(key string) int {
	switch {
	case strings.HasPrefix(key, keyAdmit):
		return 0
	case key == keyHost:
		return 1
	}
	return 2
}

// changed takes changes of the tables, ours or others'.
func (m *Mesh) changed(now time.Time, cs []state.Change) {
	if len(cs) == 0 {
		return
	}
	for _, c := range cs {
		if c.Writer != m.self {
			m.dirty = true
		}
		if c.Scope == 0 {
			m.changedOne(now, c)
		}
	}
	m.cfg.Changed(cs)
}

func (m *Mesh) changedOne(now time.Time, c state.Change) {
	switch {
	case c.Gone:
	case c.Key == keyHost:
		m.hostChanged(now, c)
	case c.Key == keyToken:
		if v, secret, err := decodeToken(c.Value); err == nil && v > m.secretVer {
			m.secretVer, m.secret = v, secret
		}
	case strings.HasPrefix(c.Key, keyAdmit):
		m.hostAdmitted(now, c)
	case strings.HasPrefix(c.Key, KeyBar):
		if id, err := ident.ParseHostID(c.Key[len(KeyBar):]); err == nil && id != m.self {
			m.bar(now, id, string(c.Value), c.Writer)
		}
	}
}

func (m *Mesh) hostAdmitted(now time.Time, c state.Change) {
	id, err := ident.ParseHostID(c.Key[len(keyAdmit):])
	if err != nil || id == m.self {
		return
	}
	card, err := ident.ParseCard(c.Value)
	if err != nil || card.ID() != id {
		return
	}
	if h := m.addHost(now, id, card); h != nil && !h.known && !h.barred {
		h.known, m.dirStale = true, true
		m.cfg.HostChanged(id)
	}
}

func (m *Mesh) hostChanged(now time.Time, c state.Change) {
	rec, err := decodeHost(c.Value)
	if c.Writer == m.self {
		if err == nil && m.published.Name == "" {
			m.published = rec // of an earlier run: nothing to say again if nothing changed
		}
		return
	}
	if err != nil {
		m.log.Debug("host record refused", "host", c.Writer.Short(), "err", err)
		return
	}
	card, err := ident.ParseCard(rec.Card)
	if err != nil || card.ID() != c.Writer {
		return
	}
	h := m.addHost(now, c.Writer, card)
	if h == nil {
		return
	}
	mtu := h.rec.MTU
	h.card, h.rec = card, rec
	m.candidates(h)
	m.dirStale = true
	if h.up && mtu != rec.MTU {
		m.setPath(now, h)
	}
	if rec.Left && h.up {
		m.dropHost(h)
	}
	m.cfg.HostChanged(h.id)
}

// candidates sets the endpoints to try for a host: what it says, and where it was seen.
func (m *Mesh) candidates(h *host) {
	eps := slices.Clone(h.rec.Endpoints)
	if h.seen.IsValid() && !slices.Contains(eps, h.seen) {
		eps = append(eps, h.seen)
	}
	own := m.published.Endpoints
	eps = slices.DeleteFunc(eps, func(ap netip.AddrPort) bool { return slices.Contains(own, ap) })
	h.link.SetCandidates(eps)
}

// admitted tells the cluster that we let a host in.
func (m *Mesh) admitted(h *host) {
	m.log.Info("admitted host", "host", h.name(), "id", h.id.Short())
	if err := m.publish(0, map[string][]byte{keyAdmit + h.id.String(): h.card.Bytes()}, nil); err != nil {
		m.log.Error("admission not published", "host", h.name(), "err", err)
	}
	m.cfg.HostChanged(h.id)
}

// bar shuts a removed host out.
func (m *Mesh) bar(_ time.Time, id ident.HostID, name string, by ident.HostID) {
	h := m.hosts[id]
	if h == nil {
		h = m.addHost(time.Now(), id, ident.Card{})
		if h == nil {
			return
		}
		h.rec.Name = name
	}
	if h.barred {
		return
	}
	h.barred, h.known, h.barredBy = true, false, by
	gone := m.cfg.Tables.Forget(id)
	m.dropHost(h)
	m.log.Info("host removed from the cluster", "host", h.name())
	m.cfg.Changed(gone)
}

// Allowed reports whether blocks of a writer are taken. The tables call it, in the loop.
func (m *Mesh) Allowed(id ident.HostID) bool {
	if id == m.self {
		return true
	}
	h := m.hosts[id]
	return h != nil && h.known && !h.barred
}

// publishSelf writes the own host record when it changed.
func (m *Mesh) publishSelf(now time.Time, first bool) error {
	if m.isFrozen() {
		return nil // a second later, by whoever runs then
	}
	rec := hostRecord{Name: m.cfg.Name, Card: m.cfg.Keys.Card().Bytes(), Build: m.cfg.Build, Left: m.quitting}
	add := func(ap netip.AddrPort) {
		if ap.IsValid() && !slices.Contains(rec.Endpoints, ap) && len(rec.Endpoints) < maxEndpoints {
			rec.Endpoints = append(rec.Endpoints, ap)
		}
	}
	for _, ap := range m.cfg.Advertise {
		add(ap)
	}
	local := m.cfg.Underlay.Endpoints()
	m.natted = false
	for _, ap := range m.observedEndpoints(now) {
		if !slices.Contains(local, ap.Addr()) {
			m.natted = true
			add(ap)
		}
	}
	for _, a := range local {
		add(netip.AddrPortFrom(a, m.cfg.Port))
		if v := m.cfg.Underlay.MTU(a); v > 0 && (rec.MTU == 0 || v < rec.MTU) {
			rec.MTU = v
		}
	}
	rec.NATed = m.natted
	if m.natted {
		rec.Homes = m.homes()
	}
	m.streams.Keep(rec.Homes)
	if reflect.DeepEqual(rec, m.published) {
		return nil
	}
	puts := map[string][]byte{keyHost: encode(rec)}
	if first && m.cfg.Founder && m.secretVer == 0 {
		puts[keyAdmit+m.self.String()] = m.cfg.Keys.Card().Bytes()
		puts[keyToken] = encode(tokenRecord{Version: 1, Secret: m.cfg.Token[:]})
	}
	was := m.published
	m.published = rec // following the change finds it
	err := m.publish(0, puts, nil)
	if err != nil {
		m.published = was // once more, a second later
		return err
	}
	if was.MTU != rec.MTU {
		for _, h := range m.hosts {
			if h.up {
				m.setPath(now, h)
			}
		}
	}
	return nil
}

// observedEndpoints returns how others see us, most often named first, at most three.
func (m *Mesh) observedEndpoints(time.Time) []netip.AddrPort {
	count := map[netip.AddrPort]int{}
	for id, ap := range m.observed {
		if h := m.hosts[id]; h == nil || !h.up {
			delete(m.observed, id)
			continue
		}
		count[ap]++
	}
	eps := slices.SortedFunc(maps.Keys(count), func(a, b netip.AddrPort) int {
		if count[a] != count[b] {
			return count[b] - count[a]
		}
		return a.Compare(b)
	})
	return eps[:min(len(eps), 3)]
}

// homes returns the hosts to which a host behind a NAT holds stream sessions, so that it can be reached by them.
func (m *Mesh) homes() []ident.HostID {
	var out []ident.HostID
	for _, id := range m.published.Homes { // stay where we are
		if h := m.hosts[id]; h != nil && h.up && !h.rec.NATed {
			out = append(out, id)
		}
	}
	for _, id := range m.relays() {
		if len(out) < maxHomes && !m.hosts[id].rec.NATed && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b ident.HostID) int { return slices.Compare(a[:], b[:]) })
	return out
}
