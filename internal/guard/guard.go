// Package guard keeps the host's packet filter so that attachments can only be themselves.
//
// Rules turns a Desired state into a Ruleset, a plain value that prints as nft text; Guard
// installs it over netlink in one transaction, keeps it in place and reads the counters. Only the
// tables `bridge weft` and `inet weft` are ours, and one accept rule that lets bridged frames pass a FORWARD chain
// with policy drop (Docker's).
//
// What an attachment may send: Ethernet frames of type IPv4, IPv6 and ARP, from its MAC and its
// addresses; no router advertisements and redirects, DHCP answers, IGMP and MLD queries; broadcasts at a bounded
// rate. What it may not reach: the host. (The name service is not there: it is behind a port of the bridge, as attachments are.)
package guard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Interface name prefixes of weft (docs: names of devices). Ports and bridges are recognised by them, so that a
// frame which arrives before its port is in the sets is dropped, not let through.
const (
	PortPrefix   = "wv"   // host ends of attachments
	BridgePrefix = "wb"   // bridges
	ExposePrefix = "weft" // the host's own attachments
	VXLANPrefix  = "wx"   // uplinks of plain networks
)

// Bounds of the tables in the kernel.
const (
	MaxPorts     = 1 << 14 // attachments of one host
	MaxAddrs     = 1 << 17 // addresses of all attachments of one host, per family
	MaxPortAddrs = 64      // addresses of one attachment
	MaxNetworks  = 1 << 12
	MaxGroups    = 256     // allow and deny entries of one network
	MaxVTEPs     = 1 << 16 // of other hosts, in all plain networks
)

// DefaultRate is the number of frames per second that one attachment may send to everybody: broadcasts, 224.0.0.0/24 and ff02::1.
const DefaultRate = 1000

// Desired is what the filter has to hold for. The zero value guards the host and lets no attachment send.
type Desired struct {
	Ports    []Port
	Networks []Network
	// ControlPort is weft's own UDP and TCP port, closed for attachments on every way in.
	ControlPort uint16
	// VXLANPort is the UDP port of plain networks; it matters only when there is one.
	VXLANPort uint16
}

// Port is an attachment's bridge port.
type Port struct {
	Name   string // of the host end, begins with PortPrefix
	Bridge string // it is a port of, for the network's policy
	MAC    [6]byte
	// IPs are the addresses it may send from. The link-local address that follows from the MAC (EUI-64) is always allowed.
	IPs []netip.Addr
}

// Network is a bridge and the policy of its network.
type Network struct {
	Bridge string // begins with BridgePrefix
	Uplink string // the port to other hosts, empty when there is none yet
	// Rate overrides DefaultRate when not 0.
	Rate uint32
	// GroupRate bounds all multicast frames of one attachment, per second; 0 is unbounded.
	GroupRate uint32
	// AllowGroups, if any, are the only groups attachments may send to; DenyGroups are none of them. Deny wins.
	// What IP itself needs (ARP, neighbour discovery, IGMP and MLD reports) is in neither.
	AllowGroups, DenyGroups []netip.Prefix
	// VNI is the number of a plain network, 0 for a sealed one: VXLAN packets with it are taken from VTEPs only. Those of
	// other programs on the same port, with other numbers, are none of our business.
	VNI   uint32
	VTEPs []netip.Addr
}

// Counter is what a named drop has counted since Open.
type Counter struct{ Packets, Bytes uint64 }

// Filter is the seam: what services and the daemon use. Guard is the kernel's, guardtest has a fake.
type Filter interface {
	// Apply makes the kernel hold d. Differences in ports and uplinks alone become set elements, in a few milliseconds.
	Apply(d Desired) error
	// AddPort adds or replaces one port of the last Apply; RemovePort takes one away, if it is there.
	AddPort(p Port) error
	RemovePort(name string) error
	// Counters returns all named drops, those at zero too.
	Counters() (map[string]Counter, error)
	// Keep restores what others take away until ctx ends; onRestore (may be nil) is told why.
	Keep(ctx context.Context, onRestore func(reason string)) error
	// Remove takes everything away that any run of weft has put into this network namespace.
	Remove() error
}

// ErrUnsupported is returned where the system has no nftables.
var ErrUnsupported = errors.New("guard: needs Linux with nftables")

// hasPolicy reports whether rules of the network's own are needed.
func (n *Network) hasPolicy() bool {
	return n.Rate > 0 || n.GroupRate > 0 || len(n.AllowGroups) > 0 || len(n.DenyGroups) > 0
}

// check refuses what would not fit into the kernel's tables, or what would match nothing.
func (d *Desired) check() error {
	if len(d.Ports) > MaxPorts {
		return fmt.Errorf("guard: %d ports, at most %d", len(d.Ports), MaxPorts)
	}
	if len(d.Networks) > MaxNetworks {
		return fmt.Errorf("guard: %d networks, at most %d", len(d.Networks), MaxNetworks)
	}
	vteps := 0
	for _, n := range d.Networks {
		if n.VNI >= 1<<24 || n.VNI != 0 && d.VXLANPort == 0 {
			return fmt.Errorf("guard: bridge %s: VNI %d at UDP port %d", n.Bridge, n.VNI, d.VXLANPort)
		}
		vteps += len(n.VTEPs)
	}
	if vteps > MaxVTEPs {
		return fmt.Errorf("guard: %d VTEPs, at most %d", vteps, MaxVTEPs)
	}
	seen := make(map[string]bool, len(d.Ports))
	for i := range d.Ports {
		if err := d.Ports[i].check(); err != nil {
			return err
		}
		if seen[d.Ports[i].Name] {
			return fmt.Errorf("guard: port %s twice", d.Ports[i].Name)
		}
		seen[d.Ports[i].Name] = true
	}
	for _, n := range d.Networks {
		if err := checkName(n.Bridge, BridgePrefix); err != nil {
			return err
		}
		if seen[n.Bridge] {
			return fmt.Errorf("guard: bridge %s twice", n.Bridge)
		}
		seen[n.Bridge] = true
		if len(n.Uplink) > maxName {
			return fmt.Errorf("guard: uplink %q: longer than %d", n.Uplink, maxName)
		}
		if len(n.AllowGroups)+len(n.DenyGroups) > MaxGroups {
			return fmt.Errorf("guard: bridge %s: more than %d groups in its policy", n.Bridge, MaxGroups)
		}
		for _, g := range append(append([]netip.Prefix(nil), n.AllowGroups...), n.DenyGroups...) {
			if !g.IsValid() || !g.Addr().IsMulticast() {
				return fmt.Errorf("guard: bridge %s: %v is not a range of groups", n.Bridge, g)
			}
		}
	}
	return nil
}

func (p *Port) check() error {
	if err := checkName(p.Name, PortPrefix); err != nil {
		return err
	}
	if err := checkName(p.Bridge, BridgePrefix); err != nil {
		return fmt.Errorf("port %s: %w", p.Name, err)
	}
	if p.MAC[0]&1 != 0 || p.MAC == [6]byte{} {
		return fmt.Errorf("guard: port %s: %x is not the MAC of a station", p.Name, p.MAC)
	}
	if len(p.IPs) > MaxPortAddrs {
		return fmt.Errorf("guard: port %s: %d addresses, at most %d", p.Name, len(p.IPs), MaxPortAddrs)
	}
	for _, ip := range p.IPs {
		if !ip.IsValid() || ip.IsMulticast() || ip.IsUnspecified() || ip.IsLoopback() {
			return fmt.Errorf("guard: port %s: %v is not an address to send from", p.Name, ip)
		}
	}
	return nil
}

// maxName is IFNAMSIZ without the final zero byte.
const maxName = 15

func checkName(name, prefix string) error {
	if len(name) <= len(prefix) || len(name) > maxName || name[:len(prefix)] != prefix {
		return fmt.Errorf("guard: interface %q: want %s… of at most %d bytes", name, prefix, maxName)
	}
	return nil
}

// linkLocal is fe80:: with the modified EUI-64 identifier of a MAC (RFC 4291 appendix A).
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}
