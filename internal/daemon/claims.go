package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/vnet"
)

// A host that has lost its state directory is a new one to the cluster, with programs that run on in networks it has not: it takes these
// up, and claims the addresses that are in use (ipam/claim.go). Its attachments are shown to the others once it is known that nobody
// has their addresses: a record with an address of somebody else's would draw that one's traffic here.
const (
	claimWait = 5 * time.Second  // for the address books of all hosts, before claims are judged without
	claimTold = 10 * time.Second // until it is told that a network of claims is defined nowhere
)

// findClaims notes the networks of what is plugged in here that this host does not have, by its own table.
func (s *System) findClaims() {
	s.taking.Lock()
	defer s.taking.Unlock()
	var used []string
	for _, a := range s.vnet.Attachments() {
		used = append(used, a.Network)
	}
	used = append(used, s.docker.Networks()...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims = map[string]time.Time{}
	for _, name := range used {
		if d := s.defs[name]; d == nil || !slices.Contains(d.hosts, s.mesh.Self()) {
			s.claims[name] = time.Now()
		}
	}
}

// settleClaims shows the attachments whose addresses are claimed, once it can be judged whether they may be, and takes off the network
// whatever has an address that is somebody else's. Called with taking held.
func (s *System) settleClaims() {
	up := map[string]*network{}
	for _, n := range s.localNetworks() {
		up[n.name] = n
	}
	for name, since := range s.claims {
		n := up[name]
		if n == nil {
			s.mu.Lock()
			defined := s.defs[name] != nil
			s.mu.Unlock()
			if !defined && time.Since(since) > claimTold {
				s.trouble("claims "+name, fmt.Sprintf("network %s of programs here is defined on no host any more: weft network create %s with the --subnet it had, or end them", name, name))
			}
			continue
		}
		if !s.ipam.Heard(n.vni) && time.Since(since) < claimWait {
			delete(up, name)
			continue
		}
		s.giveWay(n)
		if err := s.showClaimed(n); err != nil {
			s.log.Error("attachments of lost state not told", "network", name, "err", err)
			continue
		}
		delete(s.claims, name)
		delete(up, name)
		s.trouble("claims "+name, "")
	}
	for _, n := range up {
		s.giveWay(n)
	}
}

// showClaimed publishes what is plugged into a network here.
func (s *System) showClaimed(n *network) error {
	own := map[[4]byte]bool{}
	for _, a := range s.ipam.Allocations(n.vni) {
		own[a.IP4.Addr().As4()] = true
	}
	puts := map[string][]byte{}
	for _, a := range s.vnet.Attachments() {
		if a.VNI == n.vni && slices.ContainsFunc(a.IPs, func(p netip.Prefix) bool { return own[behind(p.Addr())] }) {
			puts[keyAttach+a.Name] = recordOf(a)
		}
	}
	if len(puts) == 0 {
		return nil
	}
	s.log.Info("attachments of lost state found, and their addresses claimed", "network", n.name, "attachments", len(puts))
	return s.mesh.Publish(n.vni, puts, nil)
}

// giveWay takes off the network what has an address here that somebody else has by a better right.
func (s *System) giveWay(n *network) {
	for _, o := range s.ipam.Overruled(n.vni) {
		var errs []error
		for _, a := range s.vnet.Attachments() {
			if a.VNI != n.vni || !stands(a, o.Addr) {
				continue
			}
			errs = append(errs, s.vnet.Detach(a.Network, a.Name), s.mesh.Publish(n.vni, nil, []string{keyAttach + a.Name, names.KeyAliases + a.Name}))
			s.trouble(overruled(a.Network, a.Name), s.whyOverruled(a, o))
		}
		errs = append(errs, s.ipam.Release(n.vni, o.Key))
		if err := errors.Join(errs...); err != nil {
			s.log.Error("address of somebody else's not given up", "network", n.name, "address", o.Addr, "err", err)
		}
	}
}

// stands reports whether an attachment has an address of the ring: as it is, or in its IPv6 address.
func stands(a vnet.Attachment, v4 netip.Addr) bool {
	return slices.ContainsFunc(a.IPs, func(p netip.Prefix) bool { return behind(p.Addr()) == v4.As4() })
}

// behind returns the IPv4 address from which an address of a network follows (ipam.IP6).
func behind(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	b := a.As16()
	return [4]byte(b[12:])
}

// overruled is the trouble of an attachment whose address somebody else has.
func overruled(network, name string) string { return "claim " + network + "/" + name }

func (s *System) whyOverruled(a vnet.Attachment, o ipam.Overrule) string {
	fix := "end it and start it again"
	switch a.Kind {
	case vnet.KindNetns:
		fix = fmt.Sprintf("weft attach --netns %s --network %s --name %s", a.Netns, a.Network, a.Name)
	case vnet.KindPID:
		fix = fmt.Sprintf("weft attach --pid %d --network %s --name %s", a.PID, a.Network, a.Name)
	case vnet.KindExpose:
		fix = "weft expose --network " + a.Network
	case vnet.KindDocker:
		fix = "start the container again"
	}
	return fmt.Sprintf("%s in network %s had the address %s, which %s on host %s was given while this host was without its state: it is taken off the network; %s, for another address",
		a.Name, a.Network, o.Addr, o.By, cmp.Or(s.hostNames()[o.Host], o.Host.Short()), fix)
}
