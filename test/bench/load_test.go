package main

import (
	"encoding/binary"
	"testing"
)

func TestCounter(t *testing.T) {
	var c counter
	add := func(run uint32, n uint64) {
		b := make([]byte, headerSize)
		binary.BigEndian.PutUint32(b, run)
		binary.BigEndian.PutUint64(b[4:], n)
		c.add(b)
	}
	for _, n := range []uint64{0, 1, 1, 700, 64, 0, maxSeen} {
		add(1, n)
	}
	c.add([]byte("short"))
	if n := c.of(1); n != 4 {
		t.Errorf("%d different datagrams, want 4", n)
	}
	add(2, 1)
	add(1, 9) // late
	if c.of(2) != 1 || c.of(1) != 0 {
		t.Errorf("after a new run: %d of it, %d of the old", c.of(2), c.of(1))
	}
}
