package record

import (
	"bytes"
	"testing"
)

var bounds = Bounds{Elements: 16, Pairs: 16, Depth: 4}

func TestOneForm(t *testing.T) {
	enc := Encoding()
	a, err := enc.Marshal(map[string]int{"b": 1, "a": 2, "aa": 3})
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte("\xa3\x61a\x02\x61b\x01\x62aa\x03"); !bytes.Equal(a, want) {
		t.Errorf("encoded as %x, want %x", a, want)
	}
}

func TestRefused(t *testing.T) {
	dec := Decoding(bounds)
	long := append([]byte{0x91}, make([]byte, 17)...)
	for name, in := range map[string][]byte{
		"duplicate key":      []byte("\xa2\x61a\x01\x61a\x02"),
		"indefinite length":  []byte("\x9f\x01\xff"),
		"tag":                []byte("\xc1\x01"),
		"too many elements":  long,
		"too deep":           []byte("\x81\x81\x81\x81\x81\x01"),
		"cut":                []byte("\x82\x01"),
		"something after it": []byte("\x01\x01"),
		"nothing":            nil,
	} {
		var v any
		if err := dec.Unmarshal(in, &v); err == nil {
			t.Errorf("%s: %x decoded as %v", name, in, v)
		}
	}
	var v []int
	if err := dec.Unmarshal([]byte("\x82\x01\x02"), &v); err != nil || len(v) != 2 {
		t.Errorf("two elements: %v, %v", v, err)
	}
}

func TestClosed(t *testing.T) {
	in := []byte("\xa2\x01\x05\x02\x06")
	var v struct {
		One int `cbor:"1,keyasint"`
	}
	if err := Decoding(bounds).Unmarshal(in, &v); err != nil || v.One != 5 {
		t.Errorf("a field to come: %+v, %v; want it passed over", v, err)
	}
	closed := bounds
	closed.Closed = true
	if err := Decoding(closed).Unmarshal(in, &v); err == nil {
		t.Error("a closed record took a field it does not have")
	}
}

// FuzzDecoding: what decodes comes out the same after another round.
func FuzzDecoding(f *testing.F) {
	f.Add([]byte("\xa2\x61a\x01\x61b\x81\x02"))
	f.Add([]byte("\x9f\x01\xff"))
	enc, dec := Encoding(), Decoding(bounds)
	f.Fuzz(func(t *testing.T, in []byte) {
		var v map[string][]byte
		if dec.Unmarshal(in, &v) != nil {
			return
		}
		out, err := enc.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var again map[string][]byte
		if err := dec.Unmarshal(out, &again); err != nil || len(again) != len(v) {
			t.Fatalf("%x decodes as %v, its encoding %x as %v: %v", in, v, out, again, err)
		}
		if twice, _ := enc.Marshal(again); !bytes.Equal(out, twice) {
			t.Fatalf("%x and %x of one value", out, twice)
		}
	})
}
