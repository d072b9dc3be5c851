package daemon

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/vnet"
)

// sendFrom chooses this host's VTEP: of the addresses from which the kernel sends to the other hosts the one that
// most are sent to from; the one it had, as long as any is. Without other hosts the one it had, else the first.
func (s *System) sendFrom(n *network) (netip.Addr, bool) {
	own := slices.DeleteFunc(slices.Clone(s.underlay.Endpoints()), func(a netip.Addr) bool { return a.Is6() != n.def.Underlay6 })
	votes := map[netip.Addr]int{}
	for _, l := range s.mesh.Links() {
		if a := l.Endpoint.Addr().Unmap(); l.Path == api.PathDirect && a.Is6() == n.def.Underlay6 {
			votes[sourceTo(a)]++
		}
	}
	was := cmp.Or(n.local, s.look(n).vteps[s.mesh.Self()])
	var best netip.Addr
	for _, a := range own {
		if !best.IsValid() || votes[a] > votes[best] {
			best = a
		}
	}
	if slices.Contains(own, was) && (votes[was] > 0 || votes[best] == 0) {
		best = was
	}
	return best, best.IsValid()
}

// sourceTo returns the address from which the kernel sends to another. A connected UDP socket tells without sending.
func sourceTo(to netip.Addr) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, vnet.VXLANPort)))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	a, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// overIPv6 says which family a new plain network's hosts send from: that of most direct paths, IPv4 for lack of any.
func (s *System) overIPv6() bool {
	count := map[bool]int{}
	for _, l := range s.mesh.Links() {
		if l.Path == api.PathDirect {
			count[l.Endpoint.Addr().Unmap().Is6()]++
		}
	}
	if count[true] != count[false] {
		return count[true] > count[false]
	}
	return !slices.ContainsFunc(s.underlay.Endpoints(), netip.Addr.Is4)
}

// rehome makes a plain network's frames leave from the address that is right now.
func (s *System) rehome(n *network) {
	local, ok := s.sendFrom(n)
	if ok && local == n.local {
		s.trouble("vtep "+n.name, "")
		return
	}
	text := ""
	err := fmt.Errorf("this host has no %s address on the underlay any more", familyName(n.def.Underlay6))
	if ok {
		err = s.vnet.SetLocal(n.vni, local)
	}
	if err == nil {
		err = s.mesh.Publish(n.vni, map[string][]byte{keyVTEP: encode(vtepRecord{Addr: local})}, nil)
	}
	if err != nil {
		text = fmt.Sprintf("network %s: %v", n.name, err)
	} else {
		s.log.Info("plain network sends from another address", "network", n.name, "was", n.local, "is", local)
		n.local = local
		s.rebuild(n)
	}
	s.trouble("vtep "+n.name, text)
}

// probeEvery is how often a kernel that could not have plain networks is asked again: a module may have been loaded.
const probeEvery = 30 * time.Second

// patient asks again only some time after it was refused, and never after it was not.
func patient(ask func() error) func() error {
	var mu sync.Mutex
	var asked time.Time
	var last error
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if asked.IsZero() || last != nil && time.Since(asked) >= probeEvery {
			asked, last = time.Now(), ask()
		}
		return last
	}
}
