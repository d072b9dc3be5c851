package discover

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
)

// A beacon says to the local segment, by multicast and by broadcast to LANPort, where a host is:
//
//	0      4         5       6      8         24    40
//	+------+---------+-------+------+---------+-----+
//	| wfld | version | flags | port | address | MAC |
//	+------+---------+-------+------+---------+-----+
//
// Address is the one it was sent from (IPv4 as ::ffff:a.b.c.d), port that of the host's links. The MAC is the first 16 bytes of
// HMAC-SHA-256 over all before it under a key of the cluster: who has not the token makes none, and a beacon that somebody recorded
// says no more elsewhere than it did here, for it names the address that it must come from.
const (
	beaconMagic   = "wfld"
	beaconVersion = 1
	beaconLen     = 40
	macLen        = 16

	flagLooking = 1 // it has reached nobody: beacons soon, please
)

// Key authenticates beacons.
type Key [32]byte

// Beacon is what a host says on the local segment.
type Beacon struct {
	Addr    netip.AddrPort
	Looking bool
}

var (
	errBeacon   = errors.New("no beacon of weft")
	errStranger = errors.New("a beacon of another cluster, or a forged one")
)

// Encode appends the beacon to dst.
func (b Beacon) Encode(dst []byte, key Key) []byte {
	at := len(dst)
	dst = append(dst, beaconMagic...)
	flags := byte(0)
	if b.Looking {
		flags = flagLooking
	}
	dst = append(dst, beaconVersion, flags)
	dst = binary.BigEndian.AppendUint16(dst, b.Addr.Port())
	a := b.Addr.Addr().As16()
	dst = append(dst, a[:]...)
	m := hmac.New(sha256.New, key[:])
	m.Write(dst[at:])
	return append(dst, m.Sum(nil)[:macLen]...)
}

// DecodeBeacon reads a beacon. Of one under another key the error is a stranger's, and nothing else is told; without a key every beacon is.
func DecodeBeacon(b []byte, key *Key) (Beacon, error) {
	if len(b) != beaconLen || string(b[:4]) != beaconMagic || b[4] != beaconVersion {
		return Beacon{}, errBeacon
	}
	if key == nil {
		return Beacon{}, errStranger
	}
	body, mac := b[:beaconLen-macLen], b[beaconLen-macLen:]
	m := hmac.New(sha256.New, key[:])
	m.Write(body)
	if !hmac.Equal(m.Sum(nil)[:macLen], mac) {
		return Beacon{}, errStranger
	}
	ap := netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[6:8]))
	if b[5] > flagLooking || CheckAddress(ap) != nil {
		return Beacon{}, errBeacon
	}
	return Beacon{Addr: ap, Looking: b[5]&flagLooking != 0}, nil
}
