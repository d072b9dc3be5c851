package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
	"github.com/weft-net/weft/internal/ring"
)

// Keys in the state tables.
//
//	ring/PREFIX    the writer's book about that range: CBOR, see bookWire
//	ip/KEY         an address in use by the writer: 4 bytes
//	heir/HOSTID    in the cluster's scope: who takes what a removed host had, by whoever removed it: CBOR, see heirsWire
//	lend/HOST/KEY  an address that the writer has lent to a key of that host: 4 bytes, and the loan's serial, 8 bytes
//	sub/INDEX      in the cluster's scope: the writer has the network with that part of the range; VNI, 4 bytes
const (
	keyRing = "ring/"
	keyIP   = "ip/"
	keyNet  = "sub/"
	keyHeir = "heir/"
	keyLend = "lend/"
)

// Owns reports whether an entry of the state tables is of this package.
func Owns(key string) bool {
	return has(key, keyRing) || has(key, keyIP) || has(key, keyNet) || has(key, keyHeir) || has(key, keyLend)
}

// Limits of what is read.
const (
	maxKey     = 128      // bytes of an attachment's key
	maxBook    = 60 << 10 // bytes of a book
	maxAskBody = 256      // and a book
)

var errCodec = errors.New("malformed")

var (
	encMode = record.Encoding()
	decMode = record.Decoding(record.Bounds{Elements: 2 * (ring.MaxCursors + ring.MaxOwned), Pairs: 16, Depth: 6, Closed: true})
)

// bookWire is a book as CBOR. Hosts are named once, in Hosts, and by their place in it elsewhere.
type bookWire struct {
	ULA     []byte        `cbor:"0,keyasint,omitempty"` // of the cluster's range only: the first 6 bytes of its /48
	Serial  uint64        `cbor:"1,keyasint"`
	Seq     uint64        `cbor:"2,keyasint"`
	Hosts   [][]byte      `cbor:"3,keyasint"`
	Owned   []holdingWire `cbor:"4,keyasint"`
	Gives   []giveWire    `cbor:"5,keyasint"`
	Cursors [][3]uint64   `cbor:"6,keyasint"` // to, from, number
	Estates [][2]uint64   `cbor:"7,keyasint"` // host, serial
	Left    bool          `cbor:"8,keyasint,omitempty"`
	Lapsed  bool          `cbor:"9,keyasint,omitempty"`
}

type holdingWire struct {
	_           struct{} `cbor:",toarray"`
	First, Last uint32
	Version     uint64
	Root        uint64
	Estates     uint32
	Line        [][2]uint64 // heir, version
}

type giveWire struct {
	_       struct{} `cbor:",toarray"`
	Holding holdingWire
	From    uint64
	Seq     uint64
	To      uint64
}

// hostTable numbers hosts in the order of their first use.
type hostTable struct {
	ids   [][]byte
	index map[ident.HostID]uint64
}

func (t *hostTable) put(id ident.HostID) uint64 {
	if i, ok := t.index[id]; ok {
		return i
	}
	i := uint64(len(t.ids))
	t.ids = append(t.ids, append([]byte{}, id[:]...))
	t.index[id] = i
	return i
}

func (t *hostTable) holding(h ring.Holding) holdingWire {
	w := holdingWire{First: h.First, Last: h.Last, Version: h.Version, Root: t.put(h.Root), Estates: h.Estates}
	for _, s := range h.Line {
		w.Line = append(w.Line, [2]uint64{t.put(s.Heir), s.At})
	}
	return w
}

// entry is the value of a key ring/PREFIX.
type entry struct {
	book ring.Book
	ula  []byte // nil but in the cluster's own
	left bool   // the writer wants no share, and gives back what it has
}

func encodeBook(e *entry) ([]byte, error) {
	b := &e.book
	t := hostTable{index: map[ident.HostID]uint64{}}
	w := bookWire{ULA: e.ula, Serial: b.Serial, Seq: b.Seq, Left: e.left, Lapsed: b.Lapsed}
	for _, h := range b.Owned {
		w.Owned = append(w.Owned, t.holding(h))
	}
	for _, g := range b.Gives {
		w.Gives = append(w.Gives, giveWire{Holding: t.holding(g.Holding), From: t.put(g.From), Seq: g.Seq, To: t.put(g.To)})
	}
	for _, c := range b.Cursors {
		w.Cursors = append(w.Cursors, [3]uint64{t.put(c.To), t.put(c.From), c.Seq})
	}
	for _, e := range b.Estates {
		w.Estates = append(w.Estates, [2]uint64{t.put(e.Host), e.Serial})
	}
	w.Hosts = t.ids
	v, err := encMode.Marshal(w)
	if err == nil && len(v) > maxBook {
		err = fmt.Errorf("address book of %d bytes, at most %d", len(v), maxBook)
	}
	return v, err
}

// decodeBook reads what encodeBook wrote. The book still wants its own Check.
func decodeBook(v []byte) (entry, error) {
	if len(v) > maxBook {
		return entry{}, fmt.Errorf("address book: %w: %d bytes", errCodec, len(v))
	}
	var w bookWire
	if err := decMode.Unmarshal(v, &w); err != nil {
		return entry{}, fmt.Errorf("address book: %w: %w", errCodec, err)
	}
	if len(w.ULA) != 0 && len(w.ULA) != 6 {
		return entry{}, fmt.Errorf("address book: %w: ULA", errCodec)
	}
	for _, id := range w.Hosts {
		if len(id) != len(ident.HostID{}) {
			return entry{}, fmt.Errorf("address book: %w: host id", errCodec)
		}
	}
	bad := false
	host := func(i uint64) (id ident.HostID) {
		if i >= uint64(len(w.Hosts)) {
			bad = true
			return id
		}
		return ident.HostID(w.Hosts[i])
	}
	holding := func(h holdingWire) ring.Holding {
		out := ring.Holding{Range: ring.Range{First: h.First, Last: h.Last}, Version: h.Version, Root: host(h.Root), Estates: h.Estates}
		for _, s := range h.Line {
			out.Line = append(out.Line, ring.Succession{Heir: host(s[0]), At: s[1]})
		}
		return out
	}
	b := ring.Book{Serial: w.Serial, Seq: w.Seq, Lapsed: w.Lapsed}
	for _, h := range w.Owned {
		b.Owned = append(b.Owned, holding(h))
	}
	for _, g := range w.Gives {
		b.Gives = append(b.Gives, ring.Give{Holding: holding(g.Holding), From: host(g.From), Seq: g.Seq, To: host(g.To)})
	}
	for _, c := range w.Cursors {
		b.Cursors = append(b.Cursors, ring.Cursor{To: host(c[0]), From: host(c[1]), Seq: c[2]})
	}
	for _, e := range w.Estates {
		b.Estates = append(b.Estates, ring.Estate{Host: host(e[0]), Serial: e[1]})
	}
	if bad {
		return entry{}, fmt.Errorf("address book: %w: host number", errCodec)
	}
	return entry{b, w.ULA, w.Left}, nil
}

// ask is the body of a link message of kind wire.KindShare: give me a part of your range, or this address.
type ask struct {
	Scope  uint32 `cbor:"1,keyasint"`
	Prefix []byte `cbor:"2,keyasint"` // 4 bytes of address, 1 of length
	Want   uint32 `cbor:"3,keyasint,omitempty"`
	Serial uint64 `cbor:"4,keyasint,omitempty"` // of the asker's book: an ask from before its last word is void
	Need   bool   `cbor:"5,keyasint,omitempty"` // an attachment waits for it
	Book   []byte `cbor:"6,keyasint,omitempty"` // no ask at all: the asked host's own book, later than the one that it shows
	Key    string `cbor:"7,keyasint,omitempty"` // lend me an address for this key
	Loan   uint64 `cbor:"8,keyasint,omitempty"` // under this serial
	Back   bool   `cbor:"9,keyasint,omitempty"` // no ask: the loan with that serial is not needed any more
}

func encodeAsk(scope uint32, p netip.Prefix, want uint32, serial uint64, need bool) ([]byte, error) {
	a := p.Addr().As4()
	return encMode.Marshal(ask{Scope: scope, Prefix: append(a[:], byte(p.Bits())), Want: want, Serial: serial, Need: need})
}

// encodeLoan is the body of an ask for a loan, or of the word that one is not needed any more.
func encodeLoan(scope uint32, p netip.Prefix, a ask) ([]byte, error) {
	b := p.Addr().As4()
	a.Scope, a.Prefix = scope, append(b[:], byte(p.Bits()))
	return encMode.Marshal(a)
}

// encodeTold is the body of a message that shows a host a book of its own.
func encodeTold(scope uint32, p netip.Prefix, book []byte) ([]byte, error) {
	a := p.Addr().As4()
	return encMode.Marshal(ask{Scope: scope, Prefix: append(a[:], byte(p.Bits())), Book: book})
}

func decodeAsk(v []byte) (a ask, p netip.Prefix, err error) {
	if len(v) > maxAskBody+maxBook {
		return a, p, fmt.Errorf("ask for a share: %w: %d bytes", errCodec, len(v))
	}
	if err := decMode.Unmarshal(v, &a); err != nil {
		return a, p, fmt.Errorf("ask for a share: %w: %w", errCodec, err)
	}
	if len(a.Key) > maxKey || (a.Loan != 0) != (a.Key != "") || a.Back && a.Key == "" {
		return a, p, fmt.Errorf("ask for a loan: %w: key of %d bytes", errCodec, len(a.Key))
	}
	if len(a.Prefix) != 5 || len(v)-len(a.Book) > maxAskBody {
		return a, p, fmt.Errorf("ask for a share: %w: range", errCodec)
	}
	p = netip.PrefixFrom(netip.AddrFrom4([4]byte(a.Prefix[:4])), int(a.Prefix[4]))
	if checkPrefix(p) != nil {
		return a, p, fmt.Errorf("ask for a share: %w: range", errCodec)
	}
	return a, p, nil
}

// parseRingKey reads the range out of a key ring/PREFIX, in its one canonical form.
func parseRingKey(key string) (netip.Prefix, error) {
	s := strings.TrimPrefix(key, keyRing)
	p, err := netip.ParsePrefix(s)
	if err != nil || p.String() != s || checkPrefix(p) != nil {
		return p, fmt.Errorf("key %.40q: %w", key, errCodec)
	}
	return p, nil
}

func parseNetKey(key string) (uint32, error) {
	s := strings.TrimPrefix(key, keyNet)
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("key %.40q: %w", key, errCodec)
	}
	return uint32(n), nil
}

func netKey(index uint32) string { return keyNet + strconv.FormatUint(uint64(index), 10) }

func put32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func get32(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("%w: %d bytes, want 4", errCodec, len(b))
	}
	return binary.BigEndian.Uint32(b), nil
}
