package snapshot

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// State is everything that changes with every packet, of a daemon that has stopped. Times in it are ages: a clock that
// is not the wall's does not cross from process to process.
type State struct {
	Stopped int64 `cbor:"1,keyasint"` // Unix time in ns, for people
	Mesh    Mesh  `cbor:"2,keyasint"`
	Cast    Cast  `cbor:"3,keyasint"`
}

// Sealer is the sending half of a key: of a session, or a sender key.
type Sealer struct {
	Suite byte   `cbor:"1,keyasint"`
	Key   []byte `cbor:"2,keyasint"`
	Index uint32 `cbor:"3,keyasint,omitempty"` // of a session: the receiver's name of it
	ID    uint64 `cbor:"4,keyasint,omitempty"` // of a sender key
	// Used is the highest counter given out, and none above it ever was: nothing seals under the key any more.
	Used uint64 `cbor:"5,keyasint,omitempty"`
}

// Opener is the receiving half of a key, with its replay window.
type Opener struct {
	Suite byte   `cbor:"1,keyasint"`
	Key   []byte `cbor:"2,keyasint"`
	High  uint64 `cbor:"3,keyasint,omitempty"` // the highest counter accepted
	Seen  []byte `cbor:"4,keyasint,omitempty"` // which of those before it; empty when none was
}

// Mesh is what package mesh hands over.
type Mesh struct {
	Boot     uint64 `cbor:"1,keyasint"` // names the run: it goes on
	Fragment uint32 `cbor:"2,keyasint,omitempty"`
	Hosts    []Host `cbor:"3,keyasint,omitempty"`
	Seeds    []Seed `cbor:"4,keyasint,omitempty"`
	Answered []byte `cbor:"5,keyasint,omitempty"` // hellos that drew an answer, 16 bytes each
}

// Host is another host, as far as the state tables don't tell.
type Host struct {
	ID       ident.HostID   `cbor:"1,keyasint"`
	Boot     uint64         `cbor:"2,keyasint,omitempty"` // of its run
	Up       bool           `cbor:"3,keyasint,omitempty"`
	Seen     netip.AddrPort `cbor:"4,keyasint"` // where it was last seen
	Observed netip.AddrPort `cbor:"5,keyasint"` // where it sees us
	Skew     time.Duration  `cbor:"6,keyasint,omitempty"`
	Link     Link           `cbor:"7,keyasint"`
	Sessions []Session      `cbor:"8,keyasint,omitempty"`
}

// Seed is a name by which the cluster may be found.
type Seed struct {
	Name string       `cbor:"1,keyasint"`
	Host ident.HostID `cbor:"2,keyasint"` // who answered
}

// Session is a pair of keys with a host.
type Session struct {
	Local  uint32 `cbor:"1,keyasint"` // our index
	Sealer Sealer `cbor:"2,keyasint"`
	Opener Opener `cbor:"3,keyasint"`
}

// Address is an endpoint, or a relay.
type Address struct {
	Endpoint netip.AddrPort `cbor:"1,keyasint"`
	Relay    ident.HostID   `cbor:"2,keyasint"`
}

// Link is the path choice for a host.
type Link struct {
	Use      uint32        `cbor:"1,keyasint,omitempty"` // session to send in
	Sessions []LinkSession `cbor:"2,keyasint,omitempty"` // newest first
	Address  Address       `cbor:"3,keyasint"`
	State    byte          `cbor:"4,keyasint,omitempty"`
	Since    time.Duration `cbor:"5,keyasint,omitempty"` // of State
	Pinged   time.Duration `cbor:"6,keyasint,omitempty"`
	RTT      time.Duration `cbor:"7,keyasint,omitempty"`
	Loss     float64       `cbor:"8,keyasint,omitempty"`
	Reason   string        `cbor:"9,keyasint,omitempty"`
	NextPing uint64        `cbor:"10,keyasint,omitempty"`
	Limit    int           `cbor:"11,keyasint,omitempty"` // of packets on Address, in bytes, as interfaces say
	Proven   int           `cbor:"12,keyasint,omitempty"`
	Failed   int           `cbor:"13,keyasint,omitempty"`
	Measured time.Duration `cbor:"14,keyasint,omitempty"`
}

// LinkSession is one of the sessions that a link chooses from.
type LinkSession struct {
	Local     uint32        `cbor:"1,keyasint"`
	Initiator bool          `cbor:"2,keyasint,omitempty"`
	Confirmed bool          `cbor:"3,keyasint,omitempty"`
	Age       time.Duration `cbor:"4,keyasint,omitempty"`
}

// Cast is what package cast hands over.
type Cast struct {
	Networks []CastNetwork `cbor:"1,keyasint,omitempty"`
	Rings    []Ring        `cbor:"2,keyasint,omitempty"`
}

// CastNetwork is the sending side of one network.
type CastNetwork struct {
	VNI       uint32         `cbor:"1,keyasint"`
	Fragment  uint32         `cbor:"2,keyasint,omitempty"`
	Hosts     []ident.HostID `cbor:"3,keyasint,omitempty"` // who shall have the key
	Current   SenderKey      `cbor:"4,keyasint"`
	Next      *SenderKey     `cbor:"5,keyasint,omitempty"`
	Removal   bool           `cbor:"6,keyasint,omitempty"` // a host was removed, and the key is still the one it knows
	Removed   time.Duration  `cbor:"7,keyasint,omitempty"` // since a removal last led to another key; 0: never
	Rotations uint64         `cbor:"8,keyasint,omitempty"`
}

// SenderKey is a sender key and who was offered it.
type SenderKey struct {
	Sealer Sealer        `cbor:"1,keyasint"`
	Age    time.Duration `cbor:"2,keyasint,omitempty"`
	Handed []Handed      `cbor:"3,keyasint,omitempty"`
}

// Handed is a sender key towards one host.
type Handed struct {
	Host  ident.HostID `cbor:"1,keyasint"`
	Acked bool         `cbor:"2,keyasint,omitempty"`
}

// Ring is the sender keys of another host in a network.
type Ring struct {
	Host    ident.HostID  `cbor:"1,keyasint"`
	VNI     uint32        `cbor:"2,keyasint"`
	Keys    []ReceivedKey `cbor:"3,keyasint,omitempty"` // oldest first
	Retired []uint64      `cbor:"4,keyasint,omitempty"`
}

// ReceivedKey is a sender key that another host handed to us.
type ReceivedKey struct {
	ID      uint64        `cbor:"1,keyasint"`
	Opener  Opener        `cbor:"2,keyasint"`
	Expires time.Duration `cbor:"3,keyasint,omitempty"` // from now; 0: it is the newest
}

// Encode returns the body of a KindState.
func (s *State) Encode() []byte { return encode(s) }

// DecodeState reads the body of a KindState. Every list of what it returns is within the limits, every key as long as keys are.
func DecodeState(b []byte) (State, error) { return decode[State]("state", b) }

// String hides keys from logs.
func (s Sealer) String() string { return fmt.Sprintf("sealer %d/%d at %d", s.Index, s.ID, s.Used) }

// String hides keys from logs.
func (o Opener) String() string { return fmt.Sprintf("opener at %d", o.High) }

func (s *State) check() error {
	if err := s.Mesh.check(); err != nil {
		return err
	}
	return s.Cast.check()
}

func (m *Mesh) check() error {
	err := errors.Join(within("hosts", len(m.Hosts), MaxHosts), within("seeds", len(m.Seeds), MaxSeeds), within("bytes of answered hellos", len(m.Answered), macSize*MaxAnswered))
	if err == nil && len(m.Answered)%macSize != 0 {
		err = errors.New("answered hellos cut short")
	}
	for i := range m.Seeds {
		err = errors.Join(err, within("bytes of seed", len(m.Seeds[i].Name), MaxText))
	}
	for i := range m.Hosts {
		if err != nil {
			return err
		}
		err = m.Hosts[i].check()
	}
	return err
}

func (h *Host) check() error {
	if err := errors.Join(within("sessions", len(h.Sessions), MaxSessions), within("sessions of a link", len(h.Link.Sessions), MaxSessions), h.Link.check()); err != nil {
		return err
	}
	for i := range h.Sessions {
		if err := errors.Join(h.Sessions[i].Sealer.check(), h.Sessions[i].Opener.check()); err != nil {
			return err
		}
	}
	return age("clock", h.Skew)
}

func (l *Link) check() error {
	for _, s := range l.Sessions {
		if err := age("session made", s.Age); err != nil {
			return err
		}
	}
	if l.State > 2 || l.Loss < 0 || l.Loss > 1 || l.Loss != l.Loss || max(l.Limit, l.Proven, l.Failed) > 1<<17 || min(l.Limit, l.Proven, l.Failed) < 0 {
		return errors.New("link in no state")
	}
	return errors.Join(within("bytes of reason", len(l.Reason), MaxText), age("link", l.Since, l.Pinged, l.RTT, l.Measured))
}

func (s *Sealer) check() error {
	if len(s.Key) != keySize || s.Used >= 1<<63 {
		return errors.New("no sealer")
	}
	return nil
}

func (o *Opener) check() error {
	if len(o.Key) != keySize || len(o.Seen) != 0 && len(o.Seen) != seenSize || (len(o.Seen) == 0) != (o.High == 0) {
		return errors.New("no opener")
	}
	return nil
}

func (c *Cast) check() error {
	if err := errors.Join(within("networks", len(c.Networks), MaxNetworks), within("rings", len(c.Rings), MaxRings)); err != nil {
		return err
	}
	for i := range c.Networks {
		n := &c.Networks[i]
		err := errors.Join(within("hosts", len(n.Hosts), MaxHanded), n.Current.check(), age("host removed", n.Removed))
		if err == nil && n.Next != nil {
			err = n.Next.check()
		}
		if err != nil {
			return err
		}
	}
	for i := range c.Rings {
		r := &c.Rings[i]
		if err := errors.Join(within("keys", len(r.Keys), MaxKeys), within("retired keys", len(r.Retired), MaxFormats)); err != nil {
			return err
		}
		for j := range r.Keys {
			if err := errors.Join(r.Keys[j].Opener.check(), age("key", r.Keys[j].Expires)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *SenderKey) check() error {
	return errors.Join(k.Sealer.check(), within("hosts", len(k.Handed), MaxHanded), age("key made", k.Age))
}
