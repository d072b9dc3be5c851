package buskey

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

// signedPackets are packets of a batch, with their headers and proofs.
func signedPackets(i *Identity, n, size int) (hdrs, plains [][]byte) {
	var b Batch
	for k := range n {
		hdr := make([]byte, Header)
		PutHeader(hdr, 3, 5, i.Epoch(), uint64(100+k))
		body := make([]byte, size, size+ProofMost)
		copy(body, fmt.Sprint("packet ", k))
		hdrs, plains = append(hdrs, hdr), append(plains, body)
		b.Add(hdr, body)
	}
	b.Sign(i)
	for k := range n {
		plains[k] = b.AppendProof(plains[k], k)
	}
	return hdrs, plains
}

// TestBatch: of batches of all sizes each packet can be checked alone, in any order, the same again, and by one who knows none of the others.
func TestBatch(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	me := identityOf(t, b, 1)
	for n := 1; n <= MaxBatch; n++ {
		hdrs, plains := signedPackets(me, n, 40)
		v := b.Verifier(me.Public())
		for k := n - 1; k >= 0; k-- {
			if len(plains[k]) > 40+ProofMost || len(plains[k]) != len(plains[0]) {
				t.Fatalf("%d packets: packet %d has %d bytes", n, k, len(plains[k]))
			}
			for _, by := range []*Verifier{v, v, b.Verifier(me.Public())} {
				if !by.Packet(hdrs[k], plains[k]) {
					t.Fatalf("%d packets: packet %d is refused", n, k)
				}
			}
		}
		if len(v.roots) != 1 {
			t.Fatalf("%d packets: %d signatures were checked", n, len(v.roots))
		}
	}
}

// TestBatchForged: a packet with one bit changed, anywhere, is refused, by whom knows the batch and whom does not; so is one under another number, stream
// or epoch, with the proof of another, of another key or bus, or cut.
func TestBatchForged(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	me := identityOf(t, b, 1)
	hdrs, plains := signedPackets(me, 11, 40)
	knows := b.Verifier(me.Public())
	if !knows.Packet(hdrs[3], plains[3]) {
		t.Fatal("refused")
	}
	refuse := func(what string, hdr, plain []byte) {
		t.Helper()
		if knows.Packet(hdr, plain) || b.Verifier(me.Public()).Packet(hdr, plain) {
			t.Errorf("%s: taken", what)
		}
	}
	for i := range plains[3] {
		bad := bytes.Clone(plains[3])
		bad[i] ^= 1 << (i % 8)
		refuse(fmt.Sprint("byte ", i), hdrs[3], bad)
	}
	for i := range hdrs[3] {
		bad := bytes.Clone(hdrs[3])
		bad[i] ^= 1
		refuse(fmt.Sprint("byte of the header ", i), bad, plains[3])
	}
	proof := len(plains[3]) - 40
	refuse("another's proof", hdrs[3], append(bytes.Clone(plains[3][:40]), plains[4][40:]...))
	refuse("another's number", hdrs[4], plains[3])
	for n := range proof {
		refuse(fmt.Sprintf("%d bytes less", n+1), hdrs[3], plains[3][:len(plains[3])-n-1])
	}
	refuse("nothing", hdrs[3], nil)
	refuse("no header", hdrs[3][:5], plains[3])
	thief := identityOf(t, b, 2)
	var batch Batch
	batch.Add(hdrs[3], []byte("mine"))
	batch.Sign(thief)
	refuse("another's key", hdrs[3], batch.AppendProof([]byte("mine"), 0))
	elsewhere := identityOf(t, bus(t, ident.NewToken(), "x"), 1)
	batch.Sign(elsewhere)
	refuse("another bus", hdrs[3], batch.AppendProof([]byte("mine"), 0))
	// A node of the tree is no packet: what is above two leaves cannot stand for one.
	one := above(make([]byte, nodeSize), make([]byte, nodeSize))
	if leaf(hdrs[3], one[:]) == one || leaf(make([]byte, Header), nil) == (node{}) {
		t.Error("leaves and nodes are hashed alike")
	}
}

// TestRootsAreBounded: what is remembered of a member that signs does not grow, and the newest are remembered.
func TestRootsAreBounded(t *testing.T) {
	b := bus(t, ident.NewToken(), "x")
	me := identityOf(t, b, 1)
	v := b.Verifier(me.Public())
	var last, hdr []byte
	for n := range 3 * rootsKept {
		hdrs, plains := signedPackets(me, 1, n)
		if hdr, last = hdrs[0], plains[0]; !v.Packet(hdr, last) {
			t.Fatalf("batch %d is refused", n)
		}
		if len(v.roots) > rootsKept || cap(v.roots) > rootsKept {
			t.Fatalf("%d roots are kept", len(v.roots))
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		if !v.Packet(hdr, last) {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("a packet of a batch that is known costs %v allocations", n)
	}
}

// TestBatchIsBounded: what is more than fits is not added.
func TestBatchIsBounded(t *testing.T) {
	me := identityOf(t, bus(t, ident.NewToken(), "x"), 1)
	var b Batch
	for range MaxBatch + 5 {
		b.Add(make([]byte, Header), nil)
	}
	if b.Sign(me); b.n != MaxBatch || b.depth != maxDepth {
		t.Errorf("%d packets, depth %d", b.n, b.depth)
	}
	b.Reset()
	if b.Sign(me); b.depth != 0 {
		t.Error("nothing has depth")
	}
}

// FuzzPacket: a proof of any form ends no process, and proves only what was signed.
func FuzzPacket(f *testing.F) {
	b := bus(f, ident.Token{Secret: ident.Secret{1}}, "x")
	me := identityOf(f, b, 1)
	hdrs, plains := signedPackets(me, 5, 30)
	good := map[string]bool{}
	for k := range plains {
		f.Add(hdrs[k], plains[k])
		good[string(hdrs[k])+string(plains[k])] = true
	}
	f.Add(make([]byte, Header), bytes.Repeat([]byte{maxDepth}, ProofMost))
	f.Add(make([]byte, Header), bytes.Repeat([]byte{255}, proofTail))
	v := b.Verifier(me.Public())
	f.Fuzz(func(t *testing.T, hdr, plain []byte) {
		if v.Packet(hdr, plain) && !good[string(hdr[:Header])+string(plain)] {
			t.Errorf("%x is taken", plain)
		}
	})
}

// BenchmarkProofs: what a packet of 1,150 bytes costs to sign and to check, by how many are signed together.
func BenchmarkProofs(b *testing.B) {
	me := identityOf(b, bus(b, ident.NewToken(), "x"), 1)
	for _, n := range []int{1, 4, 16, 22, 44, 64} {
		b.Run(fmt.Sprintf("sign/%d", n), func(b *testing.B) {
			hdr, body := make([]byte, Header), make([]byte, 1150, 1150+ProofMost)
			var batch Batch
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if batch.Add(hdr, body); (i+1)%n != 0 {
					continue
				}
				batch.Sign(me)
				for k := range n {
					batch.AppendProof(body, k)
				}
				batch.Reset()
			}
		})
		b.Run(fmt.Sprintf("check/%d", n), func(b *testing.B) {
			hdrs, plains := signedPackets(me, n, 1150)
			v := &Verifier{public: me.public, bus: me.bus}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%n == 0 {
					v.roots = v.roots[:0]
				}
				if !v.Packet(hdrs[i%n], plains[i%n]) {
					b.Fatal("refused")
				}
			}
			b.ReportMetric(float64(len(plains[0])-1150), "bytes/packet")
		})
	}
}
