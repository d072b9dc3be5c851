package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"

	"github.com/weft-net/weft/internal/netns"
)

// vxlan is the kernel's own overlay, every host knowing every other.
type vxlan struct {
	mdb     bool // the sender copies the group to its members by MDB, not by the flood list
	bridged bool // programs are in a namespace of their own behind a bridge, as containers are
	copied  []*host
}

func (v *vxlan) add(ctx context.Context, w *world, h *host) error {
	lines := fmt.Sprintf("link add ov0 type vxlan id 42 dstport 4789 dev eth0 local %s nolearning\n", h.ip)
	if err := w.batch(ctx, h.ns, lines); err != nil {
		return err
	}
	join := v.own
	if v.bridged {
		join = v.bridge
	}
	if err := join(ctx, w, h); err != nil {
		return err
	}
	for _, p := range w.hosts {
		if p == h {
			continue
		}
		if err := v.acquaint(ctx, h, p); err != nil {
			return err
		}
		if err := v.acquaint(ctx, p, h); err != nil {
			return err
		}
	}
	return nil
}

const vxlanMTU = 1450

// own has the host itself use the device.
func (v *vxlan) own(ctx context.Context, w *world, h *host) error {
	if err := w.batch(ctx, h.ns, fmt.Sprintf("link set ov0 address %s\n", overlayMAC(h.n))); err != nil {
		return err
	}
	return w.overlayLink(ctx, h, "ov0", vxlanMTU)
}

// bridge puts the device in a bridge, and a veth that leads to where programs run.
func (v *vxlan) bridge(ctx context.Context, w *world, h *host) error {
	h.inside = h.ns + "-in"
	if err := w.namespace(ctx, h.inside); err != nil {
		return err
	}
	lines := fmt.Sprintf("link set ov0 mtu %[1]d\nlink add br0 type bridge forward_delay 0\n"+
		"link add in0 mtu %[1]d type veth peer name ov0 address %[2]s mtu %[1]d netns %[3]s\n"+
		"link set ov0 master br0\nlink set in0 master br0\nlink set br0 up\nlink set ov0 up\nlink set in0 up\n", vxlanMTU, overlayMAC(h.n), h.inside)
	if err := w.batch(ctx, h.ns, lines); err != nil {
		return err
	}
	h.dev, h.addr = "ov0", overlay(h.n)
	return w.batch(ctx, h.inside, fmt.Sprintf("addr add %s/24 dev ov0\nlink set ov0 up\n", h.addr))
}

// members programs who listens to the group, as a control plane would that is not part of the kernel.
func (v *vxlan) members(w *world, hosts []*host) error {
	if !v.mdb {
		return nil
	}
	for _, h := range v.copied {
		if !slices.Contains(hosts, h) {
			if err := changeMDB(rtmDelMDB, 0, w.hosts[0].ns, "ov0", group, h.ip); err != nil {
				return err
			}
		}
	}
	for _, h := range hosts {
		if !slices.Contains(v.copied, h) {
			if err := changeMDB(rtmNewMDB, netlink.Create|netlink.Excl, w.hosts[0].ns, "ov0", group, h.ip); err != nil {
				return err
			}
		}
	}
	v.copied = slices.Clone(hosts)
	return nil
}

// acquaint tells a host where a peer is: its address for unicast, and one more copy of what is flooded.
func (v *vxlan) acquaint(ctx context.Context, h, peer *host) error {
	lines := fmt.Sprintf("fdb append 00:00:00:00:00:00 dev ov0 dst %[1]s\nfdb append %[2]s dev ov0 dst %[1]s\n", peer.ip, overlayMAC(peer.n))
	_, err := executeInput(ctx, nil, lines, "bridge", "-n", h.ns, "-batch", "-")
	return err
}

func overlayMAC(n int) string { return strings.Replace(mac(n), "02:62:00", "02:62:01", 1) }

// Of the kernel's if_bridge.h; Debian 12's bridge(8) does not know entries with a destination.
const (
	rtmNewMDB       = 84
	rtmDelMDB       = 85
	mdbSetEntry     = 1
	mdbSetAttrs     = 2
	mdbAttrDst      = 5
	mdbPermanent    = 1
	familyBridge    = 7
	etherTypeIPv4   = 0x0800
	sizeOfMDBEntry  = 28
	sizeOfMDBHeader = 8
)

// changeMDB has a VXLAN device copy a group to one more VTEP or one less: a br_mdb_entry with MDBE_ATTR_DST.
func changeMDB(kind netlink.HeaderType, flags netlink.HeaderFlags, ns, dev string, group, vtep netip.Addr) error {
	space, err := netns.OS().Path("/run/netns/" + ns)
	if err != nil {
		return err
	}
	defer space.Close()
	err = space.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		c, err := netlink.Dial(0, nil)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		header := make([]byte, sizeOfMDBHeader) // br_port_msg: family, padding, index
		header[0] = familyBridge
		binary.NativeEndian.PutUint32(header[4:], uint32(ifi.Index))
		e := make([]byte, sizeOfMDBEntry) // index, state, flags, VID, address (16), protocol
		binary.NativeEndian.PutUint32(e, uint32(ifi.Index))
		e[4] = mdbPermanent
		copy(e[8:], group.AsSlice())
		binary.BigEndian.PutUint16(e[24:], etherTypeIPv4)
		ae := netlink.NewAttributeEncoder()
		ae.Bytes(mdbSetEntry, e)
		ae.Nested(mdbSetAttrs, func(n *netlink.AttributeEncoder) error {
			n.Bytes(mdbAttrDst, vtep.AsSlice())
			return nil
		})
		attrs, err := ae.Encode()
		if err != nil {
			return err
		}
		_, err = c.Execute(netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags},
			Data:   append(header, attrs...),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("VXLAN MDB: %s to %s: %w", group, vtep, err)
	}
	return nil
}
