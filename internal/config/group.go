package config

import (
	"errors"
	"fmt"
	"net/netip"
)

// groups reads the underlay groups of a cluster: "off", or a group of each family at most.
func groups(u *Up, v Value) error {
	if len(v.Texts) == 1 && v.Texts[0] == "off" {
		u.Groups, u.NoMulticast = nil, true
		return nil
	}
	u.Groups = nil
	for _, t := range v.Texts {
		a, err := netip.ParseAddr(t)
		if err != nil {
			return errors.New(`want a multicast address of each family at most, or "off"`)
		}
		if err := CheckGroup(a); err != nil {
			return err
		}
		for _, o := range u.Groups {
			if o.Is4() == a.Is4() {
				return fmt.Errorf("%v and %v are of one family", o, a)
			}
		}
		u.Groups = append(u.Groups, a)
	}
	return nil
}

// CheckGroup reports why an address cannot be the underlay group of a cluster. Switches flood 224.0.0.0/24, and what has
// the Ethernet address of one of its groups (RFC 4541 section 2.1.2), to every port.
func CheckGroup(a netip.Addr) error {
	switch b := a.As16(); {
	case !a.IsMulticast() || a.Zone() != "" || a.Is4In6():
		return fmt.Errorf("%v is no multicast address", a)
	case a.Is4() && b[13]&0x7f == 0 && b[14] == 0:
		return fmt.Errorf("switches flood %v to every port; choose another, of 239.192.0.0/14 say", a)
	case a.Is6() && (b[1]&0xf0 == 0 || b[1]&0x0f < 2):
		return fmt.Errorf("%v is not for free use; choose one of ff15::/16", a)
	}
	return nil
}
