package discover

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// heardLife is how long a beacon is believed: six of the calm ones.
	heardLife = 30 * time.Second
	// answerPause is the least time between two beacons that answer those who look for hosts: with many of them, one answers all.
	answerPause = time.Second
	// A flood of forged beacons costs at most this many MACs a second; the others are dropped unread.
	beaconRate, beaconBurst = 1000.0, 1000.0
)

// heard judges what comes from the local segment: input and now in, a verdict out. Strangers leave nothing behind but a number.
type heard struct {
	hosts    map[netip.AddrPort]time.Time // when their last beacon came; at most MaxFound
	stranger time.Time                    // when the last beacon under another key came
	budget   float64
	at       time.Time // of budget
	answered time.Time
	counts   [numLANDrops]uint64
}

// lanDrop names a reason for which a datagram on the beacons' port is dropped.
type lanDrop int

const (
	dropFlood lanDrop = iota
	dropMalformed
	dropStranger
	dropSource
	dropFull
	numLANDrops
)

var lanDropNames = [numLANDrops]string{"lan_flood", "lan_malformed", "lan_stranger", "lan_source", "lan_full"}

// input takes a datagram; answer asks for a beacon of this host's.
func (h *heard) input(now time.Time, b []byte, from netip.Addr, key *Key) (answer bool) {
	if passed := now.Sub(h.at); passed > 0 {
		h.budget = min(h.budget+beaconRate*passed.Seconds(), beaconBurst)
		h.at = now
	}
	if h.budget < 1 {
		h.counts[dropFlood]++
		return false
	}
	h.budget--
	beacon, err := DecodeBeacon(b, key)
	switch {
	case err == errStranger: //nolint:errorlint // DecodeBeacon's own, never wrapped: nothing is allocated for a stranger
		h.counts[dropStranger]++
		h.stranger = now
		return false
	case err != nil:
		h.counts[dropMalformed]++
		return false
	case beacon.Addr.Addr() != from:
		h.counts[dropSource]++
		return false
	}
	if h.hosts == nil {
		h.hosts = map[netip.AddrPort]time.Time{}
	}
	if _, known := h.hosts[beacon.Addr]; !known && len(h.hosts) >= MaxFound {
		h.forget(now)
		if len(h.hosts) >= MaxFound {
			h.counts[dropFull]++
			return false
		}
	}
	h.hosts[beacon.Addr] = now
	if beacon.Looking && now.Sub(h.answered) >= answerPause {
		h.answered = now
		return true
	}
	return false
}

func (h *heard) forget(now time.Time) {
	for ap, at := range h.hosts {
		if now.Sub(at) > heardLife {
			delete(h.hosts, ap)
		}
	}
}

// list returns the hosts heard of late.
func (h *heard) list(now time.Time) []netip.AddrPort {
	h.forget(now)
	out := make([]netip.AddrPort, 0, len(h.hosts))
	for ap := range h.hosts {
		out = append(out, ap)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}
