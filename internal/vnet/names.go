package vnet

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/weft-net/weft/internal/nl"
)

// Names of our interfaces. Only what has both the name and the kind is ever removed.
const (
	bridgePrefix = "wb"
	uplinkPrefix = "wu"
	vxlanPrefix  = "wx"
	portPrefix   = "wv"
	innerPrefix  = "wi"
	portDigits   = 13

	servicePrefix = portPrefix + "dns"
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// BridgeName returns the name of a network's bridge: wb and six hexadecimal digits.
func BridgeName(vni uint32) string { return fmt.Sprintf("%s%06x", bridgePrefix, vni) }

// UplinkName returns the name of a network's TAP.
func UplinkName(vni uint32) string { return fmt.Sprintf("%s%06x", uplinkPrefix, vni) }

// VXLANName returns the name of a plain network's VXLAN device.
func VXLANName(vni uint32) string { return fmt.Sprintf("%s%06x", vxlanPrefix, vni) }

// PortName returns the name of the host end of an attachment: wv and 65 bits of a hash, the
// 15 characters that an interface name may have.
func PortName(network, name string) string { return portPrefix + portTail(network, name) }

// InnerName returns the name of a container's inner end while it lies in the host's namespace.
func InnerName(network, name string) string { return innerPrefix + portTail(network, name) }

func portTail(network, name string) string {
	sum := sha256.Sum256([]byte(network + "\x00" + name))
	return base32Lower.EncodeToString(sum[:])[:portDigits]
}

// ServicePort returns the name of the host end of a network's service: an attachment's port by its form, and to be told from them by
// people.
func ServicePort(network string) string {
	sum := sha256.Sum256([]byte(network + "\x00"))
	return servicePrefix + base32Lower.EncodeToString(sum[:])[:len(portPrefix)+portDigits-len(servicePrefix)]
}

// bridgeMAC is the bridge's own address. It stays on this host: attachments see it only
// as the sender of queries, so all hosts may use the same.
func bridgeMAC(vni uint32) nl.MAC {
	return nl.MAC{0x06, 0x77, 0x66, byte(vni >> 16), byte(vni >> 8), byte(vni)}
}

// ours reports whether weft made an interface.
func ours(l nl.Link) bool {
	switch l.Kind {
	case "bridge":
		return hasDigits(l.Name, bridgePrefix, 6, "0123456789abcdef")
	case "tun":
		return hasDigits(l.Name, uplinkPrefix, 6, "0123456789abcdef")
	case "vxlan":
		return hasDigits(l.Name, vxlanPrefix, 6, "0123456789abcdef")
	case "veth":
		const digits = "abcdefghijklmnopqrstuvwxyz234567"
		return hasDigits(l.Name, portPrefix, portDigits, digits) || hasDigits(l.Name, innerPrefix, portDigits, digits)
	}
	return false
}

func hasDigits(s, prefix string, n int, digits string) bool {
	rest, ok := strings.CutPrefix(s, prefix)
	return ok && len(rest) == n && strings.Trim(rest, digits) == ""
}
