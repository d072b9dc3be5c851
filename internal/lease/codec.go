package lease

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
)

var errCodec = errors.New("malformed")

var (
	encMode = record.Encoding()
	decMode = record.Decoding(record.Bounds{Elements: MaxElectors, Pairs: 16, Depth: 4, Closed: true})
)

const maxLease = 4 << 10 // bytes

type leaseWire struct {
	Serial   uint64   `cbor:"1,keyasint"`
	Electors [][]byte `cbor:"2,keyasint"`
	Earlier  uint64   `cbor:"3,keyasint,omitempty"` // serial of the term before; 0: none
	Former   [][]byte `cbor:"4,keyasint,omitempty"` // its electors
}

type voteWire struct {
	Serial uint64 `cbor:"1,keyasint"`
	Gone   bool   `cbor:"2,keyasint,omitempty"`
}

// Encode returns a lease as CBOR.
func (l *Lease) Encode() ([]byte, error) {
	w := leaseWire{Serial: l.Serial, Electors: bytesOf(l.Electors)}
	if l.Before != nil {
		w.Earlier, w.Former = l.Before.Serial, bytesOf(l.Before.Electors)
	}
	return encMode.Marshal(w)
}

func bytesOf(ids []ident.HostID) (out [][]byte) {
	for _, id := range ids {
		out = append(out, append([]byte{}, id[:]...))
	}
	return out
}

// DecodeLease reads what Encode wrote.
func DecodeLease(b []byte) (Lease, error) {
	var w leaseWire
	if len(b) > maxLease {
		return Lease{}, fmt.Errorf("lease: %w: %d bytes", errCodec, len(b))
	}
	if err := decMode.Unmarshal(b, &w); err != nil {
		return Lease{}, fmt.Errorf("lease: %w: %w", errCodec, err)
	}
	l := Lease{Term: Term{Serial: w.Serial}}
	var err1, err2 error
	l.Electors, err1 = hostsOf(w.Electors)
	if w.Earlier != 0 || len(w.Former) > 0 {
		l.Before = &Term{Serial: w.Earlier}
		l.Before.Electors, err2 = hostsOf(w.Former)
	}
	if err := errors.Join(err1, err2, l.check()); err != nil {
		return Lease{}, err
	}
	return l, nil
}

func hostsOf(list [][]byte) (out []ident.HostID, err error) {
	for _, b := range list {
		if len(b) != len(ident.HostID{}) {
			return nil, fmt.Errorf("lease: %w: host of %d bytes", errCodec, len(b))
		}
		out = append(out, ident.HostID(b))
	}
	return out, nil
}

// Encode returns a vote as CBOR.
func (v Vote) Encode() ([]byte, error) { return encMode.Marshal(voteWire(v)) }

// DecodeVote reads what Encode wrote.
func DecodeVote(b []byte) (Vote, error) {
	var w voteWire
	if len(b) > 32 {
		return Vote{}, fmt.Errorf("vote: %w: %d bytes", errCodec, len(b))
	}
	if err := decMode.Unmarshal(b, &w); err != nil || w.Serial == 0 && !w.Gone {
		return Vote{}, fmt.Errorf("vote: %w", errors.Join(errCodec, err))
	}
	return Vote(w), nil
}

// messageSize is [op][serial 8][counter 8].
const messageSize = 17

// Encode returns a message's bytes, without whom it is to.
func (m *Message) Encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{byte(m.Op)}, m.Serial)
	return binary.BigEndian.AppendUint64(b, m.Counter)
}

// DecodeMessage reads what Encode wrote.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) != messageSize || Op(b[0]) < Renew || Op(b[0]) > Refused {
		return Message{}, fmt.Errorf("message about a lease: %w", errCodec)
	}
	return Message{Op: Op(b[0]), Serial: binary.BigEndian.Uint64(b[1:]), Counter: binary.BigEndian.Uint64(b[9:])}, nil
}
