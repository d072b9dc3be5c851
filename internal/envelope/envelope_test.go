package envelope

import (
	"bytes"
	"errors"
	"testing"
)

func TestEnvelope(t *testing.T) {
	for _, e := range []Envelope{
		{},
		{Reply: []byte("_INBOX.1.2")},
		{Header: []byte("NATS/1.0\r\nA: b\r\n\r\n")},
		{Reply: bytes.Repeat([]byte("r"), MaxReply), Header: []byte("NATS/1.0 503\r\n\r\n")},
	} {
		b := Append(nil, e)
		got, err := Decode(b)
		if err != nil || !bytes.Equal(got.Reply, e.Reply) || !bytes.Equal(got.Header, e.Header) {
			t.Errorf("%q became %q, %v", e, got, err)
		}
	}
	if n := len(Append(nil, Envelope{})); n != 0 {
		t.Errorf("nothing takes %d bytes", n)
	}
	for _, b := range []string{"\x02", "\x80", "\x01", "\x01\x00", "\x01\x05abcd"} {
		if _, err := Decode([]byte(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is taken", b)
		}
	}
}

// FuzzDecode: what decodes is written the same, but for an empty envelope that says so.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add(Append(nil, Envelope{Reply: []byte("r"), Header: []byte("h")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil || len(b) == 1 {
			return
		}
		if again := Append(nil, e); !bytes.Equal(again, b) {
			t.Errorf("%q became %q", b, again)
		}
	})
}
