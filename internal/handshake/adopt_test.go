package handshake

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestAnsweredIsHandedOver: a hello that one process answered is a replay for the next, in the order they are forgotten.
func TestAnsweredIsHandedOver(t *testing.T) {
	var a, b Machine
	mark := func(i int) []byte { return bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(i)), macSize/4) }
	for i := range MaxReplays + 10 {
		a.replays.add(mark(i))
	}
	if a.replays.has(mark(9)) || !a.replays.has(mark(10)) {
		t.Fatal("the oldest are not the first to go")
	}
	marks := a.Answered()
	if len(marks) != macSize*MaxReplays || !bytes.Equal(marks[:macSize], mark(10)) {
		t.Fatalf("%d bytes, first %x", len(marks), marks[:macSize])
	}
	b.AdoptAnswered(marks)
	if !bytes.Equal(b.Answered(), marks) {
		t.Error("other marks there")
	}
}

func TestAdoptIndex(t *testing.T) {
	m := Machine{sessions: map[uint32]struct{}{}}
	for _, c := range []struct {
		index uint32
		want  bool
	}{{7, true}, {7, false}, {0, false}, {8, true}} {
		if got := m.Adopt(c.index); got != c.want {
			t.Errorf("index %d: %v", c.index, got)
		}
	}
}
