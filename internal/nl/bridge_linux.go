package nl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Times of a bridge, in hundredths of a second.
const (
	// The response interval is also how long a bridge waits after its first query before it
	// trusts its group table; the kernel's 10 s would lose every group opened meanwhile.
	queryResponse = 100
	startupQuery  = 100
	queryInterval = 12500 // RFC 3376 section 8.2
)

// GroupTable is how many (group, source) pairs a bridge takes (mcast_hash_max). At one more
// the kernel switches snooping off for good; PortGroups keeps attachments far from it.
const GroupTable = 65536

// PortGroups is how many groups, sources included, the ports of one attachment may join.
const PortGroups = 64

// querierAddr is the bridge's own address: it sends MLD queries from it (RFC 3810 section 5.1.14).
// Without a usable IPv6 address MLD snooping never begins.
var querierAddr = netip.MustParsePrefix("fe80::1/64")

func (h *handle) EnsureBridge(b Bridge) (Link, error) {
	fail := func(err error) (Link, error) { return Link{}, fmt.Errorf("bridge %s: %w", b.Name, err) }
	have, err := h.link(b.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		req := h.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
		bridgeRequest(req, b, 0)
		if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			return fail(fmt.Errorf("make: %w", err))
		}
	case err != nil:
		return fail(err)
	case have.Type() != "bridge":
		return fail(fmt.Errorf("the name is taken by a %s: remove it with: ip link del %s", have.Type(), b.Name))
	}
	if err := h.sysctl(b.Name, append([]setting{{"disable_ipv6", "0"}}, silent...)); err != nil {
		return fail(err)
	}
	l, err := h.link(b.Name)
	if err != nil {
		return fail(err)
	}
	index := l.Attrs().Index
	if have != nil {
		// Adopted: the settings again, whatever has happened to them.
		req := h.request(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		bridgeRequest(req, b, index)
		if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			return fail(fmt.Errorf("set: %w", err))
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(querierAddr), Flags: unix.IFA_F_NODAD}
	if err := h.lib.AddrReplace(l, addr); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fail(fmt.Errorf("give it %s: %w", querierAddr, err))
	}
	if err := h.lib.LinkSetUp(l); err != nil {
		return fail(fmt.Errorf("bring it up: %w", err))
	}
	// The querier comes last: its first query needs the address, the next one is far away.
	if err := h.setBridgeAttr(index, rtnl.IFLA_BR_MCAST_QUERIER, []byte{1}); err != nil {
		return fail(fmt.Errorf("start the querier: %w", err))
	}
	if l, err = h.link(b.Name); err != nil {
		return fail(err)
	}
	return linkOf(l), nil
}

// bridgeRequest fills a request with all settings but the querier.
func bridgeRequest(req *rtnl.NetlinkRequest, b Bridge, index int) {
	msg := rtnl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	if index == 0 {
		req.AddData(rtnl.NewRtAttr(unix.IFLA_IFNAME, rtnl.ZeroTerminated(b.Name)))
	}
	req.AddData(rtnl.NewRtAttr(unix.IFLA_MTU, rtnl.Uint32Attr(uint32(b.MTU))))
	req.AddData(rtnl.NewRtAttr(unix.IFLA_ADDRESS, b.MAC[:]))
	info := rtnl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(rtnl.IFLA_INFO_KIND, rtnl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(rtnl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(rtnl.IFLA_BR_MCAST_SNOOPING, []byte{1})
	data.AddRtAttr(rtnl.IFLA_BR_MCAST_IGMP_VERSION, []byte{3})
	data.AddRtAttr(rtnl.IFLA_BR_MCAST_MLD_VERSION, []byte{2})
	data.AddRtAttr(rtnl.IFLA_BR_MCAST_HASH_MAX, rtnl.Uint32Attr(GroupTable))
	data.AddRtAttr(rtnl.IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, rtnl.Uint64Attr(queryResponse))
	data.AddRtAttr(rtnl.IFLA_BR_MCAST_STARTUP_QUERY_INTVL, rtnl.Uint64Attr(startupQuery))
	data.AddRtAttr(rtnl.IFLA_BR_MCAST_QUERY_INTVL, rtnl.Uint64Attr(queryInterval))
	req.AddData(info)
}

func (h *handle) setBridgeAttr(index, attr int, value []byte) error {
	req := h.request(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := rtnl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := rtnl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(rtnl.IFLA_INFO_KIND, rtnl.NonZeroTerminated("bridge"))
	info.AddRtAttr(rtnl.IFLA_INFO_DATA, nil).AddRtAttr(attr, value)
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (h *handle) RestartSnooping(bridge int) error {
	if err := h.setBridgeAttr(bridge, rtnl.IFLA_BR_MCAST_SNOOPING, []byte{1}); err != nil {
		return fmt.Errorf("switch snooping on again: %w", err)
	}
	return nil
}

// port is a flag or number of a bridge port.
type port struct {
	attr  int
	value []byte
}

var (
	off = []byte{0}
	on  = []byte{1}
)

// uplinkPort: what has members elsewhere has an entry in the MDB, what is for all hosts
// (224.0.0.0/24, ff02::1, broadcast) needs the two flood flags on; router 0 keeps all other groups away.
// Isolated: an uplink never forwards to another uplink. neigh_suppress: ARP and ND for
// known addresses are answered here.
var uplinkPort = []port{
	{rtnl.IFLA_BRPORT_LEARNING, off},
	{rtnl.IFLA_BRPORT_UNICAST_FLOOD, off},
	{rtnl.IFLA_BRPORT_MCAST_FLOOD, on},
	{rtnl.IFLA_BRPORT_BCAST_FLOOD, on},
	{rtnl.IFLA_BRPORT_MULTICAST_ROUTER, off},
	{rtnl.IFLA_BRPORT_NEIGH_SUPPRESS, on},
	{rtnl.IFLA_BRPORT_ISOLATED, on},
}

// attachmentPort: one IP stack behind each, so a leave need not be asked back (fast
// leave: about 12 ms instead of 2 s); the limit stops one program from filling the group table.
var attachmentPort = []port{
	{rtnl.IFLA_BRPORT_LEARNING, off},
	{rtnl.IFLA_BRPORT_UNICAST_FLOOD, off},
	{rtnl.IFLA_BRPORT_MCAST_FLOOD, on},
	{rtnl.IFLA_BRPORT_BCAST_FLOOD, on},
	{rtnl.IFLA_BRPORT_MULTICAST_ROUTER, off},
	{rtnl.IFLA_BRPORT_FAST_LEAVE, on},
	{rtnl.IFLA_BRPORT_MCAST_MAX_GROUPS, binary.NativeEndian.AppendUint32(nil, PortGroups)},
}

func (h *handle) SetPort(bridge, index int, kind PortKind) error {
	settings := attachmentPort
	if kind == Uplink {
		settings = uplinkPort
		l, err := h.lib.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("port %d: %w", index, err)
		}
		if err := h.silence(l.Attrs().Name); err != nil {
			return err
		}
	}
	if err := h.lib.LinkSetMasterByIndex(byIndex(index), bridge); err != nil {
		return fmt.Errorf("plug interface %d into bridge %d: %w", index, bridge, err)
	}
	req := h.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := rtnl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	info := rtnl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for _, p := range settings {
		info.AddRtAttr(p.attr, p.value)
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("set bridge port %d (kernel 6.4 or newer needed): %w", index, err)
	}
	return h.Up(index)
}

func (h *handle) FDB(bridge int) ([]FDBEntry, error) {
	all, err := dump(func() ([]netlink.Neigh, error) { return h.lib.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return nil, fmt.Errorf("list FDB: %w", err)
	}
	var entries []FDBEntry
	for _, n := range all {
		if n.MasterIndex == bridge && n.State == netlink.NUD_NOARP && len(n.HardwareAddr) == 6 {
			entries = append(entries, FDBEntry{Port: n.LinkIndex, MAC: MAC(n.HardwareAddr)})
		}
	}
	return entries, nil
}

func (h *handle) SetFDB(e FDBEntry) error {
	if err := h.lib.NeighSet(fdbEntry(e)); err != nil {
		return fmt.Errorf("set FDB entry %s: %w", e.MAC, err)
	}
	return nil
}

func (h *handle) DeleteFDB(e FDBEntry) error {
	if err := h.lib.NeighDel(fdbEntry(e)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete FDB entry %s: %w", e.MAC, err)
	}
	return nil
}

// fdbEntry is what iproute2 calls "master static": it never ages, and the port does not own the MAC.
func fdbEntry(e FDBEntry) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: e.Port, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: e.MAC[:]}
}
