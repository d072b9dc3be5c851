// Package handshake lets two hosts prove who they are and agree on session keys: Noise in datagrams, silent to strangers.
//
// First contact is Noise XXpsk0: the initiator knows only the cluster secret. Hosts that know each other
// from the shared state use Noise IK, which needs no secret: a rotated token does not lock out admitted hosts.
// Both run over X25519, ChaCha20-Poly1305 and BLAKE2s (https://noiseprotocol.org/noise.html, revision 34).
//
//	initiator                     responder
//	hello   e [es s ss] info  →
//	                          ←   reply   e ee [se | s es] info or refusal
//	finish  s se              →                       (first contact only)
//
// Nothing is decrypted, remembered or answered before the MAC under a key that strangers lack is right. Under a flood
// a hello is answered by a cookie, by which the asker proves that it receives at its address.
// The datagrams are drawn in layout.go.
//
// A Machine is a core: it has one owner, reads no clock and opens no socket. Sending again is the caller's:
// it calls Start anew.
package handshake

import (
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/flynn/noise"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

// Info is what each side tells the other, inside the handshake. Validate says what is allowed in it.
type Info struct {
	Card   ident.Card   `cbor:"1,keyasint"`
	Name   string       `cbor:"2,keyasint"` // the host's name, a DNS label
	Suites []seal.Suite `cbor:"3,keyasint"` // at most MaxSuites, preferred first
	Port   uint16       `cbor:"4,keyasint"` // where the host listens, UDP and TCP
	Unix   int64        `cbor:"5,keyasint"` // wall clock in seconds: only for a warning, never for a decision
	Build  string       `cbor:"6,keyasint"` // version of the program, at most MaxBuild bytes
	Boot   uint64       `cbor:"7,keyasint"` // names this run of the host: tells a restart from a copy
}

// Config is what a Machine is made of. Its functions are called by the owner's calls only.
type Config struct {
	Keys    ident.Keys
	Cluster ident.ClusterID
	// Domain keeps handshakes of different transports apart: a hello of one is garbage to the other.
	Domain string
	// Secret returns the cluster's secret of the moment; nil switches first contact off.
	Secret func() ident.Secret
	// Self returns what this host says of itself; Card and Unix are filled in by the Machine when zero.
	Self func(now time.Time) Info
	// Known returns the card of a host that is admitted and not barred. Only these are answered in IK.
	Known func(ident.HostID) (ident.Card, bool)
	// Admit refuses a host (name taken, barred, alive elsewhere) or returns nil. first says that it comes under
	// the secret; in first contact both sides ask, as both meet a stranger. It may be asked twice for one handshake
	// and must not change anything. nil admits everyone.
	Admit func(id ident.HostID, info Info, first bool) *Refusal
	// Load is the number of hellos per second above which askers must prove their address; 0 means DefaultLoad.
	Load int
	// Rand is the source of keys and indices; nil means crypto/rand.
	Rand io.Reader
}

// Attempt is a handshake begun.
type Attempt struct {
	Index  uint32 // our name of it, and of the session that it may become
	Packet []byte // the hello to send; the caller may keep it
}

// Result is a session agreed.
type Result struct {
	ID      ident.HostID
	Peer    Info
	Local   uint32 // our index: the peer writes it into what it sends us. The caller returns it by Release.
	Remote  uint32 // the peer's index
	SendKey [seal.KeySize]byte
	RecvKey [seal.KeySize]byte
	Suite   seal.Suite
	// Initiator says that this side began, First that it was first contact under the secret.
	Initiator, First bool
	// Confirmed says that the peer has proved to hold the keys now. A responder of IK gets false: the hello may be
	// a replay from before our start, so it must open a packet of the session before it sends on it or drops an older one.
	Confirmed bool
}

// Refusal says why a host is not taken.
type Refusal struct {
	Code string `cbor:"1,keyasint"` // one of the codes below, at most maxCode bytes
	Text string `cbor:"2,keyasint"` // one line for the operator with the fix, at most MaxText bytes
}

// Codes of refusals.
const (
	CodeVersion   = "version"    // the hosts speak different wire versions
	CodeUnknown   = "unknown"    // not in the responder's state (yet, or any more): make first contact
	CodeBarred    = "barred"     // removed from the cluster
	CodeNameTaken = "name_taken" // another host has the name
	CodeElsewhere = "elsewhere"  // the same HostID lives at another place: a cloned disk
	CodeSelf      = "self"       // the initiator called itself
)

// Error makes a refusal an error for those who return it as one.
func (r *Refusal) Error() string { return "refused: " + r.Text }

// Output is what a packet led to. All parts may be empty.
type Output struct {
	Reply   []byte   // to be sent to where the packet came from; a fresh slice
	Index   uint32   // our attempt that Done or Refused is about
	Done    *Result  // the session agreed
	Refused *Refusal // the responder's answer to our attempt, which is over
	Drop    string   // why the packet was not used: one of the Drop names, or ""
}

// Errors of Start.
var (
	ErrBusy     = errors.New("handshake: too many unfinished attempts")
	ErrSessions = errors.New("handshake: too many sessions")
	ErrNoSecret = errors.New("handshake: first contact needs the cluster's token")
)

// Machine runs the handshakes of a host. It has one owner.
type Machine struct {
	cfg     Config
	id      ident.HostID
	static  noise.DHKey
	version byte

	known  macKey // of IK hellos to us
	first  macKey // of XX hellos, under secret
	secret ident.Secret

	attempts map[uint32]*attempt  // we began
	halfOpen map[uint32]*halfOpen // XX we answered, the finish is due
	sessions map[uint32]struct{}  // indices in use by agreed sessions

	flood    flood
	replays  replays
	bad      badSecrets
	counters map[string]uint64
}

// New makes a Machine.
func New(cfg Config) *Machine {
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Load <= 0 {
		cfg.Load = DefaultLoad
	}
	m := &Machine{
		cfg:      cfg,
		id:       cfg.Keys.ID(),
		version:  wire.Version,
		static:   noise.DHKey{Private: cfg.Keys.Static.Bytes(), Public: cfg.Keys.Static.PublicKey().Bytes()},
		attempts: map[uint32]*attempt{},
		halfOpen: map[uint32]*halfOpen{},
		sessions: map[uint32]struct{}{},
		counters: make(map[string]uint64, len(Counts)+len(Drops)),
	}
	for _, n := range slices.Concat(Counts, Drops) {
		m.counters[n] = 0
	}
	m.known = newMACKey(knownKey(m.static.Public, cfg.Domain, cfg.Cluster))
	m.flood.init(cfg.Rand)
	if cfg.Secret != nil {
		m.secret = cfg.Secret()
		m.first = newMACKey(firstKey(m.secret, cfg.Domain, cfg.Cluster))
	}
	return m
}

// Cancel gives up an attempt; its index is free again. Unknown indices are ignored.
func (m *Machine) Cancel(index uint32) { delete(m.attempts, index) }

// Release tells that the session with this local index is dead; the index is free again.
func (m *Machine) Release(index uint32) { delete(m.sessions, index) }

// Tick forgets what is too old. The owner calls it about once a second.
func (m *Machine) Tick(now time.Time) {
	for i, a := range m.attempts {
		if now.Sub(a.born) > HalfOpenAge {
			delete(m.attempts, i)
		}
	}
	for i, h := range m.halfOpen {
		if now.Sub(h.born) > HalfOpenAge {
			delete(m.halfOpen, i)
		}
	}
	m.flood.tick(now)
}

// Counters returns how often each named thing happened since New.
func (m *Machine) Counters() map[string]uint64 { return maps.Clone(m.counters) }

// Sizes are the present sizes of a Machine's tables; each has a bound in limits.go.
type Sizes struct{ Attempts, HalfOpen, Sessions, Replays, Sources, BadSecrets int }

// Sizes returns the sizes of the tables.
func (m *Machine) Sizes() Sizes {
	return Sizes{
		Attempts: len(m.attempts), HalfOpen: len(m.halfOpen), Sessions: len(m.sessions),
		Replays: len(m.replays.seen), Sources: len(m.flood.sources), BadSecrets: len(m.bad.sources),
	}
}

// BadSecrets returns the sources of first-contact hellos under a wrong secret, most recent first, at most MaxBadSecrets.
func (m *Machine) BadSecrets() []BadSecret { return m.bad.list() }

func (m *Machine) drop(name string) Output {
	m.counters[name]++
	return Output{Drop: name}
}
