// Package vnet keeps the networks and attachments of this host: a bridge, an uplink and veths per network, and what their ports joined.
//
// A network on a host is
//
//	attachment   weft0 --- wv...  \
//	attachment   weft0 --- wv...   > bridge wbVNI --- TAP wuVNI --- the daemon
//	expose       weft0 --- wv...  /
//	service      weft0 --- wv...  /
//
// A service (service.go) is what this host answers at itself, at the same address on every host.
//
// In a plain network (plain.go) a VXLAN device is in the TAP's place, and the daemon reads no frames.
//
// The bridge snoops IGMP and MLD. Its MDB says which attachment wants which group (out: OnMembers);
// what other hosts want is put into the MDB for the uplink (in: SetWanted). ARP and ND for
// remote attachments are answered by the bridge from what SetRemotes gave.
//
// Concurrency: VNet.mu guards all state and is held over exchanges with the kernel. Callbacks
// run without it, one at a time, on the goroutine of Run.
package vnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/tap"
)

// Errors that callers branch on.
var (
	ErrNoNetwork = errors.New("no such network on this host")
	ErrNotFound  = errors.New("no such attachment")
	ErrExists    = errors.New("the name is taken")
	ErrInUse     = errors.New("the network has attachments")
	ErrClosed    = errors.New("networks are down")
)

// Spec describes a network.
type Spec struct {
	Name string
	VNI  uint32 // 1 to 2^24-1
	MTU  int    // of attachments, MinMTU to MaxMTU
	// Local, when valid, makes the network plain: unencrypted VXLAN from this underlay address, no TAP.
	Local netip.Addr
}

// Kind says what an attachment is; it decides when it ends.
type Kind string

// The kinds of attachments.
const (
	KindRun    Kind = "run"    // a process of weft run, with a namespace of its own
	KindPID    Kind = "pid"    // the namespace of a process
	KindNetns  Kind = "netns"  // a namespace by its file
	KindExpose Kind = "expose" // the host itself
	// KindDocker is a container: Docker moves the inner end from the host's namespace into the container's, gives it the
	// addresses, and brings it back. Detach ends it, or the end of its namespace.
	KindDocker Kind = "docker"

	kindService Kind = "service" // of the daemon; not among Attachments
)

// AttachSpec describes an attachment to make.
type AttachSpec struct {
	Network string         `json:"network"`
	Name    string         `json:"name"`
	Kind    Kind           `json:"kind"`
	MAC     nl.MAC         `json:"mac"`
	IPs     []netip.Prefix `json:"ips"` // with the network's prefix length
	// Netns is the file of the namespace; when empty it is PID's own.
	Netns string `json:"netns,omitempty"`
	// PID is the process with which the attachment ends; 0 for none. StartTime, when
	// not 0, must be the process's (netns.Process).
	PID       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`
	// Interface is the name inside; empty: the next free one of weft0, weft1, ...
	Interface string `json:"interface,omitempty"`
	// MulticastRoute sends groups out of this interface where a program names none.
	MulticastRoute bool `json:"multicast_route,omitempty"`
	// MTU, when not 0, is less than the network's: MinMTU or more. Of KindDocker only.
	MTU int `json:"mtu,omitempty"`
}

// Attachment is one that exists.
type Attachment struct {
	AttachSpec          // with PID's StartTime and the Interface that it got
	VNI        uint32   `json:"vni"`
	Port       string   `json:"port"` // the host end
	NS         netns.ID `json:"ns"`   // the namespace it was put into
}

// Membership is what an attachment joined.
type Membership struct {
	Attachment string
	Group      netip.Addr
	// Exclude: from any source but Sources. Else from Sources only (never empty then).
	Exclude bool
	Sources []netip.Addr // sorted
}

// Group is what members on other hosts want.
type Group struct {
	Addr    netip.Addr
	Sources []netip.Addr // nil: any source
	At      []At         // who wants it, host by host; for plain networks only
}

// Remote is an attachment on another host.
type Remote struct {
	MAC  nl.MAC
	IPs  []netip.Addr // the link-local address of the MAC is added
	VTEP netip.Addr   // of its host; for plain networks only, which send nothing to a remote without
}

// Guard binds ports to addresses before they carry frames. Each call replaces what was set
// for the same port or bridge.
type Guard interface {
	SetUplink(bridge, uplink string) error
	SetPort(bridge, port string, vni uint32, mac nl.MAC, ips []netip.Addr) error
	DelPort(port string) error
	DelBridge(bridge string) error // with its uplink
}

// Store keeps one blob over restarts. Load gives nil when nothing was saved yet.
type Store interface {
	Load() ([]byte, error)
	Save([]byte) error
}

// Config is what a VNet needs. Host, NL, Netns, Store and Log must be set.
type Config struct {
	Host  netns.Namespace // where bridges and host ends live; must stay open
	NL    nl.System
	Netns netns.System
	// Super returns the longest super-frame, in bytes, that attachments of networks of an MTU shall make; nil: as the kernel has it.
	Super   func(mtu int) int
	OpenTAP func(name string) (tap.Device, error) // called inside Host; nil: tap.Open
	Guard   Guard                                 // nil: none
	// Keep are the networks that another daemon hands over with what they have: Reconcile leaves their bridges and
	// uplinks, and OpenTAP may return a TAP that is there.
	Keep  []uint32
	Store Store
	Log   *slog.Logger
	// OnMembers gets all memberships of a network, at first and after each change.
	OnMembers func(vni uint32, m []Membership)
	// OnGone gets an attachment that ended without Detach. It is removed already.
	OnGone func(a Attachment, reason string)
}

// Stats are counters since New.
type Stats struct {
	Attachments       int
	Networks          int
	MembershipReads   uint64 // dumps of the MDB
	SnoopingRestored  uint64 // times the kernel had switched snooping off
	WantedRefused     uint64 // groups not programmed: table full or refused by the kernel
	RemotesRefused    uint64 // remote attachments not programmed
	AttachmentsEnded  uint64 // without Detach
	MembershipsCutOff uint64 // memberships beyond MaxMemberships
}

// VNet is the service. Call Reconcile once, then Run; the other methods at any time after Reconcile.
type VNet struct {
	cfg Config
	nl  nl.Handle
	log *slog.Logger

	mu          sync.Mutex // guards all down to the line
	closed      bool
	networks    map[uint32]*network
	attachments map[key]*attachment
	// ---

	kick   chan struct{} // "read memberships"
	ended  chan ending   // processes that ended
	down   chan struct{} // closed by Down
	wg     sync.WaitGroup
	counts struct {
		reads, snooping, wanted, remotes, ended, cut atomic.Uint64
	}
}

type key struct{ network, name string }

type attachment struct {
	Attachment
	port int           // index of the host end
	stop chan struct{} // ends the watch of the process
	// behind: a container that was there before one of its network's subnets, and is to be looked for tries times more.
	behind bool
	tries  int
}

type ending struct {
	a      *attachment
	reason string
}

// New opens rtnetlink in cfg.Host. It changes nothing yet.
func New(cfg Config) (*VNet, error) {
	h, err := cfg.NL.Open(cfg.Host)
	if err != nil {
		return nil, err
	}
	if cfg.OpenTAP == nil {
		cfg.OpenTAP = tap.Open
	}
	return &VNet{
		cfg: cfg, nl: h, log: cfg.Log,
		networks: map[uint32]*network{}, attachments: map[key]*attachment{},
		kick: make(chan struct{}, 1), ended: make(chan ending), down: make(chan struct{}),
	}, nil
}

// Down closes the uplinks and stops all watches. Bridges and attachments stay for the next
// Reconcile; local traffic goes on, and that of plain networks. Run ends. Calling it again does nothing.
func (v *VNet) Down() error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	close(v.down)
	var errs []error
	for _, n := range v.networks {
		errs = append(errs, v.endService(n))
		if n.dev != nil {
			errs = append(errs, n.dev.Close())
		}
	}
	v.mu.Unlock()
	v.wg.Wait()
	return errors.Join(append(errs, v.nl.Close())...)
}

// Device returns the uplink of a sealed network that is up; nil when there is none.
func (v *VNet) Device(vni uint32) tap.Device {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := v.networks[vni]; n != nil {
		return n.dev
	}
	return nil
}

// Attachments lists what is attached, in no order.
func (v *VNet) Attachments() []Attachment {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]Attachment, 0, len(v.attachments))
	for _, a := range v.attachments {
		list = append(list, a.Attachment)
	}
	return list
}

// AtHome returns the ports of those attachments of KindDocker whose inner end lies in the host's namespace: no container
// has it yet, or any more.
func (v *VNet) AtHome() (map[string]bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, ErrClosed
	}
	links, err := v.nl.Links()
	if err != nil {
		return nil, err
	}
	home := map[string]bool{}
	for _, l := range links {
		if ours(l) {
			home[l.Name] = true
		}
	}
	ends := map[string]bool{}
	for _, a := range v.attachments {
		if a.Kind == KindDocker && home[a.Interface] {
			ends[a.Port] = true
		}
	}
	return ends, nil
}

// Stats returns the counters.
func (v *VNet) Stats() Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Stats{
		Attachments: len(v.attachments), Networks: len(v.networks),
		MembershipReads: v.counts.reads.Load(), SnoopingRestored: v.counts.snooping.Load(),
		WantedRefused: v.counts.wanted.Load(), RemotesRefused: v.counts.remotes.Load(),
		AttachmentsEnded: v.counts.ended.Load(), MembershipsCutOff: v.counts.cut.Load(),
	}
}

func (s Spec) check() error {
	if err := ident.CheckName("network", s.Name); err != nil {
		return err
	}
	if s.VNI == 0 || s.VNI > MaxVNI {
		return fmt.Errorf("network %s: VNI %d is not in 1 to %d", s.Name, s.VNI, MaxVNI)
	}
	if s.MTU < MinMTU || s.MTU > MaxMTU {
		return fmt.Errorf("network %s: MTU %d is not in %d to %d", s.Name, s.MTU, MinMTU, MaxMTU)
	}
	if a := s.Local; a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a.Zone() != "") {
		return fmt.Errorf("network %s: %s is not an address to send VXLAN from", s.Name, a)
	}
	return nil
}

// usable is checked first by what changes things. Precondition: v.mu must be locked.
func (v *VNet) usable(ctx context.Context) error {
	if v.closed {
		return ErrClosed
	}
	return ctx.Err()
}

// byName finds a network. Precondition: v.mu must be locked.
func (v *VNet) byName(name string) *network {
	for _, n := range v.networks {
		if n.spec.Name == name {
			return n
		}
	}
	return nil
}

// poke makes Run read the memberships soon.
func (v *VNet) poke() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}
