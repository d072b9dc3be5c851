package bare

import "sync/atomic"

// drop is why a datagram or a message was not passed on.
type drop int

const (
	dropRate       drop = iota // datagrams beyond MaxRate
	dropQueueFull              // messages that found the queue to the group full
	dropTooLarge               // messages longer than a datagram
	dropYielded                // messages that waited when another host began to pass them
	dropSendFailed             // messages that the system refused to send
	dropBus                    // datagrams that the bus did not take
	dropChecksum               // datagrams whose UDP checksum is wrong
	dropMalformed              // what is no UDP packet
	dropSocketFull             // packets that found the socket's buffer full
	dropBadBeacon              // beacons that no host of the cluster made
	dropOldBeacon              // beacons heard before
	dropDeadBeacon             // beacons of hosts that the cluster does not know as alive
	dropHeardFull              // beacons of hosts beyond MaxHeard
	dropKinds
)

var dropNames = [dropKinds]string{
	"rate", "queue_full", "too_large", "yielded", "send_failed", "bus_unavailable", "checksum", "malformed", "socket_rx_full",
	"bad_beacon", "old_beacon", "unknown_host", "too_many_hosts",
}

type counters struct {
	drops                      [dropKinds]atomic.Uint64
	in, out, inBytes, outBytes atomic.Uint64
	// passive counts datagrams that came while another host passed them on, bridged those that other hosts' bridges sent.
	passive, bridged atomic.Uint64
}

func (c *counters) names() map[string]uint64 {
	out := map[string]uint64{}
	for i, n := range dropNames {
		out[n] = c.drops[i].Load()
	}
	return out
}
