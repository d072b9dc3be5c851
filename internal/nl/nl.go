// Package nl speaks rtnetlink: bridges, ports, memberships, veths, addresses and routes of one network namespace.
//
// What the kernel did in trials, and why the settings are as they are, is told beside each
// setting in bridge_linux.go.
package nl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/netns"
)

// Errors that callers branch on.
var (
	ErrUnsupported = errors.New("bridges and veths need Linux")
	ErrNotFound    = errors.New("no such interface")
	ErrExists      = errors.New("the interface exists")
	ErrPortTaken   = errors.New("its UDP port is taken by another program")
)

// RunningTime is how long AwaitRunning waits.
const RunningTime = 5 * time.Second

// MAC is an Ethernet address.
type MAC [6]byte

// String returns the usual form, 02:00:00:00:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText and UnmarshalText give the usual form to JSON.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads six hexadecimal bytes.
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := net.ParseMAC(string(b))
	if err != nil || len(v) != len(m) {
		return fmt.Errorf("MAC %q: want six hexadecimal bytes", b)
	}
	*m = MAC(v)
	return nil
}

// LinkLocal returns the IPv6 link-local address that follows from the MAC by EUI-64
// (RFC 4291 appendix A), as the kernel makes it on an attachment's interface.
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}

// Link is an interface.
type Link struct {
	Index  int
	Name   string
	Kind   string // "bridge", "veth", "tun", ...; empty for hardware
	Master int    // index of its bridge, 0 for none
	MTU    int
	MAC    MAC
	Up     bool
	Peer   int // of a veth: index of the other end, in the namespace where that is
	// Snooping says, of a bridge, whether it still snoops: the kernel switches
	// it off, for good, when the bridge's group table is full.
	Snooping bool
}

// Bridge describes a network's bridge.
type Bridge struct {
	Name string
	MTU  int
	MAC  MAC // fixed: a bridge without one takes the lowest of its ports, and changes
}

// PortKind selects the settings of a bridge port.
type PortKind int

// The two kinds of ports.
const (
	Uplink         PortKind = iota // to the other hosts
	AttachmentPort                 // the host end of an attachment's veth
)

// Veth describes a pair. The kernel makes both ends in one step: there never is a pair
// whose inner end is still to be moved.
type Veth struct {
	Name  string          // the host end, in the handle's namespace
	Inner string          // the name of the inner end
	NS    netns.Namespace // where the inner end is made; nil: the handle's own
	MAC   MAC             // of the inner end
	MTU   int
	// Super bounds the inner end's super-frames as Interface.Super does; only when NS is nil.
	Super int
}

// Interface is what an inner end gets.
type Interface struct {
	Addrs []netip.Prefix
	// MulticastRoute sends 224.0.0.0/4 and ff00::/8 out of this interface. A route for
	// 224.0.0.0/4 that is there already stays.
	MulticastRoute bool
	// Super is the length in bytes of the longest super-frame it makes (TCP or UDP data of many packets behind one header);
	// 0: as the kernel has it. Longer ones that a program makes are cut before they leave.
	Super int
}

// Route is a destination the host reaches, from any of its tables but the local one.
type Route struct {
	Dst  netip.Prefix
	Link int // index; 0 for a route without an interface
}

// Interfaces makes, lists and removes links, addresses and routes.
type Interfaces interface {
	// Links lists all interfaces of the namespace.
	Links() ([]Link, error)
	// AddVeth makes a pair, both ends down, IPv6 silenced on the host end. ErrExists when
	// either name is taken.
	AddVeth(Veth) (Link, error)
	// Configure gives an interface of this namespace its addresses, brings it and lo up and adds
	// its routes; IPv6 is ready at once (no duplicate address detection). The link-local
	// address follows from the MAC. The other end of a veth must be up already.
	Configure(name string, i Interface) error
	// Reach adds routes to further subnets on the link of an interface of this namespace; those that are there stay.
	Reach(name string, subnets []netip.Prefix) error
	// Up brings a link up. ErrPortTaken for a VXLAN device whose port another program has.
	Up(index int) error
	// AwaitRunning waits until a link that is up carries frames: the kernel gets there some
	// milliseconds later, on its own time, and drops frames until then. An error after RunningTime.
	AwaitRunning(index int) error
	// SetMTU sets a link's MTU in bytes.
	SetMTU(index, mtu int) error
	// Delete removes an interface; one that has gone already is no error.
	Delete(name string) error
	// Routes lists the namespace's routes, without the local table, default, multicast and
	// IPv6 link-local routes.
	Routes() ([]Route, error)
	// Watch tells of changes; see Watcher.
	Watch() (Watcher, error)
}

// Bridges makes bridges and sets what they forward by.
type Bridges interface {
	// EnsureBridge makes a bridge, or sets right one that exists, and returns it up, snooping
	// and querying in both families. It selects by membership about 1.2 s later; until then it floods.
	EnsureBridge(Bridge) (Link, error)
	// SetPort makes a link a port of a bridge with all settings of its kind, and brings it up.
	SetPort(bridge, port int, kind PortKind) error
	// RestartSnooping switches snooping on again after the kernel has switched it off.
	RestartSnooping(bridge int) error
	// FDB lists the static entries of a bridge's ports; SetFDB and DeleteFDB change one. An
	// entry that is not there is no error for DeleteFDB.
	FDB(bridge int) ([]FDBEntry, error)
	SetFDB(FDBEntry) error
	DeleteFDB(FDBEntry) error
	// Neighbours lists the permanent neighbours of a link: what a bridge answers ARP and ND
	// from. SetNeighbour and DeleteNeighbour change one.
	Neighbours(link int) ([]Neighbour, error)
	SetNeighbour(link int, n Neighbour) error
	DeleteNeighbour(link int, n Neighbour) error
}

// Groups reads and writes the MDB.
type Groups interface {
	// MDB lists the (*,G) entries of all bridges of the namespace.
	MDB() ([]MDBEntry, error)
	// SetGroup makes or replaces the permanent (*,G) entry of a port. At most MaxSources sources.
	SetGroup(MDBEntry) error
	// DeleteGroup removes the (*,G) entry of a port; none there is no error.
	DeleteGroup(MDBEntry) error
}

// Handle works in one network namespace, whatever namespace its caller runs in. Its methods
// may be called from any goroutine; they block for one exchange with the kernel each.
type Handle interface {
	Interfaces
	Bridges
	Groups
	Tunnels
	// Close ends the handle, not its watchers.
	Close() error
}

// System opens handles. OS returns the kernel, package nltest a fake.
type System interface {
	Open(netns.Namespace) (Handle, error)
}

// FDBEntry sends frames for a MAC to a port.
type FDBEntry struct {
	Port int
	MAC  MAC
}

// Neighbour binds an address to a MAC.
type Neighbour struct {
	IP  netip.Addr
	MAC MAC
}

// Event says what may have changed. Events are hints: read the state again.
type Event uint32

// Bits of an Event. Notifications that the kernel dropped set both.
const (
	LinksChanged Event = 1 << iota
	GroupsChanged
)

// Watcher tells of changes of links and of memberships (not of permanent entries, which are our
// own). Events that nobody took yet are merged, so a watcher holds no queue.
type Watcher interface {
	// Ready gets a value when Take has something.
	Ready() <-chan struct{}
	// Take returns the changes since the last Take.
	Take() Event
	// Close ends the watch.
	Close() error
}
