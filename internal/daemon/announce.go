package daemon

import (
	"fmt"
	"net"

	"github.com/weft-net/weft/internal/ether"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/vnet"
)

// maxAnnounced is how many addresses of other hosts are announced when they become known together. Of very many nobody waits for most.
const maxAnnounced = 256

// announce tells the programs of a network on this host who has addresses that have just become known here. A program that was spoken to before that has
// asked for the address, of nobody, and would do so again after a second. The bridge keeps such frames off its uplinks (neigh_suppress).
func (s *System) announce(n *network, fresh []nl.Neighbour) {
	if len(fresh) == 0 {
		return
	}
	if err := s.announceOn(vnet.BridgeName(n.vni), fresh[:min(len(fresh), maxAnnounced)]); err != nil {
		s.log.Debug("addresses not announced", "network", n.name, "err", err)
	}
}

func (s *System) announceOn(bridge string, fresh []nl.Neighbour) error {
	iface, err := net.InterfaceByName(bridge)
	if err != nil {
		return err
	}
	var failed error
	for _, a := range fresh {
		frame, err := ether.Announcement(a.IP, ether.MAC(a.MAC))
		if err == nil {
			err = s.frames.Send(iface.Index, frame)
		}
		if err != nil {
			failed = fmt.Errorf("%v: %w", a.IP, err)
		}
	}
	return failed
}
