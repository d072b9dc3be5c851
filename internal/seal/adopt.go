package seal

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/weft-net/weft/internal/snapshot"
)

// half is what it takes to make the same half of a key in another process.
type half struct {
	suite  Suite
	secret []byte
}

// frozen is where a counter stands from which nobody gets a nonce: above every budget.
const frozen = 1 << 63

// Freeze ends sealing until Thaw: whoever seals meanwhile gets ErrSpent. From here on Used is exact and final: the counters
// up to it were given out, and no other ever will be. That is one swap of the counter, whoever is sealing.
func (s *Sealer) Freeze() {
	if n := s.next.Swap(frozen); n < frozen {
		s.held.Store(n)
	}
}

// Thaw goes on where Freeze stopped; on a sealer that is not frozen it does nothing.
func (s *Sealer) Thaw() {
	if s.next.Load() >= frozen {
		s.next.Store(s.held.Load())
	}
}

// Export returns what it takes to seal on in another process. The sealer must be frozen, and must not thaw if the other is used.
func (s *Sealer) Export() (snapshot.Sealer, error) {
	if s.next.Load() < frozen {
		return snapshot.Sealer{}, errors.New("seal: export of a key in use")
	}
	return snapshot.Sealer{Suite: byte(s.suite), Key: bytes.Clone(s.secret), Index: s.index, ID: s.key, Used: s.held.Load()}, nil
}

// AdoptSealer makes a sealer that goes on after the counters used elsewhere. It is frozen until Thaw: until the other
// process has given the key up. budget 0 means DefaultBudget.
func AdoptSealer(x snapshot.Sealer, budget uint64) (*Sealer, error) {
	s, err := newSealer(Suite(x.Suite), x.Key, x.Index, x.ID, budget)
	if err != nil {
		return nil, err
	}
	s.held.Store(x.Used)
	s.next.Store(frozen)
	return s, nil
}

// Export returns what it takes to open on in another process. It belongs to the opener's goroutine.
func (o *Opener) Export() snapshot.Opener {
	x := snapshot.Opener{Suite: byte(o.suite), Key: bytes.Clone(o.secret), High: o.window.high}
	if x.High > 0 {
		for _, w := range o.window.ring {
			x.Seen = binary.BigEndian.AppendUint64(x.Seen, w)
		}
	}
	return x
}

// AdoptOpener makes an opener that refuses what another process has opened already.
func AdoptOpener(x snapshot.Opener) (*Opener, error) {
	o, err := NewOpener(Suite(x.Suite), x.Key)
	if err != nil {
		return nil, err
	}
	if x.High > 0 {
		if len(x.Seen) != 8*windowWords {
			return nil, errors.New("seal: replay window of another size")
		}
		o.window.high = x.High
		for i := range o.window.ring {
			o.window.ring[i] = binary.BigEndian.Uint64(x.Seen[8*i:])
		}
	}
	return o, nil
}
