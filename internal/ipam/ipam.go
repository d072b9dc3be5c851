// Package ipam gives attachments their addresses: at once, from ranges this host alone owns.
//
// There are two levels of rings (package ring). The cluster's range is shared out in units of a /20:
// a host carves the subnets of networks it creates from its own units. Each subnet is shared out
// in addresses among the hosts that have the network.
package ipam

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// KeyPrefix begins the keys of this package in the state tables; the space's prefix follows.
// In scope 0 the space is the cluster's range, in a network's scope a subnet.
const KeyPrefix = "ring/"

// UnitBits is the prefix length of a default subnet, the unit of the cluster's range.
const UnitBits = 20

const (
	askEvery   = time.Second
	waitShare  = 10 * time.Second // Allocate waits so long for a share when ctx has no deadline
	waitTaken  = 8 * time.Second  // GiveBack and Leave wait so long for others to take
	maxSpaces  = 2048
	maxBook    = 64 << 10
	maxAskSize = 128
)

// Config is what the service needs; everything is required.
type Config struct {
	Self ident.HostID
	// Publish puts own entries into a scope of the state tables and returns when they are on disk.
	Publish func(scope uint32, puts map[string][]byte, dels []string) error
	// Ask sends a host a request for a part of its range, best effort; HandleAsk takes it there.
	Ask func(to ident.HostID, body []byte) error
	// Alive reports whether a host can be asked now.
	Alive func(ident.HostID) bool
	// Name returns a host's name, for people.
	Name func(ident.HostID) string
	// InUse returns the addresses of all known attachments of a network.
	InUse func(vni uint32) []netip.Addr
	Log   *slog.Logger
}

// Address is what an attachment gets.
type Address struct {
	IP4, IP6 netip.Prefix // with the prefix length of the subnet
	MAC      [6]byte      // 02:57 and the IPv4 address: unique because that is
}

// Service gives out addresses. mu guards everything, also while a book is written to disk: a plan
// is worth nothing when another one gets between it and its commit. Nothing that Publish, Ask and
// the other functions of Config do may call the Service and wait.
type Service struct {
	cfg Config

	mu      sync.Mutex
	ula     netip.Prefix
	cluster *space
	spaces  map[spaceKey]*space
	early   map[spaceKey]map[ident.HostID][]byte // books of subnets not yet defined
	changed chan struct{}                        // closed and replaced whenever a book changed
}

type spaceKey struct {
	scope  uint32
	prefix netip.Prefix
}

// space is one ring and what of it is in use here.
type space struct {
	key    spaceKey
	shift  int // host bits of a unit: 12 for the cluster's range, 0 for a subnet
	ring   *ring.Ring
	pool   *ring.Pool
	joined bool // this host wants a share
	asked  time.Time
	turn   int
}

// New makes a service that knows no range yet.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, spaces: map[spaceKey]*space{}, early: map[spaceKey]map[ident.HostID][]byte{}, changed: make(chan struct{})}
}

func (s *Service) newSpace(scope uint32, p netip.Prefix) *space {
	sp := &space{key: spaceKey{scope, p}}
	if scope == 0 {
		sp.shift = 32 - UnitBits
	}
	last := uint32(1)<<(32-p.Bits()-sp.shift) - 1
	r := ring.Range{First: 0, Last: last}
	sp.ring = ring.New(s.cfg.Self, r)
	sp.pool = ring.NewPool()
	if scope != 0 {
		// The network's address, the name service's (the first) and the last are never given.
		sp.pool = ring.NewPool(0, 1, last)
	}
	for w, b := range s.early[sp.key] {
		s.setBook(sp, w, b)
	}
	delete(s.early, sp.key)
	return sp
}

// addr returns the first address of a unit.
func (sp *space) addr(unit uint32) netip.Addr {
	base := binary.BigEndian.Uint32(sp.key.prefix.Addr().AsSlice())
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], base+unit<<sp.shift)
	return netip.AddrFrom4(b)
}

// unit is the inverse of addr.
func (sp *space) unit(a netip.Addr) uint32 {
	return (binary.BigEndian.Uint32(a.AsSlice()) - binary.BigEndian.Uint32(sp.key.prefix.Addr().AsSlice())) >> sp.shift
}

// SetCluster tells the cluster's ranges; once.
func (s *Service) SetCluster(r, ula netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setClusterLocked(r, ula)
}

func (s *Service) setClusterLocked(r, ula netip.Prefix) {
	if s.cluster != nil {
		return
	}
	s.ula = ula
	s.cluster = s.newSpace(0, r)
	s.cluster.joined = true
	s.spaces[s.cluster.key] = s.cluster
	for k := range s.spaces {
		s.markSubnetLocked(k)
	}
}

// Found makes this host the first owner of the cluster's range.
func (s *Service) Found(r, ula netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setClusterLocked(r, ula)
	return s.foundLocked(s.cluster)
}

// AddSubnet tells of a subnet of a network; books of it that came before are read now.
func (s *Service) AddSubnet(vni uint32, p netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addSubnetLocked(vni, p)
}

func (s *Service) addSubnetLocked(vni uint32, p netip.Prefix) *space {
	k := spaceKey{vni, p}
	if sp := s.spaces[k]; sp != nil {
		return sp
	}
	if len(s.spaces) >= maxSpaces {
		return nil
	}
	sp := s.newSpace(vni, p)
	for _, o := range s.spaces { // a second subnet of a network that we have
		if o.key.scope == vni && o.joined {
			sp.joined = true
		}
	}
	s.spaces[k] = sp
	s.markSubnetLocked(k)
	return sp
}

// markSubnetLocked notes that a subnet uses units of the cluster's range.
func (s *Service) markSubnetLocked(k spaceKey) {
	if s.cluster == nil || k.scope == 0 || !s.cluster.key.prefix.Overlaps(k.prefix) || k.prefix.Bits() < s.cluster.key.prefix.Bits() {
		return
	}
	first := s.cluster.unit(k.prefix.Addr())
	n := uint32(1)
	if k.prefix.Bits() < UnitBits {
		n = 1 << (UnitBits - k.prefix.Bits())
	}
	for i := range n {
		s.cluster.pool.Restore(fmt.Sprintf("%s %d", k.prefix, i), first+i)
	}
}

// FoundSubnet makes this host the first owner of a subnet that it defined.
func (s *Service) FoundSubnet(vni uint32, p netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp := s.addSubnetLocked(vni, p)
	if sp == nil {
		return fmt.Errorf("subnet %s: more than %d address ranges", p, maxSpaces)
	}
	return s.foundLocked(sp)
}

func (s *Service) foundLocked(sp *space) error {
	b, err := sp.ring.Found()
	if err != nil {
		return fmt.Errorf("range %s: %w", sp.key.prefix, err)
	}
	return s.commitLocked(sp, b)
}

// commitLocked writes a planned book to disk and takes it into use.
func (s *Service) commitLocked(sp *space, b ring.Book) error {
	v, err := encMode.Marshal(b)
	if err != nil {
		return fmt.Errorf("address book: %w", err)
	}
	if err := s.cfg.Publish(sp.key.scope, map[string][]byte{sp.key.name(): v}, nil); err != nil {
		return fmt.Errorf("address book of %s: %w", sp.key.prefix, err)
	}
	if err := sp.ring.Commit(b); err != nil {
		return fmt.Errorf("address book of %s: %w", sp.key.prefix, err)
	}
	s.signalLocked()
	return nil
}

func (s *Service) signalLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (k spaceKey) name() string { return KeyPrefix + k.prefix.String() }

var (
	encMode = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic(err) // constant options
		}
		return m
	}()
	decMode = func() cbor.DecMode {
		m, err := cbor.DecOptions{MaxArrayElements: 1024, MaxMapPairs: 32, MaxNestedLevels: 6}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
)

func decodeBook(v []byte) (ring.Book, error) {
	var b ring.Book
	if len(v) > maxBook {
		return b, fmt.Errorf("address book of %d bytes", len(v))
	}
	if err := decMode.Unmarshal(v, &b); err != nil {
		return ring.Book{}, fmt.Errorf("address book: %w", err)
	}
	return b, nil
}

// OnChange takes an entry of the state tables whose key begins with KeyPrefix, this host's own from an earlier run included.
func (s *Service) OnChange(scope uint32, writer ident.HostID, key string, value []byte, gone bool) {
	p, err := netip.ParsePrefix(strings.TrimPrefix(key, KeyPrefix))
	if err != nil || gone || !p.Addr().Is4() || p != p.Masked() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := spaceKey{scope, p}
	sp := s.spaces[k]
	if sp == nil {
		if s.early[k] == nil {
			if len(s.early) >= maxSpaces {
				return
			}
			s.early[k] = map[ident.HostID][]byte{}
		}
		s.early[k][writer] = value
		return
	}
	if s.setBook(sp, writer, value) {
		s.settleLocked(sp)
		s.signalLocked()
	}
}

func (s *Service) setBook(sp *space, writer ident.HostID, value []byte) bool {
	b, err := decodeBook(value)
	if err != nil {
		s.cfg.Log.Debug("address book refused", "host", writer.Short(), "err", err)
		return false
	}
	news, err := sp.ring.Set(writer, b)
	if err != nil {
		s.cfg.Log.Debug("address book refused", "err", err)
	}
	return news
}

// settleLocked takes what was given to this host and drops what others took.
func (s *Service) settleLocked(sp *space) {
	if !sp.joined {
		return
	}
	for range 8 { // each round may make room for the next
		b, ok := sp.ring.Settle(sp.pool.InUse())
		if !ok {
			return
		}
		if err := s.commitLocked(sp, b); err != nil {
			s.cfg.Log.Error("addresses not taken", "err", err)
			return
		}
	}
}

// Join asks for a share of a network's subnets from now on.
func (s *Service) Join(vni uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.ofLocked(vni) {
		sp.joined = true
		s.settleLocked(sp)
		s.askLocked(time.Now(), sp)
	}
}

// ofLocked returns the spaces of a scope, in the order of their prefixes.
func (s *Service) ofLocked(scope uint32) []*space {
	var out []*space
	for _, sp := range s.spaces {
		if sp.key.scope == scope {
			out = append(out, sp)
		}
	}
	slices.SortFunc(out, func(a, b *space) int { return a.key.prefix.Addr().Compare(b.key.prefix.Addr()) })
	return out
}

// Tick asks for more where this host runs short. Call it about once a second.
func (s *Service) Tick(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.spaces {
		if sp.joined {
			s.settleLocked(sp)
			if sp.pool.Available(sp.ring.Owned(s.cfg.Self)) == 0 {
				s.askLocked(now, sp)
			}
		}
	}
}

// ask is the body of a request for a part of a range.
type ask struct {
	Scope  uint32       `cbor:"1,keyasint"`
	Prefix netip.Prefix `cbor:"2,keyasint"`
	Want   uint32       `cbor:"3,keyasint,omitempty"` // one unit + 1; 0: any part
}

// askLocked asks the owner with most, and at each call the next one.
func (s *Service) askLocked(now time.Time, sp *space) {
	if now.Sub(sp.asked) < askEvery || sp.pool.Available(sp.ring.Owned(s.cfg.Self)) > 0 {
		return
	}
	var owners []ident.HostID
	for _, sh := range sp.ring.Shares() {
		if sh.Owner != s.cfg.Self && s.cfg.Alive(sh.Owner) {
			owners = append(owners, sh.Owner)
		}
	}
	if len(owners) == 0 {
		return
	}
	sp.asked = now
	to := owners[sp.turn%min(len(owners), 3)]
	sp.turn++
	s.sendAsk(to, ask{Scope: sp.key.scope, Prefix: sp.key.prefix})
}

func (s *Service) sendAsk(to ident.HostID, a ask) {
	b, err := encMode.Marshal(a)
	if err == nil {
		err = s.cfg.Ask(to, b)
	}
	if err != nil {
		s.cfg.Log.Debug("not asked for addresses", "host", to.Short(), "err", err)
	}
}

// HandleAsk gives another host a part of a range, if this host has some to spare.
func (s *Service) HandleAsk(from ident.HostID, body []byte) {
	var a ask
	if len(body) > maxAskSize || decMode.Unmarshal(body, &a) != nil || from == s.cfg.Self {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sp := s.spaces[spaceKey{a.Scope, a.Prefix}]
	if sp == nil || len(sp.ring.Giving(from)) > 0 {
		return
	}
	owned := sp.ring.Owned(s.cfg.Self)
	part, ok := sp.pool.Spare(owned, sp.ring.Space())
	if a.Want != 0 {
		u := a.Want - 1
		_, used := sp.pool.Holder(u)
		part, ok = ring.Range{First: u, Last: u}, !used && !sp.pool.Reserved(u)
	}
	if !ok {
		return
	}
	b, err := sp.ring.Give(from, part)
	if err == nil {
		err = s.commitLocked(sp, b)
	}
	if err != nil && !errors.Is(err, ring.ErrNotOwned) {
		s.cfg.Log.Error("addresses not given", "to", from.Short(), "err", err)
	}
}

// CheckRange refuses a range that a route of the host leads elsewhere. Only equal or narrower
// routes count: a default route covers everything and means nothing.
func CheckRange(p netip.Prefix, routes []netip.Prefix) error {
	for _, r := range routes {
		if r.Overlaps(p) && r.Bits() >= p.Bits() {
			return fmt.Errorf("the range %s overlaps the route %s of this host", p, r)
		}
	}
	return nil
}

// Subnet6 returns the IPv6 /64 of a network whose IPv4 subnet is p: numbered by its place in the
// cluster's range, or, for a subnet outside, by a hash of the VNI in the upper half.
func (s *Service) Subnet6(p netip.Prefix, vni uint32) netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.ula.Addr().As16()
	var n uint16
	if s.cluster != nil && s.cluster.key.prefix.Contains(p.Addr()) && p.Bits() >= s.cluster.key.prefix.Bits() {
		n = uint16(s.cluster.unit(p.Addr()) + 1)
	} else {
		var v [4]byte
		binary.BigEndian.PutUint32(v[:], vni)
		sum := sha256.Sum256(v[:])
		n = 0x8000 | binary.BigEndian.Uint16(sum[:])
	}
	binary.BigEndian.PutUint16(a[6:], n)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// wait waits until a book changes. It is called with mu held and returns with mu held.
func (s *Service) waitLocked(ctx context.Context) error {
	c := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	t := time.NewTimer(askEvery)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
