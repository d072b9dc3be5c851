package buskey

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// Packets that leave together are signed together: by one signature of the root of a tree of hashes over them (Merkle 1987), and each packet
// ends with its proof, the hashes beside its way to the root and the signature (the tree chaining of Wong and Lam, Digital signatures for flows and multicasts,
// 1998). So each can be checked alone, whichever of the others were lost, and who passes it on needs nothing else.
//
//	+---------+-----------------------------+--------------+---------+---------+
//	| packet  | hashes, 24 each, leaf first | signature 64 | index 1 | depth 1 |
//	+---------+-----------------------------+--------------+---------+---------+
//
// A leaf is the hash of the packet's header (type, stream, epoch, number) and what it holds, so a packet is worth nothing under another number. Hashes
// are SHA-256 cut to 192 bits: to find two packets of one hash takes 2^96 tries, and they would have to be the publisher's. Leaves and what is above them
// are hashed apart. Places of a tree that nothing is at are zero.
//
// A signature is 64 bytes and takes some 20 µs to make and 50 to check. One in each packet is smaller (66 bytes, not up to 210) and, at the rate of full
// packets, most of what a processor can do; one for 44, a full train, costs each packet a µs or two (BenchmarkProofs).

const (
	nodeSize  = 24
	maxDepth  = 6
	proofTail = SignatureSize + 2
	// MaxBatch is how many packets one signature is for at most.
	MaxBatch = 1 << maxDepth
	// ProofMost is the length of the longest proof in bytes.
	ProofMost = maxDepth*nodeSize + proofTail
	// rootsKept is how many batches of one member that were found good are remembered: their packets need no signature checked again.
	rootsKept = 32
)

type node [nodeSize]byte

// leaf is the hash of a packet; hdr has Header bytes.
func leaf(hdr, body []byte) node {
	var b [1 + Header + sha256.Size]byte
	copy(b[1:], hdr[:Header])
	h := sha256.Sum256(body)
	copy(b[1+Header:], h[:])
	h = sha256.Sum256(b[:])
	return node(h[:nodeSize])
}

// above is the hash of two.
func above(left, right []byte) node {
	var b [1 + 2*nodeSize]byte
	b[0] = 1
	copy(b[1:], left)
	copy(b[1+nodeSize:], right)
	h := sha256.Sum256(b[:])
	return node(h[:nodeSize])
}

// batchOf is what is signed of a batch.
func batchOf(dst []byte, epoch uint64, root *node) []byte {
	return append(binary.BigEndian.AppendUint64(dst, epoch), root[:]...)
}

// Batch is what is signed together. The zero value is empty.
type Batch struct {
	leaves    [MaxBatch]node
	tree      [2 * MaxBatch]node // 1 is the root, 2i and 2i+1 are below i
	n, depth  int
	signature [SignatureSize]byte
}

// Reset makes it empty.
func (b *Batch) Reset() { b.n = 0 }

// Add adds a packet: its header and what it holds without proof. There is room for MaxBatch; what is beyond is not added.
func (b *Batch) Add(hdr, body []byte) {
	if b.n < MaxBatch {
		b.leaves[b.n] = leaf(hdr, body)
		b.n++
	}
}

// Sign signs what was added.
func (b *Batch) Sign(i *Identity) {
	b.depth = bits.Len(uint(max(b.n, 1) - 1))
	size := 1 << b.depth
	for k := range size {
		if b.tree[size+k] = (node{}); k < b.n {
			b.tree[size+k] = b.leaves[k]
		}
	}
	for k := size - 1; k > 0; k-- {
		b.tree[k] = above(b.tree[2*k][:], b.tree[2*k+1][:])
	}
	var space [8 + nodeSize]byte
	i.sign(b.signature[:0], signBatch, batchOf(space[:0], i.epoch, &b.tree[1]))
}

// AppendProof appends the proof of the packet that was added as number k, from 0, after Sign.
func (b *Batch) AppendProof(dst []byte, k int) []byte {
	for at := 1<<b.depth + k; at > 1; at >>= 1 {
		dst = append(dst, b.tree[at^1][:]...)
	}
	return append(append(dst, b.signature[:]...), byte(k), byte(b.depth))
}

// root is one that was found good.
type root struct {
	node      node
	signature [SignatureSize]byte
}

// Packet reports whether a packet ends with a proof that the member has signed it, under the number in its header. Every byte counts: two packets of one
// number that are both good are the same.
func (v *Verifier) Packet(hdr, plain []byte) bool {
	if len(hdr) < Header || len(plain) < proofTail {
		return false
	}
	index, depth := uint(plain[len(plain)-2]), int(plain[len(plain)-1])
	at := len(plain) - proofTail - depth*nodeSize
	if depth > maxDepth || index>>depth != 0 || at < 0 {
		return false
	}
	n := leaf(hdr, plain[:at])
	for path := plain[at : len(plain)-proofTail]; len(path) > 0; path = path[nodeSize:] {
		if index&1 == 0 {
			n = above(n[:], path[:nodeSize])
		} else {
			n = above(path[:nodeSize], n[:])
		}
		index >>= 1
	}
	signature := plain[len(plain)-proofTail : len(plain)-2]
	for i := range v.roots {
		if r := &v.roots[(v.last+len(v.roots)-i)%len(v.roots)]; r.node == n {
			return string(r.signature[:]) == string(signature) // else others could not check what we pass on
		}
	}
	epoch := binary.BigEndian.Uint64(hdr[4:])
	var space [8 + nodeSize]byte
	if !v.check(signBatch, batchOf(space[:0], epoch, &n), signature) {
		return false
	}
	if v.roots == nil {
		v.roots = make([]root, 0, rootsKept)
	}
	if len(v.roots) < rootsKept {
		v.roots = append(v.roots, root{})
		v.last = len(v.roots) - 1
	} else {
		v.last = (v.last + 1) % rootsKept
	}
	r := &v.roots[v.last]
	r.node = n
	copy(r.signature[:], signature)
	return true
}
