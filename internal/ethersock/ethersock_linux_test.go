package ethersock_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/weft-net/weft/internal/ethersock"
	"github.com/weft-net/weft/internal/ethersock/ethersocktest"
	"github.com/weft-net/weft/internal/netns"
)

const etherType = 0x88b5

// frame is one of our type from a source with a number, to the nearest-bridge group.
func frame(typ uint16, source byte, text string) []byte {
	b := []byte{0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, source, byte(typ >> 8), byte(typ)}
	return append(b, fmt.Sprintf("%-50s", text)...)
}

// contract is what any pair of sockets on two ends keeps; b hears nothing of what noise sends.
func contract(t *testing.T, a, b ethersock.Conn, noise func()) {
	t.Helper()
	noise()
	want := frame(etherType, 1, "there")
	if err := a.Send(want); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 200)
	if n, err := b.Receive(buf); err != nil || !bytes.Equal(buf[:n], want) {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	back := frame(etherType, 2, "back")
	if err := b.Send(back); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Receive(buf[:20]); err != nil || !bytes.Equal(buf[:n], back[:20]) { // and not its own; cut off
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	done := make(chan error)
	go func() {
		_, err := a.Receive(buf)
		done <- err
	}()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive after close: %v", err)
	}
	if err := a.Send(want); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after close: %v", err)
	}
}

func TestFake(t *testing.T) {
	var s ethersocktest.Segment
	contract(t, s.Open(), s.Open(), func() {})
}

// TestKernel: by a port of a bridge, which passes the frames to the socket and to no other port.
func TestKernel(t *testing.T) {
	ns, err := netns.OS().New()
	if err != nil {
		t.Fatalf("this test needs root, to make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	index := map[string]int{}
	open := func(name string, typ uint16) (c ethersock.Conn) {
		t.Helper()
		if err := ns.Do(func() (err error) { c, err = ethersock.Open(index[name], typ); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	if err := ns.Do(func() error {
		for _, line := range [][]string{
			{"link", "add", "middle", "type", "bridge", "forward_delay", "0"},
			{"link", "add", "far", "type", "veth", "peer", "name", "near"},
			{"link", "add", "other", "type", "veth", "peer", "name", "port"},
			{"link", "set", "near", "master", "middle"},
			{"link", "set", "port", "master", "middle"},
			{"link", "set", "middle", "up"},
			{"link", "set", "far", "up"},
			{"link", "set", "near", "up"},
			{"link", "set", "other", "up"},
			{"link", "set", "port", "up"},
		} {
			if out, err := exec.Command("ip", line...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w: %s", line, err, out)
			}
		}
		for _, name := range []string{"far", "near", "other"} {
			i, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			index[name] = i.Index
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	far, near, other := open("far", etherType), open("near", etherType), open("other", etherType)
	stranger := open("far", etherType+1)
	heard := make(chan string, 1)
	go func() {
		b := make([]byte, 200)
		if n, err := other.Receive(b); err == nil {
			heard <- string(b[:n])
		}
		close(heard)
	}()
	contract(t, far, near, func() {
		if err := stranger.Send(frame(etherType+1, 3, "of another type")); err != nil {
			t.Fatal(err)
		}
	})
	if err := other.Close(); err != nil { // what went before has arrived where it went: the kernel queues nothing
		t.Error(err)
	}
	if text, ok := <-heard; ok {
		t.Errorf("another port of the bridge got %q", text)
	}
	if err := ns.Do(func() error { _, err := ethersock.Open(99999, etherType); return err }); err == nil {
		t.Error("a socket on an interface that is not there")
	}

	var sender *ethersock.Sender
	if err := ns.Do(func() (err error) { sender, err = ethersock.NewSender(); return err }); err != nil {
		t.Fatal(err)
	}
	sent, buf := frame(etherType+1, 4, "by any interface"), make([]byte, 200)
	if err := sender.Send(index["near"], sent); err != nil {
		t.Fatal(err)
	}
	if n, err := stranger.Receive(buf); err != nil || !bytes.Equal(buf[:n], sent) {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if sender.Send(99999, sent) == nil || sender.Send(index["near"], sent[:13]) == nil {
		t.Error("sent by an interface that is not there, or without a type")
	}
	if err := sender.Close(); err != nil {
		t.Error(err)
	}
	if sender.Send(index["near"], sent) == nil {
		t.Error("sent after close")
	}
}
