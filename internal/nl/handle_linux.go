package nl

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/netns"
)

// OS returns the kernel's rtnetlink.
func OS() System { return system{} }

type system struct{}

// handle has a socket for what package netlink knows and one for our own messages.
type handle struct {
	ns  netns.Namespace // for sysctls and watchers; the opener keeps it open
	lib *netlink.Handle
	own map[int]*rtnl.SocketHandle
}

// Open opens sockets in ns, which must stay open as long as the handle.
func (system) Open(ns netns.Namespace) (Handle, error) {
	h := &handle{ns: ns}
	err := ns.Do(func() error {
		var err error
		if h.lib, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		sock, err := rtnl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE)
		if err != nil {
			h.lib.Close()
			return err
		}
		_ = sock.SetExtAck(true) // better error texts; an old kernel does without
		h.own = map[int]*rtnl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink in %s: %w", ns.ID(), err)
	}
	return h, nil
}

func (h *handle) Close() error {
	h.lib.Close()
	h.own[unix.NETLINK_ROUTE].Close()
	return nil
}

// request makes a message for the handle's own socket.
func (h *handle) request(typ, flags int) *rtnl.NetlinkRequest {
	req := rtnl.NewNetlinkRequest(typ, flags)
	req.Sockets = h.own
	return req
}

// maxDumps is how often a dump that was interrupted by a change is taken again. A
// namespace that changes under every single one is served the last.
const maxDumps = 10

// dump repeats f while the kernel says that the table changed under it (NLM_F_DUMP_INTR).
func dump[T any](f func() (T, error)) (T, error) {
	var v T
	var err error
	for range maxDumps {
		if v, err = f(); !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
	return v, nil
}

func (h *handle) Links() ([]Link, error) {
	all, err := dump(h.lib.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	links := make([]Link, 0, len(all))
	for _, l := range all {
		links = append(links, linkOf(l))
	}
	return links, nil
}

func linkOf(l netlink.Link) Link {
	a := l.Attrs()
	v := Link{Index: a.Index, Name: a.Name, Kind: l.Type(), Master: a.MasterIndex, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
	switch l := l.(type) {
	case *netlink.Device:
		v.Kind = ""
	case *netlink.Tuntap:
		v.Kind = "tun"
	case *netlink.Veth:
		v.Peer = a.ParentIndex
	case *netlink.Bridge:
		v.Snooping = l.MulticastSnooping != nil && *l.MulticastSnooping
	}
	if len(a.HardwareAddr) == len(v.MAC) {
		v.MAC = MAC(a.HardwareAddr)
	}
	return v
}

func (h *handle) link(name string) (netlink.Link, error) {
	l, err := h.lib.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, fmt.Errorf("interface %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return l, nil
}

// byIndex is a link of which only the index is known, enough for requests.
func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func (h *handle) AddVeth(v Veth) (Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.Name, v.MTU
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerMTU = v.Inner, v.MAC[:], uint32(v.MTU)
	if v.NS != nil {
		pair.PeerNamespace = netlink.NsFd(v.NS.FD())
	}
	err := h.lib.LinkAdd(pair)
	if errors.Is(err, unix.EEXIST) {
		return Link{}, fmt.Errorf("make veth %s, %s: %w", v.Name, v.Inner, ErrExists)
	}
	if err != nil {
		return Link{}, fmt.Errorf("make veth %s, %s: %w", v.Name, v.Inner, err)
	}
	l, err := h.link(v.Name)
	if err != nil {
		return Link{}, err
	}
	err = h.silence(v.Name)
	if err == nil && v.Super > 0 && v.NS == nil {
		var inner netlink.Link
		if inner, err = h.link(v.Inner); err == nil {
			err = h.lib.LinkSetGSOMaxSize(inner, v.Super)
		}
		if err != nil {
			err = fmt.Errorf("bound super-frames of %s: %w", v.Inner, err)
		}
	}
	if err != nil {
		return Link{}, errors.Join(err, h.Delete(v.Name))
	}
	return linkOf(l), nil
}

func (h *handle) Up(index int) error {
	err := h.lib.LinkSetUp(byIndex(index))
	if errors.Is(err, unix.EADDRINUSE) {
		err = ErrPortTaken
	}
	if err != nil {
		return fmt.Errorf("bring interface %d up: %w", index, err)
	}
	return nil
}

func (h *handle) AwaitRunning(index int) error {
	deadline := time.Now().Add(RunningTime)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		l, err := h.lib.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("interface %d: %w", index, err)
		}
		if l.Attrs().RawFlags&unix.IFF_RUNNING != 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("interface %s is up but carries nothing after %v", l.Attrs().Name, RunningTime)
		}
		time.Sleep(pause) // no notification that could not be missed
	}
}

func (h *handle) SetMTU(index, mtu int) error {
	if err := h.lib.LinkSetMTU(byIndex(index), mtu); err != nil {
		return fmt.Errorf("set MTU %d of interface %d: %w", mtu, index, err)
	}
	return nil
}

func (h *handle) Delete(name string) error {
	l, err := h.link(name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := h.lib.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}
