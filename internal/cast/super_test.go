package cast

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/wire"
)

// superFrame makes UDP data of n datagrams of size bytes to a group, as the kernel hands it over.
func superFrame(group string, n, size int) []byte {
	f := multicast(200, group, 42+n*size)
	binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
	binary.BigEndian.PutUint16(f[38:], uint16(len(f)-34))
	for i := range n {
		f[42+i*size] = byte(i)
	}
	h := gso.Header{NeedsChecksum: true, Type: gso.TypeUDP, Size: uint16(size), Start: 34, Offset: 6}
	b := make([]byte, gso.HeaderLen, gso.HeaderLen+len(f))
	h.Put(b, 42)
	return append(b, f...)
}

// keeper is a TAP that keeps what is written to it.
type keeper struct {
	*fakeTAP
	frames [][]byte
}

func (k *keeper) Write(parts [][]byte) (bool, error) {
	k.frames = append(k.frames, bytes.Join(parts, nil))
	return true, nil
}

// TestSuperFrames: a super-frame crosses in packets that fit the path, in one call for each receiver, and is whole again; a
// packet that is lost costs its datagram and no other.
func TestSuperFrames(t *testing.T) {
	const n, size = 20, 1200
	for _, lost := range []int{-1, 0, 7, n - 1} {
		u, nw, w := newBench(t, 1)
		k := &keeper{fakeTAP: newTAP()}
		rx, _ := newReceiver(t, u, nw, w, nil, 0, k)
		raw := superFrame("239.1.1.1", n, size)
		w.keep, w.packets, w.calls = true, nil, 0
		u.frames[0] = bytes.Clone(raw)
		u.batch(1, time.Now())
		if w.calls != 1 || len(w.packets) != n {
			t.Fatalf("%d packets in %d messages, want %d in 1", len(w.packets), w.calls, n)
		}
		for i, p := range w.packets {
			if len(p) > 1472 {
				t.Fatalf("a packet of %d bytes", len(p))
			}
			if i != lost {
				rx.HandleGroup(bytes.Clone(p), idOf(200))
			}
		}
		rx.Flush()
		got := map[byte]int{}
		for _, f := range k.frames {
			h := gso.Parse(f)
			data := f[gso.HeaderLen+42:]
			if h.Type == gso.TypeNone && len(data) != size || h.Type == gso.TypeUDP && int(h.Size) != size {
				t.Fatalf("a frame of %d bytes, %+v", len(f), h)
			}
			for len(data) > 0 {
				got[data[0]]++
				data = data[min(size, len(data)):]
			}
		}
		want := n
		if lost >= 0 {
			want--
		} else {
			clear(k.frames[0][gso.HeaderLen+24 : gso.HeaderLen+26]) // the IP checksum, which raw lacks
			if len(k.frames) != 1 || !bytes.Equal(k.frames[0], raw) {
				t.Errorf("%d frames, want the one that was sent", len(k.frames))
			}
		}
		if len(got) != want || lost >= 0 && got[byte(lost)] != 0 {
			t.Errorf("packet %d lost: %d of %d datagrams", lost, len(got), n)
		}
		if d := rx.Drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	}
}

// TestSmallFramesSharePackets: frames that follow each other to the same receivers go in as few packets as hold them.
func TestSmallFramesSharePackets(t *testing.T) {
	u, nw, w := newBench(t, 1)
	k := &keeper{fakeTAP: newTAP()}
	rx, _ := newReceiver(t, u, nw, w, nil, 0, k)
	w.keep, w.packets, w.calls = true, nil, 0
	f := multicast(200, "239.1.1.1", 106)
	u.load(f, batchFrames)
	u.batch(batchFrames, time.Now())
	perPacket := (1472 - wire.GroupHeader - wire.Tag - frameHeader) / (3 + len(f))
	if want := (batchFrames + perPacket - 1) / perPacket; len(w.packets) != want {
		t.Errorf("%d packets, want %d", len(w.packets), want)
	}
	for _, p := range w.packets {
		rx.HandleGroup(p, idOf(200))
	}
	rx.Flush()
	if len(k.frames) != batchFrames {
		t.Errorf("%d frames, want %d", len(k.frames), batchFrames)
	}
	for _, got := range k.frames {
		if !bytes.Equal(got[gso.HeaderLen:], f) {
			t.Fatal("another frame")
		}
	}
}

// TestShortFramesTravelApartFromLong: where a path swallows what is long, a short frame must not be in the same packet.
func TestShortFramesTravelApartFromLong(t *testing.T) {
	u, nw, w := newBench(t, 1)
	k := &keeper{fakeTAP: newTAP()}
	rx, _ := newReceiver(t, u, nw, w, nil, 0, k)
	w.keep, w.packets, w.calls = true, nil, 0
	short, long := multicast(200, "239.1.1.1", 50), multicast(200, "239.1.1.1", 900)
	for i, f := range [][]byte{short, short, long, short, long, long, short, short} {
		u.frames[i] = append(make([]byte, gso.HeaderLen), f...)
	}
	u.batch(8, time.Now())
	var short2, alone int
	for _, p := range w.packets {
		rx.HandleGroup(p, idOf(200))
		switch n := len(p) - wire.GroupHeader - wire.Tag - frameHeader; {
		case n > len(long)+3:
			t.Errorf("a packet with frames of %d bytes in all: a long one shares it", n)
		case n > len(long):
			alone++
		case n > len(short)+3:
			short2++
		}
	}
	if len(w.packets) != 6 || alone != 3 || short2 != 2 {
		t.Errorf("%d packets, %d of a long frame and %d of two short ones; want 6, 3, 2", len(w.packets), alone, short2)
	}
	rx.Flush()
	if len(k.frames) != 8 {
		t.Errorf("%d frames came, want 8", len(k.frames))
	}
}

// TestBadOffloads: what contradicts itself is dropped and counted, from the kernel and from other hosts.
func TestBadOffloads(t *testing.T) {
	u, nw, w := newBench(t, 1)
	rx, _ := newReceiver(t, u, nw, w, nil, 0, &keeper{fakeTAP: newTAP()})
	raw := superFrame("239.1.1.1", 3, 1000)
	raw[6] = 200 // the transport header, says the header, is elsewhere
	u.frames[0] = raw
	u.batch(1, time.Now())
	if n := nw.drops[dropOffload].Load(); n != 1 {
		t.Errorf("bad_offload = %d at the sender, want 1", n)
	}
	f := unicast(200, 1, 60)
	for _, r := range []gso.Record{
		{Frame: f, NeedsChecksum: true, Start: 59, Offset: 6},
		{Frame: f, NeedsChecksum: true, Type: gso.TypeTCP6, Start: 34, Offset: 16},
		{Frame: f, Type: gso.TypeUDP},
	} {
		b := make([]byte, frameHeader+r.Overhead()+len(f))
		copy(b, []byte{wire.KindFrame, 0, 0xab, 0xcd})
		r.Put(b[frameHeader:])
		rx.HandleFrame(idOf(200), b)
	}
	rx.Flush()
	if d := rx.Drops(); d["bad_offload"] != 3 {
		t.Errorf("drops %v, want 3 bad offloads", d)
	}
}

// TestDatagramsAreJoined: datagrams of a few flows, one after the other in turn, reach the TAP in one super-frame for each.
func TestDatagramsAreJoined(t *testing.T) {
	const flows, each, size = 3, 20, 64
	u, nw, w := newBench(t, 1)
	k := &keeper{fakeTAP: newTAP()}
	rx, _ := newReceiver(t, u, nw, w, nil, 0, k)
	w.keep, w.packets = true, nil
	for i := range flows * each {
		raw := superFrame("239.1.1.1", 1, size)
		f := raw[gso.HeaderLen:]
		f[20] = 0x40 // not to be cut: its id means nothing
		f[23] = 17
		f[35] = byte(i % flows) // source port
		f[42] = byte(i)
		h := gso.Header{NeedsChecksum: true, Start: 34, Offset: 6}
		h.Put(raw, 0)
		u.frames[i] = raw
	}
	u.batch(flows*each, time.Now())
	for _, p := range w.packets {
		rx.HandleGroup(p, idOf(200))
	}
	rx.Flush()
	if len(k.frames) != flows {
		t.Fatalf("%d frames for %d flows", len(k.frames), flows)
	}
	for flow, f := range k.frames {
		if h := gso.Parse(f); h.Type != gso.TypeUDP || h.Size != size {
			t.Fatalf("flow %d: %+v", flow, h)
		}
		data := f[gso.HeaderLen+42:]
		for n := range each {
			if got := data[n*size]; int(got) != n*flows+flow {
				t.Errorf("flow %d: datagram %d is %d", flow, n, got)
			}
		}
	}
	c := rx.Counters().Groups()
	var out uint64
	for _, g := range c {
		out += g.PacketsOut
	}
	for _, n := range rx.Counters().Networks() {
		out += n.Unregistered.PacketsOut
	}
	if out != flows*each {
		t.Errorf("%d frames counted, want %d", out, flows*each)
	}
	if d := rx.Drops(); len(d) != 0 {
		t.Errorf("drops %v", d)
	}
}
