// Package wire draws weft's underlay packets: type bytes, headers, kinds and limits.
//
// Every UDP datagram begins with a type byte. All integers are big-endian.
//
//	hello    first message of a handshake           package handshake
//	reply    its answer                             package handshake
//	finish   third message (first contact only)     package handshake
//	cookie   "prove your address", under flood      package handshake
//	refuse   "no, and why", to holders of the key   package handshake
//
//	link     one host to one host, sealed under the session of the two
//
//	         0      1          4              8             16
//	         +------+----------+--------------+-------------+----------------------+-------+
//	         | type | reserved | index (recv) | counter     | sealed: kind + body  | tag16 |
//	         +------+----------+--------------+-------------+----------------------+-------+
//
//	group    one host to many, sealed once under the sender key of a network. The label names the
//	         receivers and their ways, 0 where each gets a copy of its own (package tree)
//
//	         0      1          4              12            20
//	         +------+----------+--------------+-------------+----------------------+-------+
//	         | type | label    | key id       | counter     | sealed: kind + body  | tag16 |
//	         +------+----------+--------------+-------------+----------------------+-------+
//
//	relay    an envelope: the MAC (AES-GCM over the header, nothing encrypted) is under the
//	         session of this hop; the inner packet is sealed end to end and not opened
//
//	         0      1      2          4              8             16           32           48      64
//	         +------+------+----------+--------------+-------------+------------+------------+-------+--------------+
//	         | type | hops | reserved | index (recv) | counter     | src HostID | dst HostID | tag16 | inner packet |
//	         +------+------+----------+--------------+-------------+------------+------------+-------+--------------+
//
// hops is in the MAC of its hop and is written anew, one less, by each relay. In place of dst may stand the id of
// a distribution tree (package tree): whoever gets it passes copies of the inner packet on to its children.
//
// Every TCP connection begins with StreamMagic and a handshake message; see package stream.
package wire

import "encoding/binary"

// Version is the wire's major version, carried in every hello. Hosts of different versions do not talk.
const Version = 1

// Types of UDP datagrams.
const (
	TypeHello  = 1
	TypeReply  = 2
	TypeFinish = 3
	TypeCookie = 4
	TypeRefuse = 5
	TypeLink   = 16
	TypeGroup  = 17
	TypeRelay  = 18
)

// StreamMagic is the first byte of every TCP connection; it is no UDP type.
const StreamMagic = 0x77

// Sizes of headers and of what sealing adds, in bytes.
const (
	LinkHeader  = 16
	GroupHeader = 20
	RelayHeader = 48 // without tag
	Tag         = 16
	RelayTotal  = RelayHeader + Tag
)

// Kinds of plaintext inside link and group packets: its first byte.
const (
	KindFrame     = 1  // [kind][VNI 3][one or more records, package gso]             link and group
	KindFragment  = 2  // [kind][fragment header][part of a plaintext with kind]    package frag
	KindMember    = 3  // memberlist packet
	KindState     = 4  // state table sync, package state
	KindPing      = 5  // [kind][id 8][padding]: answered by KindPong on the same path
	KindPong      = 6  // [kind][id 8][observed endpoint: 16 address, 2 port]
	KindSenderKey = 7  // sender keys handed over, asked for, acknowledged          package cast
	KindShare     = 8  // "give me a part of your range"                            package ipam
	KindSignal    = 9  // "call me at": endpoints for hole punching                 package mesh
	KindProbe     = 10 // what `weft ping` and `weft bench` send
	KindNote      = 11 // one line for the other's operator (name taken, removed)
	KindTree      = 12 // ways of frames for many: set up, confirmed, complained of  package tree
	KindBeat      = 13 // [kind][sequence 8]: a sender shows that its way holds; group packets only
	KindHeard     = 14 // a frame of a plain network was heard                       package hearing
	KindBye       = 15 // [kind][run 8]: this run of the sender ends now             package mesh
	KindLease     = 16 // a host that comes and goes asks an elector; answers        package lease
)

// Labels of group packets that name no way.
const (
	// NoLabel: every receiver gets a copy of its own.
	NoLabel = 0
	// BeaconLabel: a beacon, to find out who hears the underlay group.
	BeaconLabel = 1<<24 - 1
)

// Limits. Each is a bound that unauthenticated or authenticated input cannot exceed.
const (
	// MinPath is the smallest UDP payload a path must carry: IPv6's minimum MTU less its headers (RFC 8200 section 5).
	MinPath = 1280 - 40 - 8
	// MaxDatagram is the largest UDP payload read: a jumbo underlay of 9216 less IPv4 and UDP headers.
	MaxDatagram = 9216 - 28
	// MaxPlain is the largest plaintext (kind + body) a link carries in fragments: fits a state block.
	MaxPlain = 64 << 10
	// MaxHops bounds relaying.
	MaxHops = 4
)

// PutLink writes a link header into b, which has at least LinkHeader bytes.
func PutLink(b []byte, index uint32, counter uint64) {
	b[0], b[1], b[2], b[3] = TypeLink, 0, 0, 0
	binary.BigEndian.PutUint32(b[4:], index)
	binary.BigEndian.PutUint64(b[8:], counter)
}

// Link reads a link header; ok is false when b is too short to be one.
func Link(b []byte) (index uint32, counter uint64, ok bool) {
	if len(b) < LinkHeader+Tag || b[0] != TypeLink {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]), true
}

// PutGroup writes a group header into b, which has at least GroupHeader bytes; a label has 24 bits.
func PutGroup(b []byte, label uint32, key, counter uint64) {
	b[0], b[1], b[2], b[3] = TypeGroup, byte(label>>16), byte(label>>8), byte(label)
	binary.BigEndian.PutUint64(b[4:], key)
	binary.BigEndian.PutUint64(b[12:], counter)
}

// Group reads a group header; ok is false when b is too short to be one.
func Group(b []byte) (label uint32, key, counter uint64, ok bool) {
	if len(b) < GroupHeader+Tag || b[0] != TypeGroup {
		return 0, 0, 0, false
	}
	label = uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	return label, binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:]), true
}

// RelayInfo is the header of a relay envelope.
type RelayInfo struct {
	Hops     byte
	Index    uint32
	Counter  uint64
	Src, Dst [16]byte
}

// PutRelay writes a relay header into b, which has at least RelayHeader bytes.
func PutRelay(b []byte, r *RelayInfo) {
	b[0], b[1], b[2], b[3] = TypeRelay, r.Hops, 0, 0
	binary.BigEndian.PutUint32(b[4:], r.Index)
	binary.BigEndian.PutUint64(b[8:], r.Counter)
	copy(b[16:32], r.Src[:])
	copy(b[32:48], r.Dst[:])
}

// Relay reads a relay header; ok is false when b is too short or allows too many hops.
func Relay(b []byte) (r RelayInfo, ok bool) {
	if len(b) < RelayTotal+1 || b[0] != TypeRelay || b[1] > MaxHops {
		return r, false
	}
	r.Hops = b[1]
	r.Index = binary.BigEndian.Uint32(b[4:])
	r.Counter = binary.BigEndian.Uint64(b[8:])
	copy(r.Src[:], b[16:32])
	copy(r.Dst[:], b[32:48])
	return r, true
}
