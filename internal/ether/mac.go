package ether

import (
	"fmt"
	"net/netip"
)

// MAC is an IEEE 802 48-bit address.
type MAC [6]byte

// Broadcast is the address of all stations.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// String returns the address as 02:57:0a:20:00:05.
func (m MAC) String() string {
	const hex = "0123456789abcdef"
	var b [17]byte
	for i, v := range m {
		b[3*i], b[3*i+1] = hex[v>>4], hex[v&15]
		if i < 5 {
			b[3*i+2] = ':'
		}
	}
	return string(b[:])
}

// MarshalText gives the form of String to JSON.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what Parse reads.
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err == nil {
		*m = v
	}
	return err
}

// ParseMAC reads six pairs of hexadecimal digits with colons or hyphens between them.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 || s[2] != ':' && s[2] != '-' {
		return m, fmt.Errorf("MAC address %.20q: want six pairs of hexadecimal digits, like 02:57:0a:20:00:05", s)
	}
	for i := range m {
		hi, ok := digit(s[3*i])
		lo, also := digit(s[3*i+1])
		if !ok || !also || i < 5 && s[3*i+2] != s[2] {
			return MAC{}, fmt.Errorf("MAC address %.20q: want six pairs of hexadecimal digits, like 02:57:0a:20:00:05", s)
		}
		m[i] = hi<<4 | lo
	}
	return m, nil
}

func digit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// IsMulticast reports whether the group bit is set; it is for broadcast too.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// IsBroadcast reports whether all stations are meant.
func (m MAC) IsBroadcast() bool { return m == Broadcast }

// IsZero reports whether no address is set.
func (m MAC) IsZero() bool { return m == MAC{} }

// GroupMAC returns the MAC address to which frames for a multicast group go: 01:00:5e and the
// low 23 bits (RFC 1112 section 6.4), or 33:33 and the low 32 bits (RFC 2464 section 7).
// ok is false when group is no multicast address.
func GroupMAC(group netip.Addr) (m MAC, ok bool) {
	group = group.Unmap()
	if !group.IsMulticast() {
		return m, false
	}
	if group.Is4() {
		a := group.As4()
		return MAC{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}, true
	}
	a := group.As16()
	return MAC{0x33, 0x33, a[12], a[13], a[14], a[15]}, true
}
