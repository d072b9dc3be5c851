package daemon

import (
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/broker"
)

// A caller who does not read loses messages, is told how many, and gets what comes after.
func TestEar(t *testing.T) {
	e := &ear{signal: make(chan struct{}, 1)}
	m := &broker.Message{Subject: "a", Payload: []byte(strings.Repeat("x", 1<<20)), Header: []byte("NATS/1.0\r\nA: b\r\n\r\n")}
	for range 20 {
		e.Deliver(nil, m)
	}
	got, dropped := e.take()
	if len(got)+int(dropped) != 20 || len(got)*len(m.Payload) > maxEar+len(m.Payload) || dropped == 0 || got[0].Headers["A"][0] != "b" {
		t.Errorf("%d and %d dropped", len(got), dropped)
	}
	e.Deliver(nil, &broker.Message{Subject: "b", Payload: []byte{0xff}, Reply: []byte("r")})
	got, dropped = e.take()
	if len(got) != 1 || dropped != 0 || got[0].Payload != "" || string(got[0].PayloadBase64) != "\xff" || got[0].Reply != "r" {
		t.Errorf("%+v, %d dropped", got, dropped)
	}
}
