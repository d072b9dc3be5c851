package mesh

import (
	"fmt"
	"net/netip"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
)

// KeyBar and a HostID make the key, in scope 0, by which the writer removed a host for good; the value is its name.
const KeyBar = "bar/"

// Keys of the mesh's other entries in scope 0 of the state tables.
const (
	keyHost  = "host"   // hostRecord of the writer
	keyAdmit = "admit/" // + HostID: the writer let this host in; value: its card
	keyToken = "token"  // tokenRecord: the secret that admits new hosts
)

// Bounds of what a record may hold.
const (
	maxEndpoints = 12
	maxHomes     = 3
	maxRecord    = 4 << 10
)

// hostRecord is what a host tells all others about itself.
type hostRecord struct {
	Name      string           `cbor:"1,keyasint"`
	Card      []byte           `cbor:"2,keyasint"`
	Endpoints []netip.AddrPort `cbor:"3,keyasint,omitempty"` // best first
	Build     string           `cbor:"4,keyasint,omitempty"`
	MTU       int              `cbor:"5,keyasint,omitempty"` // smallest underlay interface MTU
	NATed     bool             `cbor:"6,keyasint,omitempty"`
	Homes     []ident.HostID   `cbor:"7,keyasint,omitempty"` // hosts that hold a stream session to this one
	Left      bool             `cbor:"8,keyasint,omitempty"` // went away on purpose
}

// tokenRecord carries the secret of the token; the highest version of all writers holds.
type tokenRecord struct {
	Version uint64 `cbor:"1,keyasint"`
	Secret  []byte `cbor:"2,keyasint"`
}

var (
	enc = record.Encoding()
	dec = record.Decoding(record.Bounds{Elements: 64, Pairs: 64, Depth: 4})
)

func encode(v any) []byte {
	b, err := enc.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("mesh: encode %T: %v", v, err)) // our own types
	}
	return b
}

func decodeHost(b []byte) (hostRecord, error) {
	var r hostRecord
	if len(b) > maxRecord {
		return r, fmt.Errorf("host record: %d bytes", len(b))
	}
	if err := dec.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("host record: %w", err)
	}
	if err := ident.CheckName("host", r.Name); err != nil {
		return r, err
	}
	if len(r.Endpoints) > maxEndpoints || len(r.Homes) > maxHomes || len(r.Build) > 64 {
		return r, fmt.Errorf("host record of %s: too much in it", r.Name)
	}
	return r, nil
}

func decodeToken(b []byte) (version uint64, secret ident.Secret, err error) {
	var r tokenRecord
	if len(b) > maxRecord {
		return 0, secret, fmt.Errorf("token record: %d bytes", len(b))
	}
	if err := dec.Unmarshal(b, &r); err != nil {
		return 0, secret, fmt.Errorf("token record: %w", err)
	}
	if len(r.Secret) != len(secret) {
		return 0, secret, fmt.Errorf("token record: secret of %d bytes", len(r.Secret))
	}
	copy(secret[:], r.Secret)
	return r.Version, secret, nil
}
