package mesh

import (
	"errors"
	"fmt"
	"time"

	"github.com/weft-net/weft/internal/frag"
	"github.com/weft-net/weft/internal/link"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/snapshot"
)

// A daemon that makes room for another one goes through Freeze, Halt and Export, or back by Resume and Unfreeze. The other
// one: StartHalted, Adopt, Begin.

// ErrHandingOver says that own entries are not written now: another daemon has read them, and will write the next.
var ErrHandingOver = errors.New("this host is being handed over to another weft: try again in a moment")

// Freeze ends what changes this host's own tables, until Unfreeze: what is on disk is what others can know. Sessions that
// are there go on, new handshakes wait.
func (m *Mesh) Freeze() error {
	return m.do(func() {
		m.saveOthers()
		if !m.isFrozen() {
			thawed := make(chan struct{})
			m.frozen.Store(&thawed)
		}
	})
}

// Unfreeze goes on as if nothing had happened.
func (m *Mesh) Unfreeze() {
	if c := m.frozen.Swap(nil); c != nil {
		close(*c)
	}
}

func (m *Mesh) isFrozen() bool { return m.frozen.Load() != nil }

// thawed waits until own tables may be written again.
func (m *Mesh) thawed() error {
	c := m.frozen.Load()
	if c == nil {
		return nil
	}
	select {
	case <-*c:
		return nil
	case <-m.ctx.Done():
		return ErrClosed
	}
}

func (m *Mesh) saveOwn(b []byte) error {
	if m.isFrozen() {
		return ErrHandingOver
	}
	return m.cfg.Persist.SaveOwn(b)
}

// Halt stops the reader: when it returns, all that was read has been handled, and packets wait in the socket.
func (m *Mesh) Halt() {
	m.cfg.Conn.Halt()
	m.turn.Lock()
	m.held.Store(true)
}

// letRead lets a halted reader go on.
func (m *Mesh) letRead() {
	if m.held.CompareAndSwap(true, false) {
		m.turn.Unlock()
	}
}

// Export returns what the tables on disk do not tell, of a mesh that was halted. From here on nothing is sealed, until Resume.
func (m *Mesh) Export() (snapshot.Mesh, error) {
	var out snapshot.Mesh
	var err error
	if e := m.do(func() {
		for range len(m.events) {
			m.event(<-m.events)
		}
		m.halted = true
		out, err = m.export(time.Now())
	}); e != nil {
		return out, e
	}
	return out, err
}

func (m *Mesh) export(now time.Time) (snapshot.Mesh, error) {
	out := snapshot.Mesh{Boot: m.boot, Answered: m.machine.Answered()}
	byHost := map[*host][]snapshot.Session{}
	for _, s := range *m.sessions.Load() {
		s.sealer.Freeze()
		sealer, err := s.sealer.Export()
		if err != nil {
			return out, err
		}
		if h := m.hosts[s.host]; h != nil {
			byHost[h] = append(byHost[h], snapshot.Session{Local: s.local, Sealer: sealer, Opener: s.opener.Export()})
		}
	}
	for _, h := range m.hosts {
		if h.barred || !h.known {
			continue
		}
		out.Hosts = append(out.Hosts, snapshot.Host{
			ID: h.id, Boot: h.boot, Up: h.up, Seen: h.seen, Observed: m.observed[h.id], Skew: h.skew,
			Link: h.link.Export(now), Sessions: byHost[h],
		})
	}
	for _, s := range m.seeds {
		out.Seeds = append(out.Seeds, snapshot.Seed{Name: s.name, Host: s.host})
	}
	out.Fragment = m.fragID.Load() // after the last packet was sealed
	return out, nil
}

// Resume undoes Halt and Export.
func (m *Mesh) Resume() {
	_ = m.do(func() { m.unhalt() }) // closed: nothing to resume
	m.cfg.Conn.Resume()
	m.letRead()
}

func (m *Mesh) unhalt() {
	for _, s := range *m.sessions.Load() {
		s.sealer.Thaw()
	}
	m.halted = false
}

// StartHalted is Start for a mesh that takes over from another process: nothing is read or sent before Begin.
func (m *Mesh) StartHalted() error {
	if err := m.startMembers(); err != nil {
		return err
	}
	m.halted = true
	m.turn.Lock()
	m.held.Store(true)
	for _, f := range []func(){m.read, m.loop} {
		m.done.Go(f)
	}
	return nil
}

// Adopt takes over what another process exported: keys, paths, and its name as a run. What concerns hosts that the tables
// do not name is left out. An error leaves a mesh that must be closed.
func (m *Mesh) Adopt(s snapshot.Mesh) error {
	var err error
	if e := m.do(func() { err = m.adoptAll(time.Now(), s) }); e != nil {
		return e
	}
	return err
}

func (m *Mesh) adoptAll(now time.Time, s snapshot.Mesh) error {
	m.boot = s.Boot
	m.fragID.Store(s.Fragment)
	m.machine.AdoptAnswered(s.Answered)
	for i := range s.Hosts {
		if err := m.adoptHost(now, &s.Hosts[i]); err != nil {
			return err
		}
	}
	for _, x := range s.Seeds {
		if m.seeds[x.Name] == nil && len(m.seeds) < maxSeeds {
			m.seeds[x.Name] = &seed{name: x.Name}
		}
		if m.seeds[x.Name] != nil {
			m.seeds[x.Name].host = x.Host
		}
	}
	for _, relayed := range []bool{false, true} { // a relayed path goes by that to the relay
		for _, h := range m.hosts {
			if h.link.Use() != 0 && h.link.Addr().IsRelay() == relayed {
				m.setPath(now, h)
			}
		}
	}
	m.list()
	return nil
}

func (m *Mesh) adoptHost(now time.Time, x *snapshot.Host) error {
	h := m.hosts[x.ID]
	if h == nil || !h.known || h.barred {
		return nil
	}
	h.boot, h.seen, h.skew = x.Boot, x.Seen, x.Skew
	if x.Observed.IsValid() {
		m.observed[x.ID] = x.Observed
	}
	endpoints := h.link.Candidates()
	h.link = link.Adopt(now, x.Link, endpoints)
	m.candidates(h)
	for _, k := range x.Sessions {
		if !m.machine.Adopt(k.Local) {
			return fmt.Errorf("mesh: adopt a session with host %s: index %d is in use", h.name(), k.Local)
		}
		sealer, err := seal.AdoptSealer(k.Sealer, 0)
		if err != nil {
			return fmt.Errorf("mesh: adopt a session with host %s: %w", h.name(), err)
		}
		opener, err := seal.AdoptOpener(k.Opener)
		if err != nil {
			return fmt.Errorf("mesh: adopt a session with host %s: %w", h.name(), err)
		}
		m.addSession(&session{host: h.id, peer: h.peer, local: k.Local, sealer: sealer, opener: opener, parts: &frag.Assembler{}})
	}
	if x.Up {
		h.up, h.lastUp = true, now
	}
	return nil
}

// Begin reads and sends: the other process has given up what was adopted.
func (m *Mesh) Begin() error {
	err := m.do(func() {
		m.unhalt()
		now := time.Now()
		for _, h := range m.hosts {
			if h.up {
				m.sendState(m.sync.PeerUp(now, h.id)) // what was told while nobody wrote it down here
			}
		}
	})
	if err != nil {
		return err
	}
	m.letRead()
	for _, f := range []func(){m.serveStreams, m.acceptStreams} {
		m.done.Go(f)
	}
	return nil
}
