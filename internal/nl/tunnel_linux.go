package nl

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (h *handle) EnsureVXLAN(v VXLAN) (Link, error) {
	fail := func(err error) (Link, error) { return Link{}, fmt.Errorf("vxlan %s: %w", v.Name, err) }
	have, err := h.link(v.Name)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return fail(err)
	case have.Type() != "vxlan":
		return fail(fmt.Errorf("the name is taken by a %s: remove it with: ip link del %s", have.Type(), v.Name))
	case sameVXLAN(have.(*netlink.Vxlan), v):
		if err := h.SetMTU(have.Attrs().Index, v.MTU); err != nil {
			return fail(err)
		}
		return linkOf(have), nil
	default: // most of it cannot be changed while it exists
		if err := h.Delete(v.Name); err != nil {
			return fail(err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.Name, v.MTU
	err = h.lib.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: int(v.VNI), SrcAddr: v.Local.AsSlice(), Port: int(v.Port),
		// A sum over the whole packet: without it a flipped bit in the header takes a frame to another network.
		UDPCSum: true, NoAge: true,
	})
	if err != nil {
		return fail(fmt.Errorf("make (kernel module vxlan needed): %w", err))
	}
	l, err := h.link(v.Name)
	if err != nil {
		return fail(err)
	}
	return linkOf(l), nil
}

func sameVXLAN(have *netlink.Vxlan, want VXLAN) bool {
	local, ok := netip.AddrFromSlice(have.SrcAddr)
	return ok && local.Unmap() == want.Local && have.VxlanId == int(want.VNI) && have.Port == int(want.Port) && !have.Learning
}

func (h *handle) TunnelEntries(link int) ([]TunnelEntry, error) {
	all, err := dump(func() ([]netlink.Neigh, error) { return h.lib.NeighList(link, unix.AF_BRIDGE) })
	if err != nil {
		return nil, fmt.Errorf("list entries of vxlan %d: %w", link, err)
	}
	var entries []TunnelEntry
	for _, n := range all {
		vtep, ok := netip.AddrFromSlice(n.IP)
		if ok && n.LinkIndex == link && n.Flags&netlink.NTF_SELF != 0 && len(n.HardwareAddr) == 6 {
			entries = append(entries, TunnelEntry{Link: link, MAC: MAC(n.HardwareAddr), VTEP: vtep.Unmap()})
		}
	}
	return entries, nil
}

func (h *handle) SetTunnelEntry(e TunnelEntry) error {
	set := h.lib.NeighSet
	if e.MAC == (MAC{}) {
		set = h.lib.NeighAppend // one among several
	}
	if err := set(tunnelEntry(e)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("send frames for %s to %s: %w", e.MAC, e.VTEP, err)
	}
	return nil
}

func (h *handle) DeleteTunnelEntry(e TunnelEntry) error {
	if err := h.lib.NeighDel(tunnelEntry(e)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("send no frames for %s to %s: %w", e.MAC, e.VTEP, err)
	}
	return nil
}

func tunnelEntry(e TunnelEntry) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: e.Link, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_NOARP | netlink.NUD_PERMANENT,
		IP: e.VTEP.AsSlice(), HardwareAddr: e.MAC[:],
	}
}

func (h *handle) TunnelGroups(link int) ([]TunnelGroup, error) {
	entries, err := dumpMDB(h, unix.RTM_NEWMDB, func(entries []TunnelGroup, m []byte) ([]TunnelGroup, error) { // VXLAN devices answer in this type
		return parseTunnelGroups(entries, m, link)
	})
	if err != nil {
		return nil, fmt.Errorf("list MDB of vxlan %d: %w", link, err)
	}
	return entries, nil
}

func (h *handle) SetTunnelGroup(e TunnelGroup) error {
	if err := h.changeTunnelGroup(e, unix.RTM_NEWMDB, unix.NLM_F_CREATE|unix.NLM_F_REPLACE); err != nil {
		return fmt.Errorf("send group %s to %s (kernel 6.4 or newer needed): %w", e.Group, e.VTEP, err)
	}
	return nil
}

func (h *handle) DeleteTunnelGroup(e TunnelGroup) error {
	if err := h.changeTunnelGroup(e, unix.RTM_DELMDB, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("send group %s no more to %s: %w", e.Group, e.VTEP, err)
	}
	return nil
}

func (h *handle) changeTunnelGroup(e TunnelGroup, typ, flags int) error {
	body, err := appendTunnelGroup(nil, e)
	if err != nil {
		return err
	}
	req := h.request(typ, flags|unix.NLM_F_ACK)
	req.AddRawData(body)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
