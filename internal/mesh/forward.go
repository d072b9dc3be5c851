package mesh

import (
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/tree"
	"github.com/weft-net/weft/internal/udp"
	"github.com/weft-net/weft/internal/wire"
)

const (
	// forwardSpace is the space for copies between two writes.
	forwardSpace = 512 << 10
	// forwardTrain is how many bytes of copies one call may carry: less than 64 KiB with all headers.
	forwardTrain = 65000
)

// forwarder passes packets of distribution trees on. It gathers those of one message, so that what came as a train goes
// on as one.
type forwarder struct {
	branch *tree.Branch
	info   wire.RelayInfo
	inner  [][]byte // parts of the read buffer
	space  []byte   // made when first used
	used   int
}

// branch takes an envelope in the name of a tree. Whoever does not know the tree is one of its leaves, and keeps the
// packet; else it must come from the parent that the tree's origin named. A copy is sent once: the hop's replay window
// refuses a second, and the hop limit ends loops.
func (r *reader) branch(from ident.HostID, info *wire.RelayInfo, inner []byte) {
	b := (*r.m.branches.Load())[tree.ID(info.Dst)]
	switch {
	case len(inner) == 0 || inner[0] != wire.TypeGroup:
		r.m.drops.add(dropNoPath) // meant for a host that this one does not know
		return
	case b == nil:
		r.m.cfg.Datapath.HandleGroup(inner, info.Src)
		return
	case b.Parent != from || b.Origin != info.Src || info.Hops == 0:
		r.m.drops.add(dropRelayed)
		return
	}
	f := &r.fwd
	if f.branch != b || f.info.Hops != info.Hops {
		r.forward()
		f.branch, f.info = b, *info
	}
	f.inner = append(f.inner, inner)
}

// forward sends copies of what was gathered, and takes the packets in.
func (r *reader) forward() {
	f := &r.fwd
	if len(f.inner) == 0 {
		return
	}
	if f.space == nil {
		f.space = make([]byte, forwardSpace)
	}
	for rest := f.inner; len(rest) > 0; {
		n := trainLen(rest)
		r.pass(rest[:n])
		rest = rest[n:]
	}
	r.m.drops.relayed.Add(uint64(len(f.inner)))
	for _, p := range f.inner { // they are opened in place: last
		r.m.cfg.Datapath.HandleGroup(p, f.info.Src)
	}
	clear(f.inner)
	f.inner = f.inner[:0]
}

// trainLen returns how many packets from the front can go in one call: of one size, the last perhaps shorter.
func trainLen(ps [][]byte) int {
	size, bytes := len(ps[0]), 0
	for i, p := range ps {
		bytes += wire.RelayTotal + len(p)
		if i == udp.MaxSegments || len(p) > size || bytes > forwardTrain {
			return max(i, 1)
		}
		if len(p) < size {
			return i + 1
		}
	}
	return len(ps)
}

// pass queues a train for each child and for the island.
func (r *reader) pass(ps [][]byte) {
	f := &r.fwd
	for _, child := range f.branch.Children {
		path := child.Path()
		if path == nil || path.Relay != nil {
			r.m.drops.add(dropNoPath)
			continue
		}
		b := r.copies(ps, wire.RelayTotal)
		if r.envelopes(b, ps, path.Session) {
			r.send(udp.Message{Buf: b, Addr: path.Endpoint, Segment: segment(ps, wire.RelayTotal)})
		}
	}
	if f.branch.Group.IsValid() {
		r.send(udp.Message{Buf: r.copies(ps, 0), Addr: f.branch.Group, Segment: segment(ps, 0)})
	}
}

// envelopes writes the headers before the copies of ps in b; false when the key is spent.
func (r *reader) envelopes(b []byte, ps [][]byte, hop *seal.Sealer) bool {
	for _, p := range ps {
		if hop.PutEnvelope(b, r.fwd.info.Src, r.fwd.info.Dst, r.fwd.info.Hops-1) != nil {
			r.m.drops.add(dropSpent)
			return false
		}
		b = b[wire.RelayTotal+len(p):]
	}
	return true
}

func segment(ps [][]byte, head int) int {
	if len(ps) == 1 {
		return 0
	}
	return head + len(ps[0])
}

// copies returns packets one behind the other, each behind room for a header. They stay until flush.
func (r *reader) copies(ps [][]byte, head int) []byte {
	f := &r.fwd
	n := 0
	for _, p := range ps {
		n += head + len(p)
	}
	if len(f.space)-f.used < n {
		r.flush()
	}
	b := f.space[f.used : f.used+n : f.used+n]
	f.used += n
	at := 0
	for _, p := range ps {
		at += head
		at += copy(b[at:], p)
	}
	return b
}
