package nl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// MaxSources is how many sources the kernel takes for one group of one port
// (PG_SRC_ENT_LIMIT in net/bridge/br_private.h).
const MaxSources = 32

// MDBEntry is a (*,G) entry: a port wants a group, from any source or from some.
type MDBEntry struct {
	Bridge int // index
	Port   int // index; the bridge's own when the host itself is a member
	Group  netip.Addr
	// Exclude: Sources are those not wanted (none: any source is). Else only Sources are
	// wanted (RFC 3376 section 3.1, filter modes).
	Exclude   bool
	Sources   []netip.Addr // sorted
	Permanent bool         // set by a program; else learned from reports
}

// Equal compares what the port wants, not where the entry is.
func (e MDBEntry) Equal(o MDBEntry) bool {
	return e.Group == o.Group && e.Exclude == o.Exclude && slices.Equal(e.Sources, o.Sources)
}

// The kernel's layout (linux/if_bridge.h):
//
//	br_port_msg   family 1 | pad 3 | bridge ifindex 4
//	br_mdb_entry  port ifindex 4 | state 1 | flags 1 | vid 2 | address 16 | protocol 2, big-endian | pad 2
//
//	dump    MDBA_MDB { MDBA_MDB_ENTRY { MDBA_MDB_ENTRY_INFO: br_mdb_entry, attributes } }
//	set     MDBA_SET_ENTRY: br_mdb_entry, MDBA_SET_ENTRY_ATTRS { attributes }
const (
	brPortMsgLen  = 8
	brMDBEntryLen = 28

	afBridge = 7 // AF_BRIDGE

	mdbaMDB          = 1
	mdbaMDBEntry     = 1
	mdbaMDBEntryInfo = 1

	mdbaSetEntry      = 1
	mdbaSetEntryAttrs = 2

	// Attributes of a dumped entry.
	eattrSrcList   = 2
	eattrGroupMode = 3
	eattrSource    = 4
	srcListEntry   = 1
	srcAttrAddress = 1
	srcAttrTimer   = 2

	// Attributes of an entry to be set.
	mdbeSrcList       = 2
	mdbeGroupMode     = 3
	mdbeSrcListEntry  = 1
	mdbeSrcentAddress = 1

	mdbPermanent = 1

	modeExclude = 0
	modeInclude = 1

	protoIPv4 = 0x0800
	protoIPv6 = 0x86dd

	nlaTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	nlaNested   = 0x8000
)

var errMDB = errors.New("mdb message")

// attributes calls f for each netlink attribute in b; a broken length ends it with an error.
func attributes(b []byte, f func(typ uint16, data []byte) error) error {
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		typ := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
		if size < 4 || size > len(b) {
			return fmt.Errorf("%w: attribute %d of %d bytes, %d left", errMDB, typ, size, len(b))
		}
		if err := f(typ, b[4:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// appendAttr appends an attribute with padding.
func appendAttr(b []byte, typ uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// parseMDB appends the (*,G) entries of one RTM_GETMDB, RTM_NEWMDB or RTM_DELMDB
// message (without its netlink header). (S,G) entries are left out: the (*,G) entry of
// the same port has the source list, while (S,G) entries also stand for ports that
// only the kernel put there (MDB_PG_FLAGS_STAR_EXCL). Layer 2 groups are left out too.
func parseMDB(entries []MDBEntry, b []byte) ([]MDBEntry, error) {
	err := walkMDB(b, func(bridge int, info []byte) error {
		e, ok, err := parseMDBEntry(info)
		if err == nil && ok {
			e.Bridge = bridge
			entries = append(entries, e)
		}
		return err
	})
	return entries, err
}

// walkMDB calls fn with the device and each struct br_mdb_entry, its attributes behind it, of one message.
func walkMDB(b []byte, fn func(device int, info []byte) error) error {
	if len(b) < brPortMsgLen {
		return fmt.Errorf("%w: %d bytes", errMDB, len(b))
	}
	device := int(int32(binary.NativeEndian.Uint32(b[4:])))
	level := func(want uint16, next func([]byte) error) func(uint16, []byte) error {
		return func(typ uint16, data []byte) error {
			if typ != want {
				return nil
			}
			return next(data)
		}
	}
	info := level(mdbaMDBEntryInfo, func(info []byte) error {
		if len(info) < brMDBEntryLen {
			return fmt.Errorf("%w: entry of %d bytes", errMDB, len(info))
		}
		return fn(device, info)
	})
	entry := level(mdbaMDBEntry, func(group []byte) error { return attributes(group, info) })
	mdb := level(mdbaMDB, func(mdb []byte) error { return attributes(mdb, entry) })
	return attributes(b[brPortMsgLen:], mdb)
}

// groupOf reads the group of a struct br_mdb_entry; ok is false for one of layer 2.
func groupOf(info []byte) (group netip.Addr, ok bool) {
	switch binary.BigEndian.Uint16(info[24:]) {
	case protoIPv4:
		return netip.AddrFrom4([4]byte(info[8:])), true
	case protoIPv6:
		return netip.AddrFrom16([16]byte(info[8:])), true
	}
	return netip.Addr{}, false
}

func parseMDBEntry(b []byte) (e MDBEntry, ok bool, err error) {
	e.Port = int(int32(binary.NativeEndian.Uint32(b)))
	e.Permanent = b[4]&mdbPermanent != 0
	if e.Group, ok = groupOf(b); !ok {
		return e, false, nil
	}
	e.Exclude = true // IGMPv2 and MLDv1 members have no mode: any source
	var running, expired []netip.Addr
	err = attributes(b[brMDBEntryLen:], func(typ uint16, data []byte) error {
		switch typ {
		case eattrSource:
			ok = false
		case eattrGroupMode:
			if len(data) < 1 {
				return fmt.Errorf("%w: empty mode", errMDB)
			}
			e.Exclude = data[0] == modeExclude
		case eattrSrcList:
			return attributes(data, func(typ uint16, src []byte) error {
				if typ != srcListEntry {
					return nil
				}
				addr, left, err := parseSource(src)
				if err != nil {
					return err
				}
				if left == 0 && !e.Permanent {
					expired = append(expired, addr)
				} else {
					running = append(running, addr)
				}
				return nil
			})
		}
		return nil
	})
	if err != nil || !ok {
		return e, false, err
	}
	// RFC 3376 section 6.2.3: under EXCLUDE a source whose timer runs is still wanted, one
	// whose timer has ended is not; under INCLUDE only those whose timer runs are wanted.
	e.Sources = running
	if e.Exclude && !e.Permanent {
		e.Sources = expired
	}
	slices.SortFunc(e.Sources, netip.Addr.Compare)
	return e, true, nil
}

// parseSource reads one source and the time it has left, in hundredths of a second.
func parseSource(b []byte) (addr netip.Addr, left uint32, err error) {
	err = attributes(b, func(typ uint16, data []byte) error {
		switch typ {
		case srcAttrAddress:
			var ok bool
			if addr, ok = netip.AddrFromSlice(data); !ok {
				return fmt.Errorf("%w: source address of %d bytes", errMDB, len(data))
			}
		case srcAttrTimer:
			if len(data) < 4 {
				return fmt.Errorf("%w: timer of %d bytes", errMDB, len(data))
			}
			left = binary.NativeEndian.Uint32(data)
		}
		return nil
	})
	if err == nil && !addr.IsValid() {
		err = fmt.Errorf("%w: source without address", errMDB)
	}
	return addr, left, err
}

// appendSetMDB appends the body of an RTM_NEWMDB or RTM_DELMDB request for one permanent
// (*,G) entry. It is always (*,G), with mode and source list: a bare (S,G) entry on the uplink
// takes the frames of S away from local members of (*,G).
func appendSetMDB(b []byte, e MDBEntry, withMode bool) ([]byte, error) {
	if !e.Group.IsMulticast() {
		return nil, fmt.Errorf("mdb entry for %s: not a group", e.Group)
	}
	if len(e.Sources) > MaxSources {
		return nil, fmt.Errorf("mdb entry for %s: %d sources, the kernel takes %d", e.Group, len(e.Sources), MaxSources)
	}
	b = append(b, afBridge, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(e.Bridge))

	entry := make([]byte, brMDBEntryLen)
	binary.NativeEndian.PutUint32(entry, uint32(e.Port))
	entry[4] = mdbPermanent
	copy(entry[8:24], e.Group.AsSlice())
	proto := uint16(protoIPv6)
	if e.Group.Is4() {
		proto = protoIPv4
	}
	binary.BigEndian.PutUint16(entry[24:], proto)
	b = appendAttr(b, mdbaSetEntry, entry)
	if !withMode {
		return b, nil
	}
	mode := byte(modeInclude)
	if e.Exclude {
		mode = modeExclude
	}
	attrs := appendAttr(nil, mdbeGroupMode, []byte{mode})
	if len(e.Sources) > 0 {
		var list []byte
		for _, src := range e.Sources {
			if src.Is4() != e.Group.Is4() {
				return nil, fmt.Errorf("mdb entry for %s: source %s is of the other family", e.Group, src)
			}
			list = appendAttr(list, mdbeSrcListEntry|nlaNested, appendAttr(nil, mdbeSrcentAddress, src.AsSlice()))
		}
		attrs = appendAttr(attrs, mdbeSrcList|nlaNested, list)
	}
	return appendAttr(b, mdbaSetEntryAttrs|nlaNested, attrs), nil
}

// learned reports whether a notification is about something that a program did not set
// itself: only those say anything new.
func learned(b []byte) bool {
	if len(b) < brPortMsgLen {
		return true
	}
	found, all := false, true
	err := attributes(b[brPortMsgLen:], func(typ uint16, mdb []byte) error {
		if typ != mdbaMDB {
			return nil
		}
		return attributes(mdb, func(_ uint16, group []byte) error {
			return attributes(group, func(typ uint16, info []byte) error {
				if typ == mdbaMDBEntryInfo && len(info) >= brMDBEntryLen {
					found = true
					all = all && info[4]&mdbPermanent != 0
				}
				return nil
			})
		})
	})
	return err != nil || !found || !all
}
