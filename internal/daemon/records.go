package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
)

// Keys of the daemon's own entries in the state tables. Other packages own others: host, admit/,
// bar/ and token (mesh), ring/, sub/ and ip/ (ipam), name/, svc/ and also/ (names).
const (
	keyCluster = "cluster" // scope 0: clusterRecord, by the founder
	keyNetwork = "net/"    // scope 0, + name: networkRecord, by each host that has the network
	keyAttach  = "att/"    // scope VNI, + name: attachRecord
	keyMember  = "mem/"    // scope VNI, + group: memberRecord
	keyVTEP    = "vtep"    // scope VNI: vtepRecord, by each host that has a plain network
	keyBus     = "bus"     // scope 0: busRecord, by each host that is on the cluster's own bus
	keyStay    = "stay"    // scope 0: nothing, by each host that stays on the cluster's own bus, for programs
	keyBare    = "bare/"   // scope 0, + name: bareRecord, by each host that has the bare bus
	keySwarm   = "swarm/"  // scope 0, + name: swarmRecord, by each host that made or removed the Swarm's network
	keyNode    = "node"    // scope 0: nodeRecord, by each host whose Docker follows these
	// keyLease and keyVote: see ephemeral.go.
	keyHear = "hear" // scope 0: whose native multicast the writer hears, see encodeHeard
)

// clusterRecord is what holds for the whole cluster, set at founding.
type clusterRecord struct {
	Range netip.Prefix `cbor:"1,keyasint"` // IPv4 addresses of all default subnets
	ULA   netip.Prefix `cbor:"2,keyasint"` // IPv6 /48
	MTU   int          `cbor:"3,keyasint"` // of attachments

	Groups      []netip.Addr `cbor:"4,keyasint,omitempty"` // of the underlay; none: they follow from the cluster's id
	NoMulticast bool         `cbor:"5,keyasint,omitempty"`
	TTL         int          `cbor:"6,keyasint,omitempty"` // of multicast on the underlay; 0: 1

	Domain string `cbor:"7,keyasint,omitempty"` // of names; "": defaultDomain
}

// networkRecord is one host's copy of a network's definition.
type networkRecord struct {
	VNI      uint32         `cbor:"1,keyasint"`
	Subnet   netip.Prefix   `cbor:"2,keyasint"` // IPv4
	Subnet6  netip.Prefix   `cbor:"3,keyasint"`
	Creator  ident.HostID   `cbor:"4,keyasint"` // owns the subnet at first
	Explicit bool           `cbor:"5,keyasint,omitempty"`
	Plain    bool           `cbor:"6,keyasint,omitempty"`
	Allow    []netip.Prefix `cbor:"7,keyasint,omitempty"`
	Deny     []netip.Prefix `cbor:"8,keyasint,omitempty"`
	Rate     int            `cbor:"9,keyasint,omitempty"`
	// Underlay6: the hosts of a plain network send from IPv6 addresses. A VXLAN device has one family.
	Underlay6 bool `cbor:"10,keyasint,omitempty"`
	// More are further subnets, of all copies that its writer has seen: so none is lost with the host that added it.
	More []subnetPair `cbor:"11,keyasint,omitempty"`
}

// subnetPair is a subnet in both families.
type subnetPair struct {
	IP4 netip.Prefix `cbor:"1,keyasint"`
	IP6 netip.Prefix `cbor:"2,keyasint"`
}

// vtepRecord is where a host sends a plain network's packets from and takes them at.
type vtepRecord struct {
	Addr netip.Addr `cbor:"1,keyasint"`
}

// attachRecord is an attachment as other hosts see it.
type attachRecord struct {
	MAC  [6]byte        `cbor:"1,keyasint"`
	IPs  []netip.Prefix `cbor:"2,keyasint"`
	Kind string         `cbor:"3,keyasint,omitempty"`
}

// memberRecord names the members of a group on one host by attachment.
type memberRecord map[string]wish

// wish is what a member wants of a group (RFC 3376 section 3): all sources but these, or these only.
type wish struct {
	Exclude bool         `cbor:"1,keyasint,omitempty"`
	Sources []netip.Addr `cbor:"2,keyasint,omitempty"`
}

// Bounds of what a record may hold.
const (
	maxRecord  = 16 << 10
	maxMembers = 1024
	maxSources = 64
	maxIPs     = 8
	maxPolicy  = 256
)

var (
	encMode = record.Encoding()
	decMode = record.Decoding(record.Bounds{Elements: maxMembers, Pairs: maxMembers, Depth: 4})
)

func encode(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("daemon: encode %T: %v", v, err)) // our own types
	}
	return b
}

func decode(what string, b []byte, v any) error {
	if len(b) > maxRecord {
		return fmt.Errorf("%s: %d bytes", what, len(b))
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func decodeCluster(b []byte) (clusterRecord, error) {
	var r clusterRecord
	if err := decode("cluster record", b, &r); err != nil {
		return r, err
	}
	for _, g := range r.Groups {
		if err := config.CheckGroup(g); err != nil {
			return clusterRecord{}, fmt.Errorf("cluster record: %w", err)
		}
	}
	if r.Domain != "" {
		if err := ident.CheckDomain(r.Domain); err != nil {
			return clusterRecord{}, fmt.Errorf("cluster record: %w", err)
		}
	}
	if len(r.Groups) > 2 || r.TTL < 0 || r.TTL > 255 {
		return clusterRecord{}, fmt.Errorf("cluster record: groups %v, TTL %d", r.Groups, r.TTL)
	}
	if !r.Range.IsValid() || !r.Range.Addr().Is4() || !r.ULA.IsValid() || r.ULA.Bits() != 48 || r.MTU < 576 || r.MTU > 9000 {
		return clusterRecord{}, fmt.Errorf("cluster record: range %v, ULA %v, MTU %d", r.Range, r.ULA, r.MTU)
	}
	return r, nil
}

func decodeNetwork(key string, b []byte) (name string, r networkRecord, err error) {
	name = strings.TrimPrefix(key, keyNetwork)
	if err := ident.CheckName("network", name); err != nil {
		return "", r, err
	}
	if err := decode("network record", b, &r); err != nil {
		return "", r, err
	}
	if r.VNI == 0 || r.VNI >= 1<<24 || !r.Subnet.IsValid() || !r.Subnet.Addr().Is4() || r.Subnet.Bits() > 30 ||
		(r.Subnet6.IsValid() && !r.Subnet6.Addr().Is6()) || len(r.More) >= maxSubnets || slices.ContainsFunc(r.More, subnetPair.bad) || len(r.Allow) > maxPolicy || len(r.Deny) > maxPolicy {
		return "", networkRecord{}, fmt.Errorf("network record of %s: VNI %d, subnets %v %v", name, r.VNI, r.Subnet, r.Subnet6)
	}
	return name, r, nil
}

func (p subnetPair) bad() bool {
	return !p.IP4.IsValid() || !p.IP4.Addr().Is4() || p.IP4.Bits() > 30 || p.IP6.IsValid() && !p.IP6.Addr().Is6()
}

func decodeAttachment(key string, b []byte) (name string, r attachRecord, err error) {
	name = strings.TrimPrefix(key, keyAttach)
	if err := ident.CheckName("attachment", name); err != nil {
		return "", r, err
	}
	if err := decode("attachment record", b, &r); err != nil {
		return "", r, err
	}
	if r.MAC[0]&1 != 0 || r.MAC == [6]byte{} || len(r.IPs) > maxIPs {
		return "", attachRecord{}, fmt.Errorf("attachment record of %s: MAC %x, %d addresses", name, r.MAC, len(r.IPs))
	}
	for _, p := range r.IPs {
		if a := p.Addr(); !a.IsValid() || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() {
			return "", attachRecord{}, fmt.Errorf("attachment record of %s: address %v", name, p)
		}
	}
	return name, r, nil
}

func decodeVTEP(key string, b []byte) (netip.Addr, error) {
	var r vtepRecord
	if err := decode("vtep record", b, &r); err != nil {
		return netip.Addr{}, err
	}
	if a := r.Addr; key != keyVTEP || !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("vtep record %s: address %v", key, a)
	}
	return r.Addr, nil
}

func decodeMembers(key string, b []byte) (group netip.Addr, r memberRecord, err error) {
	group, err = netip.ParseAddr(strings.TrimPrefix(key, keyMember))
	if err != nil || !group.IsMulticast() || group.Zone() != "" {
		return netip.Addr{}, nil, fmt.Errorf("member record: %q is no group", key)
	}
	if err := decode("member record", b, &r); err != nil {
		return netip.Addr{}, nil, err
	}
	for name, w := range r {
		if ident.CheckName("attachment", name) != nil || len(w.Sources) > maxSources {
			return netip.Addr{}, nil, fmt.Errorf("member record of %v: bad member", group)
		}
		for _, s := range w.Sources {
			if !s.IsValid() || s.IsMulticast() || s.Is4() != group.Is4() {
				return netip.Addr{}, nil, fmt.Errorf("member record of %v: source %v", group, s)
			}
		}
	}
	return group, r, nil
}
