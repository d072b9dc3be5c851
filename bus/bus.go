// Package bus is reliable one-to-many messaging between programs, without a broker: a process joins a bus, publishes and subscribes.
//
//	b, err := bus.Join(ctx, bus.Config{Name: "quotes", Token: token, Seeds: []string{"10.0.0.5"}})
//	pub, err := b.Publisher("quotes.eu")            // err = pub.Send(ctx, payload)
//	sub, err := b.Subscribe("quotes.>")             // for m, err := range sub.Messages(ctx) { ... }
//
// It needs no daemon, no root and no multicast. Members (processes that hold the bus's token) find each other by seeds and
// on the LAN. Where the network carries multicast, in IPv4 or IPv6, one packet serves all that hear it; everyone else gets copies. Members that UDP does
// not reach, or does not any more, are reached by TCP, whoever of the two can dial the other; and where neither can, because both are behind NATs,
// a third member passes on what they send each other ([Member].Path says so). A program sees no difference but speed.
//
// # Contract
//
// Per publisher, a subscription gets messages in order, none twice, and none is missing without a word: what is lost
// comes as a [Lost] in its place, with the publisher and the numbers. Loss in the network is repaired; Lost means that a
// message is kept nowhere any more, because this member could not be reached, or did not read, for longer than the
// publisher's window lasts, or because the publisher died and nobody else had it.
//
// A subscription is attached to a publisher from the moment that one has taken it in: [Subscription.Ready] waits for that,
// [Publisher.Ready] on the other side. It stays attached through loss, pauses and partitions up to ten minutes long.
// What a publisher sent that no other member heard of before it died is gone with it.
//
// That is the class [Reliable], the default. A publisher may promise something else ([WithClass]): [BestEffort] waits for nobody and
// repairs nothing, [LastValue] keeps the last message of each subject for whoever comes late or reads slowly.
//
// Messages of different publishers have no order between them. All of a bus is encrypted under keys that follow
// from the token: who has it can read, and can forge members that don't sign; who has not gets no answer. A token is changed without a gap by
// [Bus.Accept] and a restart of each process.
//
// # Signatures
//
// A process with a key of its own (Config.Sign) signs all that it says, and no other member can speak in its name: others take nothing of it that is not
// signed by it, neither messages, whoever passes them on or repairs them, nor word of where a stream has got to, confirmations or a goodbye. Nothing has to be
// set where it is received. There, Config.Trust names the keys of those whose messages are taken, and Config.RequireSigned takes those of everyone that signs: without
// the first, any member may publish under a key of its own. Who receives should sign, too: else others can confirm, and unsubscribe, in its name.
//
// Packets that leave together are signed together, up to 64 of them, and each carries the proof that it is one of them: 66 to 210 bytes, of 1,400. That takes the publisher about 25 µs a
// signature and 1.5 µs a packet, each receiver 50 µs and 1.5 µs; so a message alone is some 80 µs later, and a stream of
// small messages at full speed has a fourth to a sixth of the rate: with two processors for all, 2.5 to 3 million a second to one receiver in place of 15 (BenchmarkSigned). A control packet is signed by itself. On a bus of which nobody signs all is as if this were not there. Members of versions that know of no
// signatures take what is signed, unchecked.
//
// # Back-pressure
//
// A publisher is ahead of its slowest receiver by less than its window (Config.Window, in bytes); then Send waits, returns
// [ErrWouldBlock] or drops, as [WithFull] says. A subscription that does not keep up fills its queue ([WithLimit], in bytes); then it
// is told what it lost, blocks, or ends, as [WithSlow] says. Nothing else grows.
//
// # Requests
//
// [Bus.Request] asks whoever subscribes to a subject, and [Bus.Respond] answers; [ErrNoResponders] says that nobody is there.
//
// # Limits
//
// Subjects have 255 bytes and 32 tokens, headers [MaxHeader] bytes, messages [MaxMessage] bytes and a quarter of the window; a
// process 2,048 subscriptions, a bus 1,024 members. Errors wrap one of the Err values below, to be told apart by [errors.Is], and name
// the setting, subject or member that they are about.
//
// Subjects that begin with $WEFT. are weft's own.
//
// # NATS clients
//
// A program may be a member of the bus that the hosts of a weft cluster have for NATS clients (and weft pub, sub and request): its name is weft, and
// weft token --bus weft prints its token, with --json the seeds as well. Messages, headers, requests, answers and queue groups are the same for all on it.
package bus

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/edge"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
	"github.com/weft-net/weft/internal/udp"
)

// Ports.
const (
	// GroupPort is the UDP port of every bus's multicast groups.
	GroupPort = 6784
	// SeedPort is asked where a seed names none: a member that is meant to be found listens on it (Config.Listen).
	SeedPort = 6785
)

// Config says which bus to join and how. Name and Token are needed, the rest has defaults.
type Config struct {
	// Name of the bus: 1 to 63 of a-z, 0-9 and '-'. Members with the same name and token are on one bus.
	Name string
	// Token admits to the bus: what NewToken returned. It never appears in logs or errors.
	Token string
	// Accept are tokens that members may have who were not restarted with Token yet; at most 7. To change the token without a gap: have
	// all accept the new one (Bus.Accept, or a restart), restart all with the new one as Token and the old one in Accept, then have all
	// accept the new one only. Until the second step is done, multicast serves those of one token, copies the others.
	Accept []string

	// Member is how others see this process; default: host name and process id. At most 255 bytes.
	Member string
	// Seeds are members to ask for others: HOST, HOST:PORT or ADDRESS:PORT (port 6785 by default). Names are looked up again
	// every minute. Without seeds members find each other by multicast only. At most MaxSeeds; Bus.AddSeed adds more later.
	Seeds []string
	// Listen is the port for everything but multicast, by UDP and by TCP; 0: any that is free. A seed needs a fixed one.
	Listen int
	// TCP says what is done for members that UDP does not reach; default TCPListen: on the same port number.
	TCP TCP
	// Interface for multicast, by name; default: the one that the route to the group takes, or else the first that can. In IPv6 it needs an address beyond
	// that of the link, and is by default the one of IPv4, where there is IPv4. It may come and go: that is noticed within 5 s.
	Interface string
	// NoMulticast keeps the bus off multicast altogether.
	NoMulticast bool
	// TTL of multicast packets, in IPv6 the hop limit; default 1, the LAN.
	TTL int
	// Datagram is the UDP payload in bytes that packets fill, 512 to 8972; default 1400. It must fit the path's MTU less 28 (IPv6: 48).
	Datagram int

	// Window is how many bytes of each publisher are kept for repairs and late joiners, 256 KiB to 256 MiB; default 16 MiB. A
	// publisher is ahead of its slowest receiver by less. Each packet counts as its bytes and 128; memory is taken as needed.
	Window int
	// Keep is how long packets that all receivers have are kept; default one minute.
	Keep time.Duration
	// History is how many bytes of each received stream are kept, to repair others and for later subscriptions; default 4 MiB.
	History int

	// Fanout is how many copies of a packet leave this process, and each member that passes its packets on, where multicast reaches
	// fewer than two receivers; 1 to 32, default 8. Without multicast, more receivers than that are served through others.
	Fanout int

	// Sign is the Ed25519 key with which this process signs all that it says; nil: it signs nothing, and any member can speak in its name. Others know the process by the
	// public half (Member.Key), which is meant to stay the same when it is started again. See Signatures above for what it costs.
	Sign ed25519.PrivateKey
	// Trust are the keys of those whose messages, and answers, are taken; nil: everybody's. At most MaxTrust. Those of this process are always taken.
	Trust []ed25519.PublicKey
	// RequireSigned takes no messages of publishers that don't sign. Trust says so, too.
	RequireSigned bool

	// Gather and GatherControl are how long datagrams of messages, and others (confirmations, signs of life), may wait for more to the same address, to leave as
	// one; at most MaxGather. 0, the default: they don't, but take along what waits. Multicast does not wait. See WithConfirm and WithHub.
	Gather, GatherControl time.Duration

	socket func(udp.Conn) udp.Conn // what tests put before the socket
	look   time.Duration           // in place of lookEvery, in tests

	// Log gets news of members at level Debug and what an operator should know at Warn; nil: nothing.
	Log *slog.Logger
}

// NewToken draws a token for a new bus: 128 random bits. Keep it as you keep a password.
func NewToken() string { return ident.NewToken().Encode() }

// Errors.
var (
	// ErrClosed says that the bus, publisher or subscription is closed.
	ErrClosed = errors.New("bus: closed")
	// ErrWouldBlock is returned by Send of a publisher with WouldBlock when receivers are behind by a whole window.
	ErrWouldBlock = errors.New("bus: receivers are behind by a whole window")
	// ErrTooLarge says that a message, headers included, is longer than MaxMessage or a quarter of the window. Together with
	// ErrSubject it says that a subject is longer than 255 bytes, with ErrHeader that headers are longer than MaxHeader.
	ErrTooLarge = errors.New("bus: too large")
	// ErrSlow ends a subscription with SlowDisconnect that did not keep up.
	ErrSlow = errors.New("bus: the subscription did not keep up")
	// ErrConfig is wrapped by errors that name a setting.
	ErrConfig = errors.New("bus: bad configuration")
	// ErrSubject is wrapped by errors that name a subject or pattern.
	ErrSubject = subject.ErrBad
)

// MaxMessage is the longest message in bytes; a window of less than four times that bounds it further.
const MaxMessage = rmcast.MaxMessage - 1024

// Bus is a membership of a bus. Its methods may be called from any goroutine.
type Bus struct {
	cfg   Config
	self  rmcast.ID
	conn  udp.Conn
	edges *edge.Set // nil with TCPOff
	log   *slog.Logger
	seen  string // the interfaces when tend looked last

	groups [2]underlay                    // in IPv4 and IPv6; none without multicast
	voice  atomic.Pointer[netip.AddrPort] // what is sent to all goes there; nil: nowhere

	mu     sync.Mutex // guards the node and what follows, and where the groups are joined
	used   int        // the group of the node's choice
	usable byte       // those that are joined somewhere: 1 and 2
	past   received   // by sockets of groups that are closed
	node   *rmcast.Node
	gather *rmcast.Gatherer // nil: nothing waits
	subs   subject.Trie[*Subscription]
	list   []*Subscription
	pubs   []*Publisher
	seeds  []string
	nextID uint32
	next   time.Time // when the loop ticks
	closed bool
	watch  Watcher // of a gateway; nil for most

	events  eventQueue
	kick    chan struct{}
	seeded  chan struct{} // seeds were added
	armed   atomic.Int64  // next, for those without the lock
	resume  atomic.Bool
	changed news            // taken interests, members
	life    context.Context // until Close
	stop    context.CancelFunc
	wg      sync.WaitGroup
	out     sync.Pool // of *[]udp.Message
	full    atomic.Uint64
	began   time.Time

	asked             asked
	requests, answers streams
}

// Join makes this process a member. It returns when the sockets are open; that nobody else is there yet is no error. ctx bounds Join only.
func Join(ctx context.Context, cfg Config) (*Bus, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("bus: join: %w", err)
	}
	keys, err := cfg.check()
	if err != nil {
		return nil, err
	}
	sign, err := cfg.identity(keys[0])
	if err != nil {
		return nil, err
	}
	cfg.Sign = nil // it is in the identity, which prints nothing of it
	b := &Bus{cfg: cfg, log: cfg.Log, kick: make(chan struct{}, 1), began: time.Now(), seeds: slices.Clone(cfg.Seeds), seeded: make(chan struct{}, 1)}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.out.New = func() any { ms := make([]udp.Message, 0, 64); return &ms }
	ln, err := b.listen()
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	room := b.conn.Stats().RcvBuffer / 3
	if room == 0 {
		room = 256 << 10
	}
	if !cfg.NoMulticast {
		b.openGroups(keys[0])
	}
	hearing := b.sockets()[1:]
	for _, c := range hearing {
		if r := c.Stats().RcvBuffer / 3; r > 0 {
			room = min(room, r)
		}
	}
	var seed [24]byte
	_, _ = rand.Read(seed[:]) // never fails (Go 1.24)
	if b.self = rmcast.ID(binary.BigEndian.Uint64(seed[:]) | 1); sign != nil {
		b.self = rmcast.ID(sign.Epoch())
	}
	edges, err := b.connect(keys)
	if err != nil {
		b.closeSockets(ln)
		return nil, err
	}
	now := time.Now()
	b.node, err = rmcast.New(rmcast.Config{
		Self: b.self, Name: b.cfg.Member, Keys: keys, Suite: seal.Preferred(), Multicast: !cfg.NoMulticast, Groups: (*speech)(b), Datagram: cfg.Datagram,
		Room: min(room, 4<<20), Ahead: 8 << 20, History: cfg.History, Wire: b.wire(), Edges: edges, Sink: (*sink)(b), Wants: b.wants, Nonces: rand.Reader,
		Sign: sign, Takes: cfg.takes(),
		Rand: mrand.New(mrand.NewPCG(binary.BigEndian.Uint64(seed[8:]), binary.BigEndian.Uint64(seed[16:]))),
	}, now)
	if err != nil {
		b.closeSockets(ln)
		return nil, fmt.Errorf("bus: %w", err)
	}
	b.node.Interests(now, nil)
	b.mu.Lock()
	b.node.Usable(now, b.usable)
	b.mu.Unlock()
	var life context.Context
	life, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	b.life = life
	b.wg.Go(func() { b.loop(life) })
	b.wg.Go(func() { b.read(b.conn, false) })
	for _, c := range hearing {
		b.wg.Go(func() { b.read(c, true) })
	}
	if !cfg.NoMulticast {
		b.wg.Go(func() { b.tend(life) })
	}
	if ln != nil {
		b.wg.Go(func() {
			if err := b.edges.Serve(ln); err != nil {
				b.log.Warn("members that UDP does not reach cannot dial this one any more", "error", err)
			}
		})
	}
	b.wg.Go(func() { b.seek(life) })
	return b, nil
}

// wants tells a gateway's watcher what a member wants; the lock is held.
func (b *Bus) wants(m rmcast.Member, all []rmcast.Interest) {
	if b.watch != nil {
		b.watch.Wants(uint64(m.ID), m.Name, all)
	}
}

// check fills defaults in and makes the keys.
func (c *Config) check() ([]*buskey.Bus, error) {
	bad := func(setting, fix string) error { return fmt.Errorf("%w: %s: %s", ErrConfig, setting, fix) }
	if err := ident.CheckName("Name", c.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	keys, err := c.keys(c.Accept)
	if err != nil {
		return nil, err
	}
	switch {
	case len(c.Seeds) > MaxSeeds:
		return nil, bad("Seeds", fmt.Sprintf("at most %d", MaxSeeds))
	case len(c.Member) > 255:
		return nil, bad("Member", "at most 255 bytes")
	case c.TCP < TCPListen || c.TCP > TCPOff:
		return nil, bad("TCP", "TCPListen, TCPDial or TCPOff")
	case c.Listen < 0 || c.Listen > 65535:
		return nil, bad("Listen", "a port is 0 to 65535")
	case c.TTL < 0 || c.TTL > 255:
		return nil, bad("TTL", "0 to 255")
	case c.Datagram != 0 && (c.Datagram < rmcast.MinDatagram || c.Datagram > rmcast.MaxDatagram):
		return nil, bad("Datagram", fmt.Sprintf("%d to %d bytes", rmcast.MinDatagram, rmcast.MaxDatagram))
	case c.Window != 0 && (c.Window < 256<<10 || c.Window > 256<<20):
		return nil, bad("Window", "256 KiB to 256 MiB")
	case c.History < 0 || c.History > 256<<20:
		return nil, bad("History", "0 to 256 MiB")
	case c.Fanout < 0 || c.Fanout > 32:
		return nil, bad("Fanout", "1 to 32")
	case c.Keep < 0:
		return nil, bad("Keep", "not negative")
	}
	if err := errors.Join(c.checkFar(), c.checkTrust()); err != nil {
		return nil, err
	}
	for _, s := range c.Seeds {
		if _, _, err := splitSeed(s); err != nil {
			return nil, fmt.Errorf("%w: Seeds: %w", ErrConfig, err)
		}
	}
	if c.Member == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Member = host + "/" + strconv.Itoa(os.Getpid())
		c.Member = c.Member[:min(len(c.Member), 255)]
	}
	return keys, nil
}

// Addr is where other members reach this one, as far as it knows: the wildcard address with the port that it listens on.
func (b *Bus) Addr() netip.AddrPort { return b.conn.LocalAddr() }

// Epoch is the number that names this member until it closes: 64 random bits; of one that signs, a hash of its key and random bits.
func (b *Bus) Epoch() uint64 { return uint64(b.self) }

// loop lets time pass in the node.
func (b *Bus) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.kick:
		}
		now := time.Now()
		b.mu.Lock()
		if b.resume.Swap(false) {
			b.node.Resume(now)
		}
		next := b.leave(now, b.node.Tick(now))
		b.arm(next)
		b.mu.Unlock()
		b.changed.tell()
		timer.Reset(max(0, time.Until(next)))
	}
}

// arm notes when the loop ticks next; the lock is held.
func (b *Bus) arm(next time.Time) {
	b.next = next
	b.armed.Store(next.UnixNano())
}

// by has the loop tick no later than a time.
func (b *Bus) by(at time.Time) {
	if at.UnixNano() < b.armed.Load() {
		b.armed.Store(at.UnixNano()) // one kick is enough
		b.wake()
	}
}

func (b *Bus) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// earlier has the loop tick at once if the node wants a time before the one it was armed for; the lock is held.
func (b *Bus) earlier(next time.Time) {
	if next.Before(b.next) {
		b.arm(next)
		b.wake()
	}
}

// Close leaves the bus: publishers are closed as by Publisher.Close, the others are told, and iterators end after what
// they have already. ctx bounds the waiting for receivers; its error is returned when not all have confirmed.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	pubs := slices.Clone(b.pubs)
	b.mu.Unlock()
	var err error
	for _, p := range pubs {
		p.end()
	}
	for _, p := range pubs {
		if e := p.drained(ctx); e != nil && err == nil {
			err = e
		}
	}
	b.mu.Lock()
	b.node.Leave(time.Now())
	b.leave(time.Now().Add(MaxGather), time.Time{})
	subs := slices.Clone(b.list)
	b.mu.Unlock()
	if b.edges != nil {
		b.edges.Close() // says goodbye, too
	}
	b.stop()
	b.closeSockets(nil)
	b.wg.Wait()
	for _, s := range subs {
		s.end(nil)
	}
	b.events.close()
	return err
}

func (b *Bus) closeSockets(ln net.Listener) {
	if ln != nil {
		_ = ln.Close()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.sockets() {
		_ = c.Close()
	}
}
