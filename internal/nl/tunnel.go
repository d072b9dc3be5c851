package nl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// VXLAN describes the uplink of a plain network: frames in UDP packets, unencrypted (RFC 7348).
type VXLAN struct {
	Name  string
	VNI   uint32
	Port  uint16     // UDP, of this host and of all others
	Local netip.Addr // the address it sends from; its family is the device's
	MTU   int
}

// TunnelEntry sends frames for a MAC to a VTEP. The zero MAC stands for all that has no entry
// of its own: broadcast, 224.0.0.0/24 and ff02::1, and groups without a TunnelGroup. It has any number of VTEPs, others one.
type TunnelEntry struct {
	Link int // index of the VXLAN device
	MAC  MAC
	VTEP netip.Addr
}

// TunnelGroup sends a copy of each packet to a group to a VTEP. With a Source it is for packets of that source
// only, which then find no entry without: whoever wants all sources must be in the entries of each.
type TunnelGroup struct {
	Link   int // index of the VXLAN device
	Group  netip.Addr
	Source netip.Addr // not valid: all sources that have no entry of their own
	VTEP   netip.Addr
}

// Tunnels makes VXLAN devices and sets whom they send to.
type Tunnels interface {
	// EnsureVXLAN makes a VXLAN device that learns nothing, down, or takes over one that is there; one that is
	// different is replaced. Bringing it up takes the UDP port: ErrPortTaken.
	EnsureVXLAN(VXLAN) (Link, error)
	// TunnelEntries lists a device's entries. Setting one that is there, or deleting one that is not, is no error.
	TunnelEntries(link int) ([]TunnelEntry, error)
	SetTunnelEntry(TunnelEntry) error
	DeleteTunnelEntry(TunnelEntry) error
	// TunnelGroups lists a device's MDB; needs Linux 6.4. The rest is as for entries.
	TunnelGroups(link int) ([]TunnelGroup, error)
	SetTunnelGroup(TunnelGroup) error
	DeleteTunnelGroup(TunnelGroup) error
}

// Attributes of a VXLAN device's MDB (linux/if_bridge.h): dumped as MDBA_MDB_EATTR_…, set as MDBE_ATTR_….
const (
	eattrDst = 6

	mdbeSource = 1
	mdbeDst    = 5
)

// parseTunnelGroups appends the entries of one RTM_GETMDB message that belong to a VXLAN device, one for each VTEP.
func parseTunnelGroups(entries []TunnelGroup, b []byte, link int) ([]TunnelGroup, error) {
	err := walkMDB(b, func(device int, info []byte) error {
		if device != link {
			return nil
		}
		e, ok, err := parseTunnelGroup(info)
		if err == nil && ok {
			e.Link = link
			entries = append(entries, e)
		}
		return err
	})
	return entries, err
}

func parseTunnelGroup(b []byte) (e TunnelGroup, ok bool, err error) {
	if e.Group, ok = groupOf(b); !ok {
		return e, false, nil
	}
	err = attributes(b[brMDBEntryLen:], func(typ uint16, data []byte) error {
		if typ != eattrSource && typ != eattrDst {
			return nil
		}
		addr, ok := netip.AddrFromSlice(data)
		if !ok {
			return fmt.Errorf("%w: address of %d bytes", errMDB, len(data))
		}
		if typ == eattrSource {
			e.Source = addr
		} else {
			e.VTEP = addr
		}
		return nil
	})
	return e, err == nil && e.VTEP.IsValid(), err
}

// appendTunnelGroup appends the body of an RTM_NEWMDB or RTM_DELMDB request for a VXLAN device.
func appendTunnelGroup(b []byte, e TunnelGroup) ([]byte, error) {
	if !e.Group.IsMulticast() || !e.VTEP.IsValid() {
		return nil, fmt.Errorf("vxlan mdb entry for %s at %s: want a group and a VTEP", e.Group, e.VTEP)
	}
	b = append(b, afBridge, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(e.Link))
	entry := make([]byte, brMDBEntryLen)
	binary.NativeEndian.PutUint32(entry, uint32(e.Link)) // the kernel wants the device itself as the port
	entry[4] = mdbPermanent
	copy(entry[8:24], e.Group.AsSlice())
	proto := uint16(protoIPv6)
	if e.Group.Is4() {
		proto = protoIPv4
	}
	binary.BigEndian.PutUint16(entry[24:], proto)
	b = appendAttr(b, mdbaSetEntry, entry)
	var attrs []byte
	if e.Source.IsValid() {
		if e.Source.Is4() != e.Group.Is4() {
			return nil, fmt.Errorf("vxlan mdb entry for %s: source %s is of the other family", e.Group, e.Source)
		}
		attrs = appendAttr(attrs, mdbeSource, e.Source.AsSlice())
	}
	attrs = appendAttr(attrs, mdbeDst, e.VTEP.AsSlice())
	return appendAttr(b, mdbaSetEntryAttrs|nlaNested, attrs), nil
}
