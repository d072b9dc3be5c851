// Package link decides how packets reach another host: which endpoint, or through which relay.
package link

import (
	"net/netip"
	"sync/atomic"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
)

// Path is how packets reach a host now. It is immutable: a change replaces it as a whole.
type Path struct {
	// Endpoint is the underlay address of the next hop: the host's own, or its relay's.
	Endpoint netip.AddrPort
	// Relay is the host that forwards, nil on a direct path.
	Relay *Relay
	// Session seals link packets end to end; the relay cannot open them.
	Session *seal.Sealer
	// Payload is the largest UDP payload that the path carries end to end, in bytes, all of
	// weft's own headers but the relay envelope (already subtracted) included; at least wire.MinPath - wire.RelayTotal.
	Payload int
}

// Relay is the middle of a relayed path.
type Relay struct {
	Host ident.HostID
	Hop  *seal.Sealer // the session with the relay; its MAC goes on the envelope
}

// Peer is another host as the datapath sees it: a name and the path of the moment.
// The mesh writes the path, any goroutine reads it.
type Peer struct {
	ID   ident.HostID
	path atomic.Pointer[Path]
	used atomic.Uint64
}

// Path returns the path of the moment, nil when there is none.
func (p *Peer) Path() *Path { return p.path.Load() }

// Use is Path for a frame that will be sent on it: a path in use is watched more closely than a quiet one.
func (p *Peer) Use() *Path {
	p.used.Add(1)
	return p.path.Load()
}

// Used returns how often Use was called.
func (p *Peer) Used() uint64 { return p.used.Load() }

// SetPath replaces the path; nil says that the host cannot be reached.
func (p *Peer) SetPath(v *Path) { p.path.Store(v) }
