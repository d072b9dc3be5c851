package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/ethersock"
	"github.com/weft-net/weft/internal/hearing"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/vnet"
	"github.com/weft-net/weft/internal/wire"
)

// answerGap is how soon the same host is answered again, for each length: frames of a plain network may come from anybody
// who can use a VTEP's address.
const answerGap = 200 * time.Millisecond

// ears find out which hosts get a plain network's VXLAN packets: UDP port 4789 may be closed on the way, though weft's
// own is not. The kernel owns that port, so the question is a frame, sent and received beside the bridge.
type ears struct {
	mu       sync.Mutex // guards what follows
	known    hearing.Ears
	conn     ethersock.Conn
	index    int // of the device conn is on
	answered map[ident.HostID][2]time.Time
}

func newEars() *ears {
	e := &ears{answered: map[ident.HostID][2]time.Time{}}
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

// ask asks the hosts with attachments, to which the device sends what all get, whether they hear this one. Those
// without a direct path of weft's own cannot be judged: their answers would say nothing. Called by spread, once a second.
func (s *System) ask(n *network, v view, r reach, now time.Time) {
	iface, err := s.openEars(n)
	if err != nil {
		s.log.Debug("plain network not probed", "network", n.name, "err", err)
		return
	}
	var expect []ident.HostID
	for _, id := range v.hosts {
		if p := s.mesh.Peer(id); r.vteps[id].IsValid() && p != nil && p.Path() != nil {
			expect = append(expect, id)
		}
	}
	e := n.ears
	e.mu.Lock()
	round, due := e.known.Tick(now, expect)
	conn := e.conn
	e.mu.Unlock()
	if !due || conn == nil {
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

// hear answers the questions that come by a device, until the socket is closed, or the device goes down.
func (s *System) hear(n *network, conn ethersock.Conn) {
	buf := make([]byte, 256) // a long frame's end says nothing
	for {
		k, err := conn.Receive(buf)
		if err != nil {
			return
		}
		f, err := hearing.ParseFrame(buf[:k])
		if err != nil || f.VNI != n.vni || f.From == s.mesh.Self() || s.mesh.Peer(f.From) == nil {
			s.log.Debug("question of a plain network refused", "network", n.name, "from", f.From.Short(), "err", err)
			continue
		}
		if !n.ears.mayAnswer(f, time.Now()) {
			continue
		}
		_ = s.mesh.Send(f.From, hearing.Answer{VNI: f.VNI, Round: f.Round, Long: f.Long}.Append([]byte{wire.KindHeard})) // asked again when lost
	}
}

// mayAnswer bounds answers to one host.
func (e *ears) mayAnswer(f hearing.Frame, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := 0
	if f.Long {
		i = 1
	}
	at := e.answered[f.From]
	if now.Sub(at[i]) < answerGap {
		return false
	}
	at[i] = now
	e.answered[f.From] = at
	return true
}

// heard takes an answer.
func (s *System) heard(from ident.HostID, body []byte) {
	a, err := hearing.ParseAnswer(body)
	if err != nil {
		s.log.Debug("answer refused", "from", from.Short(), "err", err)
		return
	}
	all := s.localNetworks()
	i := slices.IndexFunc(all, func(n *network) bool { return n.vni == a.VNI && n.ears != nil })
	if i < 0 {
		return
	}
	e := all[i].ears
	e.mu.Lock()
	e.known.Heard(from, a.Round, a.Long)
	e.mu.Unlock()
}
