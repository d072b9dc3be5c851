package tree

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/weft-net/weft/internal/wire"
)

var samples = []Message{
	{Op: OpOpen, VNI: 7, Label: 9},
	{Op: OpOpen, VNI: 7, Label: 9, ID: ID{1}, Parent: id(1), Children: ids(2, 5), Multicast: true},
	{Op: OpReady, VNI: 7, Label: 9, ID: ID{1}, Room: 1400, Missing: ids(3, 3)},
	{Op: OpHeard, VNI: 1<<24 - 1, Label: 1},
	{Op: OpStarved, VNI: 7, Label: 9},
	{Op: OpClose, VNI: 7, Label: 9, ID: ID{1}},
}

func TestMessagesComeBack(t *testing.T) {
	for _, m := range samples {
		got, err := Decode(m.Encode())
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v: %+v, %v", m, got, err)
		}
	}
}

func TestBadMessagesAreRefused(t *testing.T) {
	for name, m := range map[string]Message{
		"no op":               {VNI: 7, Label: 9},
		"another op":          {Op: 6, VNI: 7, Label: 9},
		"no VNI":              {Op: OpHeard, Label: 9},
		"a VNI of 25 bits":    {Op: OpHeard, VNI: 1 << 24, Label: 9},
		"no label":            {Op: OpHeard, VNI: 7},
		"the beacons' label":  {Op: OpHeard, VNI: 7, Label: wire.BeaconLabel},
		"children, no id":     {Op: OpOpen, VNI: 7, Label: 9, Parent: id(1), Children: ids(2, 3)},
		"children, no parent": {Op: OpOpen, VNI: 7, Label: 9, ID: ID{1}, Children: ids(2, 3)},
		"too many children":   {Op: OpOpen, VNI: 7, Label: 9, ID: ID{1}, Parent: id(1), Children: ids(2, MaxFanout+2)},
		"room of a book":      {Op: OpReady, VNI: 7, Label: 9, ID: ID{1}, Room: 1 << 20},
	} {
		if got, err := Decode(m.Encode()); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := Decode(nil); err == nil {
		t.Error("nothing")
	}
	if _, err := Decode(append(samples[0].Encode(), make([]byte, maxMessage)...)); err == nil {
		t.Error("too long")
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range samples {
		f.Add(m.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(bytes.Clone(b))
		if err != nil {
			return
		}
		if len(m.Children) > MaxFanout || m.VNI >= 1<<24 || m.Label >= wire.BeaconLabel {
			t.Errorf("%+v", m)
		}
		again, err := Decode(m.Encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}
