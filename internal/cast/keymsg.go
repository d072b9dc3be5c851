package cast

import (
	"errors"
	"fmt"

	"github.com/weft-net/weft/internal/record"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

// maxVNI is the largest of 24 bits.
const maxVNI = 1<<24 - 1

// maxKeyMessage bounds the plaintext of a key message. The longest we write has 62 bytes; the rest is for fields to come.
const maxKeyMessage = 256

// What a key message says.
const (
	keyOffer = 1 // "this is my sender key of the network": VNI, ID, Suite, Key
	keyAck   = 2 // "I have it": VNI, ID
	keyAsk   = 3 // "a packet came under a key I do not have": ID
)

// keyMessage is what hosts say about sender keys: [wire.KindSenderKey][CBOR map]. It crosses links only.
type keyMessage struct {
	Op    byte       `cbor:"1,keyasint"`
	VNI   uint32     `cbor:"2,keyasint,omitempty"`
	ID    uint64     `cbor:"3,keyasint"`
	Suite seal.Suite `cbor:"4,keyasint,omitempty"`
	Key   []byte     `cbor:"5,keyasint,omitempty"`
}

// String hides the key from logs.
func (m keyMessage) String() string { return fmt.Sprintf("key message %d of VNI %d", m.Op, m.VNI) }

var errKeyMessage = errors.New("cast: bad key message")

var (
	keyEncoding = record.Encoding()
	keyDecoding = record.Decoding(record.Bounds{Elements: 16, Pairs: 16, Depth: 4})
)

// encode returns the plaintext to send.
func (m *keyMessage) encode() []byte {
	b, err := keyEncoding.Marshal(m)
	if err != nil {
		panic(err) // integers and bytes only
	}
	return append([]byte{wire.KindSenderKey}, b...)
}

// decodeKeyMessage reads a plaintext. What it returns obeys every limit; nothing of it aliases plain.
func decodeKeyMessage(plain []byte) (keyMessage, error) {
	var m keyMessage
	if len(plain) < 2 || len(plain) > maxKeyMessage || plain[0] != wire.KindSenderKey {
		return m, errKeyMessage
	}
	if err := keyDecoding.Unmarshal(plain[1:], &m); err != nil {
		return keyMessage{}, errKeyMessage // the library's text could quote the input
	}
	ok := m.VNI <= maxVNI && m.ID != 0
	switch m.Op {
	case keyOffer:
		ok = ok && len(m.Key) == seal.KeySize
	case keyAck, keyAsk:
		ok = ok && len(m.Key) == 0
	default:
		ok = false
	}
	if !ok {
		return keyMessage{}, errKeyMessage
	}
	return m, nil
}
