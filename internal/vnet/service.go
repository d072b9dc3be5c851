package vnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
)

// Service is what this host itself answers at in a network, at addresses that are the same on every host: no other host is told of it, and no
// frame for it leaves this one.
type Service struct {
	MAC nl.MAC
	IPs []netip.Prefix // with the network's prefix length
}

// Serve plugs a new namespace into a network, for a service, in place of the one before. The service opens its sockets there: so it
// is reached by attachments and by nobody else, and reaches nobody else, not even the host. The namespace lasts as long as those sockets, and the caller
// closes it.
func (v *VNet) Serve(ctx context.Context, vni uint32, s Service) (netns.Namespace, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.usable(ctx); err != nil {
		return nil, err
	}
	n := v.networks[vni]
	if n == nil {
		return nil, fmt.Errorf("VNI %d: %w", vni, ErrNoNetwork)
	}
	ns, err := v.serve(n, s)
	if err != nil {
		return nil, fmt.Errorf("service in network %s: %w", n.spec.Name, err)
	}
	return ns, nil
}

// serviceName is that of no attachment.
const serviceName = ""

func (v *VNet) serve(n *network, s Service) (ns netns.Namespace, err error) {
	if len(s.IPs) == 0 || len(s.IPs) > MaxAddrs || s.MAC == (nl.MAC{}) || s.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("MAC %s with %d addresses", s.MAC, len(s.IPs))
	}
	for _, o := range v.attachments {
		if o.VNI == n.spec.VNI && o.MAC == s.MAC {
			return nil, fmt.Errorf("MAC %s is taken by %s", s.MAC, o.Name)
		}
	}
	if err := v.endService(n); err != nil {
		return nil, err
	}
	a := &attachment{Attachment: Attachment{
		AttachSpec: AttachSpec{Network: n.spec.Name, Name: serviceName, Kind: kindService, MAC: s.MAC, IPs: slices.Clone(s.IPs), Interface: "weft0"},
		VNI:        n.spec.VNI, Port: ServicePort(n.spec.Name),
	}}
	if err := v.nl.Delete(a.Port); err != nil { // left over by a daemon that was killed
		return nil, err
	}
	if ns, err = v.cfg.Netns.New(); err != nil {
		return nil, err
	}
	a.NS = ns.ID()
	err = v.makePair(n, a, ns, n.spec.MTU)
	if err == nil {
		err = v.plug(n, a)
	}
	if err == nil {
		err = v.configure(n, a, ns)
	}
	if err == nil {
		err = v.nl.AwaitRunning(a.port)
	}
	if err != nil {
		return nil, errors.Join(err, v.unplug(a), ns.Close())
	}
	n.service = a
	return ns, nil
}

// Serves reports whether Serve has plugged a service into a network, and it is still there.
func (v *VNet) Serves(vni uint32) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.networks[vni]
	return n != nil && n.service != nil
}

// endService unplugs a network's service. Precondition: v.mu must be locked.
func (v *VNet) endService(n *network) error {
	if n.service == nil {
		return nil
	}
	a := n.service
	n.service = nil
	return v.unplug(a)
}
