// Package bus is reliable one-to-many messaging between programs, without a broker: a process joins a bus, publishes and subscribes.
//
//	b, err := bus.Join(ctx, bus.Config{Name: "quotes", Token: token, Seeds: []string{"10.0.0.5"}})
//	pub, err := b.Publisher("quotes.eu")            // err = pub.Send(ctx, payload)
//	sub, err := b.Subscribe("quotes.>")             // for m, err := range sub.Messages(ctx) { ... }
//
// It needs no daemon, no root and no multicast. Members (processes that hold the bus's token) find each other by seeds and
// on the LAN. Where the network carries multicast, one packet serves all that hear it; everyone else gets copies. A program
// sees no difference but speed.
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
// Messages of different publishers have no order between them. All of a bus is encrypted under keys that follow
// from the token: who has it can read, and can forge other members; who has not gets no answer.
package bus

import (
	"context"
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
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/subject"
	"github.com/weft-net/weft/internal/udp"
)

// Ports.
const (
	// GroupPort is the UDP port of every bus's multicast group.
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
	// Accept are tokens that members may have who were not restarted with Token yet. To change the token without a gap: restart all
	// with the new one in Accept, then with the new one as Token and the old one in Accept, then without.
	Accept []string

	// Member is how others see this process; default: host name and process id. At most 255 bytes.
	Member string
	// Seeds are members to ask for others: HOST, HOST:PORT or ADDRESS:PORT (port 6785 by default). Names are looked up again
	// every minute. Without seeds members find each other by multicast only.
	Seeds []string
	// Listen is the UDP port for everything but multicast; 0: any that is free. A seed needs a fixed one.
	Listen int
	// Interface for multicast, by name; default: the one that the route to the group takes, or else the first that can.
	Interface string
	// NoMulticast keeps the bus off multicast altogether.
	NoMulticast bool
	// TTL of multicast packets; default 1, the LAN.
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
	// ErrTooLarge says that a message is longer than MaxMessage or a quarter of the window.
	ErrTooLarge = errors.New("bus: message too large")
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
	group udp.Conn // nil without multicast
	to    netip.AddrPort
	log   *slog.Logger

	mu     sync.Mutex // guards the node and what follows
	node   *rmcast.Node
	subs   subject.Trie[*Subscription]
	list   []*Subscription
	pubs   []*Publisher
	nextID uint32
	next   time.Time // when the loop ticks
	closed bool

	events  eventQueue
	kick    chan struct{}
	armed   atomic.Int64 // next, for those without the lock
	resume  atomic.Bool
	changed news            // taken interests, members
	life    context.Context // until Close
	stop    context.CancelFunc
	wg      sync.WaitGroup
	out     sync.Pool // of *[]udp.Message
	full    atomic.Uint64
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
	b := &Bus{cfg: cfg, log: cfg.Log, kick: make(chan struct{}, 1)}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.out.New = func() any { ms := make([]udp.Message, 0, 64); return &ms }
	if b.conn, err = udp.Listen(cfg.Listen, udp.Options{Coalesce: true}); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	room := b.conn.Stats().RcvBuffer / 3
	if room == 0 {
		room = 256 << 10
	}
	if !cfg.NoMulticast {
		b.to = groupOf(keys[0])
		if err := b.joinGroup(); err != nil {
			b.log.Warn("no multicast on this host", "error", err)
		} else if r := b.group.Stats().RcvBuffer / 3; r > 0 {
			room = min(room, r)
		}
	}
	var seed [24]byte
	_, _ = rand.Read(seed[:]) // never fails (Go 1.24)
	b.self = rmcast.ID(binary.BigEndian.Uint64(seed[:]) | 1)
	now := time.Now()
	b.node, err = rmcast.New(rmcast.Config{
		Self: b.self, Name: b.cfg.Member, Keys: keys, Suite: seal.Preferred(), Multicast: b.group != nil, Datagram: cfg.Datagram,
		Room: min(room, 4<<20), Ahead: 8 << 20, History: cfg.History, Wire: b, Sink: (*sink)(b), Nonces: rand.Reader,
		Rand: mrand.New(mrand.NewPCG(binary.BigEndian.Uint64(seed[8:]), binary.BigEndian.Uint64(seed[16:]))),
	}, now)
	if err != nil {
		b.closeSockets()
		return nil, fmt.Errorf("bus: %w", err)
	}
	b.node.Interests(now, nil)
	var life context.Context
	life, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	b.life = life
	b.wg.Go(func() { b.loop(life) })
	b.wg.Go(func() { b.read(b.conn, false) })
	if b.group != nil {
		b.wg.Go(func() { b.read(b.group, true) })
	}
	if len(cfg.Seeds) > 0 {
		b.wg.Go(func() { b.seek(life) })
	}
	return b, nil
}

// check fills defaults in and makes the keys.
func (c *Config) check() ([]*buskey.Bus, error) {
	bad := func(setting, fix string) error { return fmt.Errorf("%w: %s: %s", ErrConfig, setting, fix) }
	if err := ident.CheckName("Name", c.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var keys []*buskey.Bus
	for i, t := range append([]string{c.Token}, c.Accept...) {
		tok, err := ident.ParseToken(t)
		if err != nil {
			what := "Token"
			if i > 0 {
				what = "Accept"
			}
			return nil, fmt.Errorf("%w: %s: %w; NewToken makes one", ErrConfig, what, err)
		}
		k, err := buskey.New(tok, c.Name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	switch {
	case len(keys) > 8:
		return nil, bad("Accept", "at most 7 tokens")
	case len(c.Member) > 255:
		return nil, bad("Member", "at most 255 bytes")
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

func splitSeed(s string) (host string, port int, err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String(), SeedPort, nil
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		if s == "" {
			return "", 0, errors.New("an empty seed")
		}
		return s, SeedPort, nil //nolint:nilerr // a name without a port
	}
	if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 || host == "" {
		return "", 0, fmt.Errorf("seed %q: want HOST or HOST:PORT", s)
	}
	return host, port, nil
}

// Addr is where other members reach this one, as far as it knows: the wildcard address with the port that it listens on.
func (b *Bus) Addr() netip.AddrPort { return b.conn.LocalAddr() }

// Epoch is the number that names this member until it closes: 64 random bits.
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
		next := b.node.Tick(now)
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

// seek looks names of seeds up, now and every minute, or sooner while one is not found.
func (b *Bus) seek(ctx context.Context) {
	for {
		again := time.Minute
		for _, s := range b.cfg.Seeds {
			host, port, err := splitSeed(s)
			if err != nil {
				continue
			}
			look, cancel := context.WithTimeout(ctx, 10*time.Second)
			addrs, err := net.DefaultResolver.LookupNetIP(look, "ip", host)
			cancel()
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				b.log.Warn("seed not found", "seed", s, "error", err)
				again = 2 * time.Second
				continue
			}
			now := time.Now()
			b.mu.Lock()
			for _, a := range addrs {
				b.node.AddSeed(now, netip.AddrPortFrom(a.Unmap(), uint16(port)))
			}
			b.mu.Unlock()
			b.wake()
		}
		wait := time.NewTimer(again)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
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
	subs := slices.Clone(b.list)
	b.mu.Unlock()
	b.stop()
	b.closeSockets()
	b.wg.Wait()
	for _, s := range subs {
		s.end(nil)
	}
	b.events.close()
	return err
}

func (b *Bus) closeSockets() {
	_ = b.conn.Close()
	if b.group != nil {
		_ = b.group.Close()
	}
}
