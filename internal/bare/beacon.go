package bare

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/weft-net/weft/internal/ident"
)

// A beacon goes to the group that it is about, on Port, so that it is heard exactly where the group's datagrams are:
//
//	0      4         5       6      22      30       38      46    62
//	+------+---------+-------+------+-------+--------+-------+-----+
//	| wfbb | version | flags | host | epoch | number | group | MAC |
//	+------+---------+-------+------+-------+--------+-------+-----+
//
// Epoch is the host's start in nanoseconds, number counts its beacons, group is a hash of group, port and subject. The MAC is the
// first 16 bytes of HMAC-SHA-256 over all before it: only hosts of the cluster can make one.
const (
	beaconMagic   = "wfbb"
	beaconVersion = 1
	beaconLen     = 62
	macLen        = 16

	flagActive  = 1 // it passes datagrams
	flagLeaving = 2 // and will not from now on
)

// Key authenticates beacons.
type Key [32]byte

type beacon struct {
	flags  byte
	host   ident.HostID
	epoch  uint64
	number uint64
	group  [8]byte
}

var (
	errBeacon = errors.New("no beacon of a bare bus")
	errMAC    = errors.New("a beacon of another cluster, or a forged one")
)

// groupHash is what beacons of one group, port and subject have in common.
func groupHash(group netip.AddrPort, subject string) [8]byte {
	sum := sha256.Sum256([]byte("weft bare group 1\x00" + group.String() + "\x00" + subject))
	return [8]byte(sum[:8])
}

func (b beacon) encode(dst []byte, key Key) []byte {
	at := len(dst)
	dst = append(dst, beaconMagic...)
	dst = append(dst, beaconVersion, b.flags)
	dst = append(dst, b.host[:]...)
	dst = binary.BigEndian.AppendUint64(dst, b.epoch)
	dst = binary.BigEndian.AppendUint64(dst, b.number)
	dst = append(dst, b.group[:]...)
	m := hmac.New(sha256.New, key[:])
	m.Write(dst[at:])
	return append(dst, m.Sum(nil)[:macLen]...)
}

// decodeBeacon reads a beacon whose MAC one of the keys made.
func decodeBeacon(b []byte, keys ...Key) (beacon, error) {
	if len(b) != beaconLen || string(b[:4]) != beaconMagic || b[4] != beaconVersion || b[5] > flagActive|flagLeaving {
		return beacon{}, errBeacon
	}
	body, mac := b[:beaconLen-macLen], b[beaconLen-macLen:]
	for _, k := range keys {
		m := hmac.New(sha256.New, k[:])
		m.Write(body)
		if hmac.Equal(m.Sum(nil)[:macLen], mac) {
			return beacon{
				flags: b[5], host: ident.HostID(b[6:22]), epoch: binary.BigEndian.Uint64(b[22:]), number: binary.BigEndian.Uint64(b[30:]), group: [8]byte(b[38:46]),
			}, nil
		}
	}
	return beacon{}, errMAC
}
