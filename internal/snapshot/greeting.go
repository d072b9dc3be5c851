package snapshot

import (
	"errors"

	"github.com/weft-net/weft/internal/ident"
)

// Hello is what a new daemon says first.
type Hello struct {
	Formats []uint16 `cbor:"1,keyasint"` // that it reads, best first
	Version string   `cbor:"2,keyasint"`
}

// Place names a file whatever its path: device and inode.
type Place struct {
	Device uint64 `cbor:"1,keyasint"`
	Inode  uint64 `cbor:"2,keyasint"`
}

// Offer is who runs, and what it can hand over.
type Offer struct {
	Format   uint16          `cbor:"1,keyasint"` // 0: none in common
	Formats  []uint16        `cbor:"2,keyasint"` // that it writes
	Version  string          `cbor:"3,keyasint"`
	PID      int             `cbor:"4,keyasint"`
	Host     ident.HostID    `cbor:"5,keyasint"`
	Name     string          `cbor:"6,keyasint"`
	Cluster  ident.ClusterID `cbor:"7,keyasint"`
	Port     int             `cbor:"8,keyasint"`
	StateDir string          `cbor:"9,keyasint"`
	State    Place           `cbor:"10,keyasint"` // of the state directory
	Netns    Place           `cbor:"11,keyasint"` // of its network namespace
	Notify   string          `cbor:"12,keyasint,omitempty"`
}

// Plan is what is handed over before the state: the descriptors that follow, in their order.
type Plan struct {
	Descriptors []Descriptor `cbor:"1,keyasint"`
	Networks    []Network    `cbor:"2,keyasint,omitempty"` // up on this host
}

// Use says what a descriptor is.
type Use byte

// The uses of descriptors. Readers close those they don't know.
const (
	UseUDP    Use = iota + 1 // the underlay's socket
	UseTCP                   // the listener of streams
	UseAPI                   // the listener of the API
	UseLock                  // the lock of the state directory
	UseTAP                   // the uplink of a network
	UseDocker                // the listener of the Docker plugin
)

// Descriptor is one of those that follow.
type Descriptor struct {
	Use  Use    `cbor:"1,keyasint"`
	Name string `cbor:"2,keyasint,omitempty"` // of a TAP: the interface; of the Docker plugin: the socket
}

// Network is one that is up.
type Network struct {
	VNI   uint32 `cbor:"1,keyasint"`
	Name  string `cbor:"2,keyasint"`
	MTU   int    `cbor:"3,keyasint"`
	Plain bool   `cbor:"4,keyasint,omitempty"`
	TAP   string `cbor:"5,keyasint,omitempty"`
}

// Encode returns the body of a KindHello.
func (h *Hello) Encode() []byte { return encode(h) }

// Encode returns the body of a KindOffer.
func (o *Offer) Encode() []byte { return encode(o) }

// Encode returns the body of a KindPlan.
func (p *Plan) Encode() []byte { return encode(p) }

// Name returns the name of the first descriptor for a use; empty when there is none.
func (p *Plan) Name(u Use) string {
	for _, d := range p.Descriptors {
		if d.Use == u {
			return d.Name
		}
	}
	return ""
}

// DecodeHello reads the body of a KindHello.
func DecodeHello(b []byte) (Hello, error) { return decode[Hello]("hello", b) }

// DecodeOffer reads the body of a KindOffer.
func DecodeOffer(b []byte) (Offer, error) { return decode[Offer]("offer", b) }

// DecodePlan reads the body of a KindPlan.
func DecodePlan(b []byte) (Plan, error) { return decode[Plan]("plan", b) }

func (h *Hello) check() error {
	return errors.Join(within("formats", len(h.Formats), MaxFormats), within("bytes of version", len(h.Version), MaxText))
}

func (o *Offer) check() error {
	err := within("formats", len(o.Formats), MaxFormats)
	for _, s := range []string{o.Version, o.Name, o.StateDir, o.Notify} {
		err = errors.Join(err, within("bytes of text", len(s), MaxText))
	}
	if o.PID <= 0 || o.Port < 1 || o.Port > 65535 {
		err = errors.Join(err, errors.New("no such process or port"))
	}
	return err
}

func (p *Plan) check() error {
	err := errors.Join(within("descriptors", len(p.Descriptors), MaxNetworks+16), within("networks", len(p.Networks), MaxNetworks))
	for _, d := range p.Descriptors {
		err = errors.Join(err, within("bytes of name", len(d.Name), MaxText))
	}
	for _, n := range p.Networks {
		if n.VNI == 0 || n.VNI >= 1<<24 || n.MTU < 0 || n.MTU > 65535 {
			err = errors.Join(err, errors.New("no such network"))
		}
		err = errors.Join(err, within("bytes of name", len(n.Name), MaxText), within("bytes of name", len(n.TAP), MaxText))
	}
	return err
}
