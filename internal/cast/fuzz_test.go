package cast

import (
	"bytes"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

// fuzzEngine is an engine of host 1 with testVNI, shared with host 2.
func fuzzEngine(f *testing.F) (*Engine, *discard) {
	f.Helper()
	e, err := New(Config{Self: idOf(1), NewWriter: func() PacketWriter { return &sink{} }, Send: func(ident.HostID, []byte) error { return nil }})
	check(f, err)
	tap := &discard{fakeTAP: newTAP()}
	check(f, e.AddNetwork(testVNI, tap, 1400))
	f.Cleanup(func() { check(f, e.Close()) })
	check(f, e.SetHosts(testVNI, []ident.HostID{idOf(2)}))
	check(f, e.SetTable(testVNI, fdb.Build(fdb.Input{VNI: testVNI, Self: idOf(1), Hosts: []ident.HostID{idOf(2)}, Counters: e.Counters()})))
	return e, tap
}

// FuzzHandleFrame feeds plaintexts of an honest link: whatever is inside, every one is delivered or counted; it may hold several frames.
func FuzzHandleFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{wire.KindFrame, 0, 0xab, 0xcd})
	f.Add(append(plaintext(unicast(2, 1, 60)), 0, 3, 0, 1, 2, 3)) // a second record
	f.Add(plaintext(unicast(2, 1, 100)))
	f.Add(plaintext(multicast(2, "239.1.1.1", 100)))
	e, tap := fuzzEngine(f)
	f.Fuzz(func(t *testing.T, plain []byte) {
		before, frames := total(e), tap.frames
		e.HandleFrame(idOf(2), plain)
		e.Flush()
		if got := total(e) - before + uint64(tap.frames-frames); got < 1 {
			t.Errorf("neither delivered nor dropped")
		}
	})
}

// FuzzHandleGroup feeds packets as they come and, sealed under a key the engine has, plaintexts of a host that lies.
func FuzzHandleGroup(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add(bytes.Repeat([]byte{wire.TypeGroup}, 60), false)
	f.Add(plaintext(multicast(2, "239.1.1.1", 100)), true)
	f.Add([]byte{wire.KindFragment, 0, 0, 0, 1, 0, 2, 1, 2, 3}, true)
	f.Add([]byte{wire.KindFragment, 0, 0, 0, 1, 1, 2, 1, 2, 3}, true)
	e, tap := fuzzEngine(f)
	key := bytes.Repeat([]byte{7}, seal.KeySize)
	sealer, err := seal.NewGroupSealer(seal.SuiteAES, key, 99, 0)
	check(f, err)
	e.HandleSenderKey(idOf(2), (&keyMessage{Op: keyOffer, VNI: testVNI, ID: 99, Suite: seal.SuiteAES, Key: key}).encode())
	f.Fuzz(func(t *testing.T, b []byte, honest bool) {
		pkt := bytes.Clone(b)
		if honest {
			if len(b) > wire.MaxDatagram-wire.GroupHeader-wire.Tag {
				return
			}
			buf := make([]byte, wire.GroupHeader+len(b)+wire.Tag)
			copy(buf[wire.GroupHeader:], b)
			if pkt, err = sealer.SealGroup(buf, len(b), 0); err != nil {
				t.Fatal(err)
			}
		}
		before, frames := total(e), tap.frames
		e.HandleGroup(pkt, ident.HostID{})
		e.Flush()
		// A fragment may wait for the others, or push out one that waited.
		fragment := honest && len(b) > 0 && b[0] == wire.KindFragment
		if got := total(e) - before + uint64(tap.frames-frames); got < 1 && !fragment {
			t.Errorf("neither delivered nor dropped")
		}
	})
}

// FuzzSenderKey feeds key messages of an honest link: no input makes the tables outgrow their bounds.
func FuzzSenderKey(f *testing.F) {
	key := bytes.Repeat([]byte{7}, seal.KeySize)
	for _, m := range []keyMessage{
		{Op: keyOffer, VNI: testVNI, ID: 1, Suite: seal.SuiteAES, Key: key},
		{Op: keyOffer, VNI: testVNI, ID: 2, Suite: 77, Key: key},
		{Op: keyAck, VNI: testVNI, ID: 1},
		{Op: keyAsk, ID: 1},
		{Op: 9, ID: 1},
	} {
		f.Add(m.encode())
	}
	f.Add([]byte{wire.KindSenderKey})
	f.Add([]byte{wire.KindSenderKey, 0xbf, 1, 1, 0xff})
	e, _ := fuzzEngine(f)
	f.Fuzz(func(t *testing.T, plain []byte) {
		if m, err := decodeKeyMessage(plain); err == nil {
			again, err := decodeKeyMessage(m.encode())
			if err != nil || again.Op != m.Op || again.VNI != m.VNI || again.ID != m.ID || again.Suite != m.Suite || !bytes.Equal(again.Key, m.Key) {
				t.Errorf("%v reads back as %v, %v", m, again, err)
			}
		}
		e.HandleSenderKey(idOf(2), plain)
		e.HandleSenderKey(idOf(3), plain) // does not have the network
		e.Flush()
		if n := len(e.ring.byID); n > maxKeysPerSender || len(e.down.keys) != n || len(e.ring.senders) > 1 {
			t.Errorf("%d keys of %d senders, the reader knows %d", n, len(e.ring.senders), len(e.down.keys))
		}
		e.Tick(time.Now())
	})
}

func total(e *Engine) (n uint64) {
	for _, c := range e.Drops() {
		n += c
	}
	return n
}
