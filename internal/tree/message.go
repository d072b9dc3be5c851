package tree

import (
	"errors"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
	"github.com/weft-net/weft/internal/wire"
)

// What a message says.
const (
	// OpOpen: "packets with this label will come to you, while there are any at most Silence apart"; to a forwarder also what to pass on
	// and from whom. Sent again to refresh it.
	OpOpen = 1
	// OpReady: a forwarder does. Room and Missing say what it can.
	OpReady = 2
	// OpHeard: a receiver hears packets with the label.
	OpHeard = 3
	// OpStarved: a receiver hears none any more.
	OpStarved = 4
	// OpClose: there will be no more.
	OpClose = 5
)

// Message is what hosts say about trees: [wire.KindTree][CBOR map]. It crosses links only.
type Message struct {
	Op    byte   `cbor:"1,keyasint"`
	VNI   uint32 `cbor:"2,keyasint"`
	Label uint32 `cbor:"3,keyasint"`

	// Of OpOpen to forwarders, and of OpReady and OpClose where it is about forwarding; ID is zero else.
	ID        ID             `cbor:"4,keyasint,omitzero"`
	Parent    ident.HostID   `cbor:"5,keyasint,omitzero"`
	Children  []ident.HostID `cbor:"6,keyasint,omitempty"` // get copies
	Multicast bool           `cbor:"7,keyasint,omitempty"` // one more packet to the underlay group
	// Of OpReady.
	Room    int            `cbor:"8,keyasint,omitempty"` // bytes of UDP payload that all children can get
	Missing []ident.HostID `cbor:"9,keyasint,omitempty"` // children without a direct path
}

const maxMessage = 2 << 10

var (
	errMessage = errors.New("tree: bad message")
	encoding   = record.Encoding()
	decoding   = record.Decoding(record.Bounds{Elements: MaxFanout, Pairs: 16, Depth: 4})
)

// Encode returns the plaintext to send.
func (m *Message) Encode() []byte {
	b, err := encoding.Marshal(m)
	if err != nil {
		panic(err) // integers, bytes and arrays only
	}
	return append([]byte{wire.KindTree}, b...)
}

// Decode reads a plaintext. What it returns obeys every limit; nothing of it aliases plain.
func Decode(plain []byte) (Message, error) {
	var m Message
	if len(plain) < 2 || len(plain) > maxMessage || plain[0] != wire.KindTree {
		return m, errMessage
	}
	if err := decoding.Unmarshal(plain[1:], &m); err != nil {
		return Message{}, errMessage
	}
	forwards := len(m.Children) > 0 || m.Multicast || !m.Parent.IsZero()
	switch {
	case m.VNI == 0 || m.VNI >= 1<<24,
		m.Label == wire.NoLabel || m.Label >= wire.BeaconLabel,
		m.Op < OpOpen || m.Op > OpClose,
		len(m.Children) > MaxFanout || len(m.Missing) > MaxFanout,
		m.Room < 0 || m.Room > wire.MaxDatagram,
		forwards && (m.Op != OpOpen || m.ID.IsZero() || m.Parent.IsZero()):
		return Message{}, errMessage
	}
	return m, nil
}
