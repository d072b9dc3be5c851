package test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/wire"
	"github.com/weft-net/weft/test/rig"
)

// TestStranger: who does not hold the secret gets no byte of payload back, whatever he sends, and costs no memory.
func TestStranger(t *testing.T) {
	const group = "239.8.8.8"
	w := rig.New(t)
	u := w.Cloud()
	h1, h2, stranger := u.Host("h1"), u.Host("h2"), u.Host("stranger")
	rig.MulticastProbe(t, h1, h2)
	witness := u.Capture(h2) // all of h2's first words, its hellos too, to replay
	rig.Found(t, h1, h2)
	a, b := startAgent(t, h1, "a"), startAgent(t, h2, "b")
	converse(t, group, a, b)
	rig.Eventually(t, 5*time.Second, func() error {
		if n := len(witness.Datagrams(2000)); n < 20 {
			return fmt.Errorf("%d datagrams recorded to replay", n)
		}
		return nil
	})
	witness.Stop()
	recorded := witness.Datagrams(2000)

	before, err := h1.Daemon().RSS()
	if err != nil {
		t.Fatal(err)
	}
	c := u.Capture(stranger)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rig.Storm(t, stranger, h1.IP.String()+":6783", times(100_000, 1_000_000), seed, recorded)

	first := []byte{wire.StreamMagic}
	for _, payload := range [][]byte{
		nil,
		first,
		{0},
		bytes.Repeat(first, 4096),
		[]byte("GET / HTTP/1.1\r\nHost: h1\r\n\r\n"),
		bytes.Repeat([]byte{0xff}, 1<<20),
		append(first, recorded[0]...),
	} {
		if n, accepted := rig.DialAndSend(t, stranger, h1.IP.String()+":6783", payload); n != 0 || !accepted {
			t.Errorf("%d bytes over TCP: %d bytes came back, accepted %v", len(payload), n, accepted)
		}
	}
	c.Stop()
	if sent := c.Count("udp and dst port 6783"); sent < 50_000 {
		t.Errorf("only %d datagrams of the storm were captured", sent)
	}
	if n := c.Count("udp and src port 6783"); n != 0 {
		t.Errorf("a stranger was answered with %d UDP datagrams", n)
	}
	after, err := h1.Daemon().RSS()
	if err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown > 12<<20 {
		t.Errorf("memory grew by %d MB", grown>>20)
	}
	if err := h1.KnowsAlive(h1, h2); err != nil {
		t.Error(err)
	}
	converse(t, group, a, b)
	for _, h := range []*rig.Host{h1, h2} {
		if !h.Daemon().Running() {
			t.Errorf("weft up on %s ended: %v", h.Name, h.Daemon().Errors())
		}
	}
}
