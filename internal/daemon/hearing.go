package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/ethersock"
	"github.com/weft-net/weft/internal/hearing"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/vnet"
	"github.com/weft-net/weft/internal/wire"
)

// ears find out which hosts get a plain network's VXLAN packets: UDP port 4789 may be closed on the way, though weft's
// own is not. The kernel owns that port, so the question is a frame, sent and received beside the bridge.
type ears struct {
	mu     sync.Mutex // guards what follows
	known  hearing.Ears
	conn   ethersock.Conn
	index  int                        // of the device conn is on
	lately map[ident.HostID][2]uint64 // round of the last short and the last long frame heard of each
}

func newEars() *ears {
	e := &ears{lately: map[ident.HostID][2]uint64{}}
	e.known.Start(rand.Uint64() >> 1)
	return e
}

// verdict is what is known of a host; nothing, of a network that is not up yet.
func (e *ears) verdict(id ident.HostID) hearing.Verdict {
	if e == nil {
		return hearing.Unknown
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known.Verdict(id)
}

// close ends the hearing, until it is opened anew.
func (e *ears) close() { e.replace(nil, 0) }

// replace makes conn, on the device with an index, the one that is asked and listened on.
func (e *ears) replace(conn ethersock.Conn, index int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		_ = e.conn.Close()
	}
	e.conn, e.index = conn, index
}

// listen finds out whether the hosts with attachments, to which the device sends what all get, hear this one. Called by
// spread, once a second.
func (s *System) listen(n *network, v view, r reach, now time.Time) {
	iface, err := s.openEars(n)
	if err != nil {
		s.log.Debug("plain network not probed", "network", n.name, "err", err)
		return
	}
	var expect []ident.HostID
	for _, id := range v.hosts {
		if r.vteps[id].IsValid() {
			expect = append(expect, id)
		}
	}
	e := n.ears
	e.mu.Lock()
	round, question := e.known.Tick(now, expect)
	conn := e.conn
	e.mu.Unlock()
	if question != 0 {
		for _, id := range expect {
			s.note(id, hearing.Note{VNI: n.vni, Round: question})
		}
	}
	if round == 0 || conn == nil {
		return
	}
	f := hearing.Frame{VNI: n.vni, Round: round, From: s.mesh.Self()}
	mac := [6]byte(iface.HardwareAddr)
	err = conn.Send(f.Append(nil, mac, hearing.Short))
	f.Long = true
	if err := errors.Join(err, conn.Send(f.Append(nil, mac, iface.MTU+14))); err != nil {
		s.log.Debug("plain network not probed", "network", n.name, "err", err)
	}
}

// note sends a note on a host's link; one that is lost is asked for again.
func (s *System) note(to ident.HostID, n hearing.Note) {
	_ = s.mesh.Send(to, n.Append([]byte{wire.KindHeard}))
}

// openEars opens the socket on the network's device, anew when the device is another.
func (s *System) openEars(n *network) (*net.Interface, error) {
	iface, err := net.InterfaceByName(vnet.VXLANName(n.vni))
	if err != nil {
		return nil, err
	}
	if len(iface.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s has no MAC", iface.Name)
	}
	e := n.ears
	e.mu.Lock()
	same := e.conn != nil && e.index == iface.Index
	e.mu.Unlock()
	if same {
		return iface, nil
	}
	conn, err := ethersock.Open(iface.Index, hearing.EtherType)
	if err != nil {
		return nil, err
	}
	e.replace(conn, iface.Index)
	stop := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	s.go_(func() {
		defer stop()
		s.hear(n, conn)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.conn == conn { // it failed: another one, a second later
			_ = conn.Close()
			e.conn, e.index = nil, 0
		}
	})
	return iface, nil
}

// hear takes note of the frames that come by a device, until the socket is closed, or the device goes down.
func (s *System) hear(n *network, conn ethersock.Conn) {
	buf := make([]byte, 256) // a long frame's end says nothing
	for {
		k, err := conn.Receive(buf)
		if err != nil {
			return
		}
		f, err := hearing.ParseFrame(buf[:k])
		if err != nil || f.VNI != n.vni || s.mesh.Peer(f.From) == nil { // of known hosts only: their number is bounded
			s.log.Debug("frame between hosts refused", "network", n.name, "from", f.From.Short(), "err", err)
			continue
		}
		e := n.ears
		e.mu.Lock()
		at := e.lately[f.From]
		if f.Long {
			at[1] = f.Round
		} else {
			at[0] = f.Round
		}
		e.lately[f.From] = at
		e.mu.Unlock()
	}
}

// heard takes a question or a report of another host. It runs in the mesh's loop, which must not wait for System.mu.
func (s *System) heard(from ident.HostID, body []byte) {
	note, err := hearing.ParseNote(body)
	if err != nil {
		s.log.Debug("note refused", "from", from.Short(), "err", err)
		return
	}
	v, ok := s.ears.Load(note.VNI)
	if !ok {
		return
	}
	e := v.(*ears)
	e.mu.Lock()
	defer e.mu.Unlock()
	if note.Report {
		e.known.Report(from, note.Round, note.Short, note.Long)
		return
	}
	if e.conn == nil { // not listening: what was sent could not be heard
		return
	}
	at := e.lately[from]
	note.Report, note.Short, note.Long = true, at[0] == note.Round, at[1] == note.Round
	s.note(from, note)
}
