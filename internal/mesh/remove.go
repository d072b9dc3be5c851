package mesh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/stream"
	"github.com/weft-net/weft/internal/wire"
)

// Token returns what admits a new host now.
func (m *Mesh) Token() ident.Token {
	t := ident.Token{Cluster: m.cfg.Cluster}
	_ = m.do(func() { t.Secret = m.secret })
	return t
}

// Rotate replaces the token: admitted hosts are not affected, new ones need the new token.
func (m *Mesh) Rotate() error {
	var err error
	if e := m.do(func() { err = m.rotate() }); e != nil {
		return e
	}
	return err
}

func (m *Mesh) rotate() error {
	var s ident.Secret
	_, _ = rand.Read(s[:])
	return m.publish(0, map[string][]byte{keyToken: encode(tokenRecord{Version: m.secretVer + 1, Secret: s[:]})}, nil)
}

// Remove shuts a host out for good and rotates the token; with is published in the same write, in scope 0. Without force a
// majority of the known hosts must be in reach, so that two halves of a partition cannot remove each other.
func (m *Mesh) Remove(id ident.HostID, force bool, with map[string][]byte) error {
	var err error
	e := m.do(func() {
		h := m.hosts[id]
		if h == nil || h.barred {
			err = fmt.Errorf("no host %s", id.Short())
			return
		}
		all, reach := 1, 1
		for _, o := range m.hosts {
			if o.known && !o.barred && !o.rec.Left && o.id != id {
				all++
				if o.up {
					reach++
				}
			}
		}
		if reach*2 <= all && !force {
			err = fmt.Errorf("remove host %s: only %d of the %d other hosts are in reach, and the rest may be removing us; --force removes all the same", h.name(), reach, all)
			return
		}
		if err = m.shutOut(h, with); err == nil {
			err = m.rotate()
		}
	})
	if e != nil {
		return e
	}
	return err
}

// ErrNoHost says that there is no such host in the cluster, or not any more.
var ErrNoHost = errors.New("no such host")

// Retire shuts a host out for good that the cluster has found to be gone by a vote. The token stays as it is: others that come and go
// are started with it.
func (m *Mesh) Retire(id ident.HostID) error {
	var err error
	e := m.do(func() {
		if h := m.hosts[id]; h == nil || h.barred {
			err = fmt.Errorf("host %s: %w", id.Short(), ErrNoHost)
		} else {
			err = m.shutOut(h, nil)
		}
	})
	if e != nil {
		return e
	}
	return err
}

// shutOut publishes that a host was removed, with what goes with that.
func (m *Mesh) shutOut(h *host, with map[string][]byte) error {
	m.tell(h.id, "this host was removed from the cluster; to come back, remove its state directory and join with the present token")
	puts := m.saidOfOthers(h.id)
	maps.Copy(puts, with)
	puts[KeyBar+h.id.String()] = []byte(h.name())
	return m.publish(0, puts, nil)
}

// saidOfOthers returns what a host said of others that must outlast its own table, which goes with it: whom it let in, and
// whom it shut out.
func (m *Mesh) saidOfOthers(id ident.HostID) map[string][]byte {
	out := map[string][]byte{}
	for i := range m.cfg.Tables.All(state.Cluster, "") {
		if i.Writer == id && (strings.HasPrefix(i.Key, KeyBar) || strings.HasPrefix(i.Key, keyAdmit) && !m.isBarred(i.Key[len(keyAdmit):])) {
			out[i.Key] = i.Value
		}
	}
	delete(out, keyAdmit+id.String())
	return out
}

func (m *Mesh) isBarred(key string) bool {
	id, err := ident.ParseHostID(key)
	h := m.hosts[id]
	return err == nil && h != nil && h.barred
}

// maxNote bounds what is shown of a line from another host, in bytes.
const maxNote = 400

// tell sends a line to another host's operator.
func (m *Mesh) tell(to ident.HostID, text string) {
	_ = m.Send(to, append([]byte{wire.KindNote}, text...))
}

// note takes a line from another host.
func (m *Mesh) note(h *host, body []byte) {
	m.warn(time.Now(), fmt.Sprintf("host %s says: %s", h.name(), record.Printable(string(body), maxNote)))
}

// Leave says goodbye: others need not notice by its silence that this host is dead, and send it nothing more. Close is to follow
// soon: handshakes are not answered from then on.
func (m *Mesh) Leave(ctx context.Context) error {
	err := m.do(func() { m.leaving = true })
	if err != nil {
		return err
	}
	timeout := 2 * time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	err = m.members.Leave(timeout)
	// After memberlist's own goodbye, which goes over the links that this one ends.
	return errors.Join(err, m.do(m.sayBye))
}

// sayBye tells every host there is a path to that this run ends now. Once, and confirmed by nobody: who does not hear it
// notices the silence.
func (m *Mesh) sayBye() {
	m.gone = true
	plain := binary.BigEndian.AppendUint64([]byte{wire.KindBye}, m.boot)
	for id := range m.hosts {
		if pathOf(m.Peer(id)) != nil {
			_ = m.Send(id, plain)
		}
	}
}

// bye takes a host's word that its run has ended: there is no path to it from now on, instead of when its silence is noticed.
func (m *Mesh) bye(now time.Time, h *host, body []byte) {
	if len(body) != 8 || h.stopped || binary.BigEndian.Uint64(body) != h.boot {
		m.drops.add(dropBye)
		return
	}
	m.log.Info("host says goodbye", "host", h.name())
	h.stopped = true
	m.endRun(now, h)
	m.setPath(now, h)
}

// Quit marks this host as gone in the tables: it gave everything back.
func (m *Mesh) Quit() error {
	var err error
	if e := m.do(func() { m.leaving, m.quitting = true, true; err = m.publishSelf(time.Now(), false) }); e != nil {
		return e
	}
	return err
}

// directory is what streams need to know of a host. It is a copy that never changes: streams ask
// under their own locks, and the loop calls streams, so neither may wait for the other.
type directory map[ident.HostID]dirEntry

type dirEntry struct {
	card      ident.Card
	endpoints []netip.AddrPort
	relays    []ident.HostID // best first
}

func (m *Mesh) streamConfig() stream.Config {
	at := func(id ident.HostID) dirEntry { return (*m.dir.Load())[id] }
	return stream.Config{
		Keys: m.cfg.Keys, Cluster: m.cfg.Cluster, Name: m.cfg.Name, Services: m.cfg.Services, Log: m.log,
		Known: func(id ident.HostID) (ident.Card, bool) {
			e, ok := (*m.dir.Load())[id]
			return e.card, ok
		},
		Endpoints: func(id ident.HostID) []netip.AddrPort { return at(id).endpoints },
		Relays:    func(dst ident.HostID) []ident.HostID { return at(dst).relays },
	}
}

// list makes the directory and the map of endpoints anew.
func (m *Mesh) list() {
	m.dirStale, m.listed = false, time.Now()
	near := m.relays()
	d := make(directory, len(m.hosts))
	at := make(map[netip.AddrPort]ident.HostID, len(near))
	for id, h := range m.hosts {
		if p := h.peer.Path(); p != nil && p.Relay == nil {
			at[p.Endpoint] = id
		}
		if h.known && !h.barred {
			d[id] = dirEntry{card: h.card, endpoints: h.link.Candidates(), relays: m.streamRelays(h, near)}
		}
	}
	m.dir.Store(&d)
	m.atEndpoint.Store(&at)
}

// streamRelays returns whom to ask for a stream to a host: first those to which it holds a session.
func (m *Mesh) streamRelays(h *host, near []ident.HostID) []ident.HostID {
	var ids []ident.HostID
	add := func(id ident.HostID) {
		if id != m.self && id != h.id && !id.IsZero() && !slices.Contains(ids, id) && len(ids) < maxStreamRelays {
			ids = append(ids, id)
		}
	}
	for _, id := range h.rec.Homes {
		add(id)
	}
	add(h.link.Addr().Relay)
	for _, id := range near {
		add(id)
	}
	return ids
}

// maxStreamRelays bounds the relays tried for one stream.
const maxStreamRelays = 6

func newSync(t *state.Tables) *state.Sync { return state.NewSync(t, state.SyncConfig{}) }
