package handshake

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
	"github.com/weft-net/weft/internal/seal"
)

// payload is what a Noise message carries: [length 2][CBOR][zeros up to the fixed size].
// Unknown keys are ignored: later builds of the same wire version may say more.
type payload struct {
	Answer  []byte     `cbor:"1,keyasint,omitempty"` // MAC key of the answer to this message
	Info    *Info      `cbor:"2,keyasint,omitempty"`
	Refusal *Refusal   `cbor:"3,keyasint,omitempty"` // instead of Info, in a reply only
	Suite   seal.Suite `cbor:"4,keyasint,omitempty"` // the responder's choice
}

var errPayload = errors.New("handshake: malformed payload")

var (
	encMode = record.Encoding()
	decMode = record.Decoding(record.Bounds{Elements: 16, Pairs: 32, Depth: 4})
)

func (p *payload) encode(size int) ([]byte, error) {
	b, err := encMode.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("handshake: encode: %w", err)
	}
	if len(b)+2 > size {
		return nil, fmt.Errorf("handshake: %d bytes to say, room for %d", len(b), size-2)
	}
	out := make([]byte, size)
	binary.BigEndian.PutUint16(out, uint16(len(b)))
	copy(out[2:], b)
	return out, nil
}

func decodePayload(b []byte) (payload, error) {
	var p payload
	if len(b) < 2 {
		return p, errPayload
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > len(b)-2 {
		return p, errPayload
	}
	if err := decMode.Unmarshal(b[2:2+n], &p); err != nil {
		return payload{}, errPayload
	}
	if len(p.Answer) != macSize {
		return payload{}, errPayload
	}
	return p, nil
}

// Validate says what is wrong with an Info, the card's signature apart.
func (i *Info) Validate() error {
	if err := ident.CheckName("host name", i.Name); err != nil {
		return err
	}
	if len(i.Suites) == 0 || len(i.Suites) > MaxSuites {
		return fmt.Errorf("%d cipher suites, want 1 to %d", len(i.Suites), MaxSuites)
	}
	if len(i.Build) > MaxBuild || !printable(i.Build) {
		return fmt.Errorf("build: want at most %d printable bytes", MaxBuild)
	}
	return nil
}

// clean makes a peer's refusal fit to be shown on a terminal.
func (r *Refusal) clean() *Refusal {
	return &Refusal{Code: cleanText(r.Code, maxCode), Text: cleanText(r.Text, MaxText)}
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) < 0
}

// cleanText cuts s to at most limit bytes of text without control characters.
func cleanText(s string, limit int) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == utf8.RuneError || c >= 0x2028 && c <= 0x202e || c >= 0x2066 && c <= 0x2069 {
			return ' '
		}
		return c
	}, s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// chooseSuite takes AES when both prefer it, else ChaCha, which every host has.
func chooseSuite(a, b []seal.Suite) seal.Suite {
	if len(a) > 0 && len(b) > 0 && a[0] == seal.SuiteAES && b[0] == seal.SuiteAES {
		return seal.SuiteAES
	}
	return seal.SuiteChaCha
}
