package cast

import (
	"sync/atomic"

	"github.com/weft-net/weft/internal/fdb"
)

// drop is a reason why a frame or packet went no further: those of package fdb, then the engine's own.
type drop uint8

const (
	dropNoTable drop = drop(fdb.NumDrops) + iota
	dropTooBig
	dropRate
	dropNoPath
	dropKeySpent
	dropSealing
	dropSend
	dropTapWrite
	dropTapRefused
	dropShort
	dropForged
	dropReplay
	dropUnknownKey
	dropKind
	dropNoNetwork
	dropWrongVNI
	dropNotOfNetwork
	dropFragment
	dropKeyMessage
	dropKeyRefused
	dropOffload
	dropNotExpected
	dropTreeMessage
	dropPlanQueue
	numDrops
)

var dropNames = [numDrops - drop(fdb.NumDrops)]string{
	"no_table",           // the network has no table yet
	"too_big",            // longer than the network's MTU allows
	"rate_limit",         // broadcast and link-local groups beyond the network's rate
	"no_path",            // the receiver has no path now (a copy)
	"key_spent",          // the key sealed its budget and no other is there
	"seal_failed",        // any other failure of sealing
	"send_refused",       // the kernel refused the packet (a copy)
	"tap_failed",         // the uplink is closed
	"tap_refused",        // the kernel refused the frame
	"short_packet",       // less than headers and tag
	"forged",             // did not open under its key
	"replay",             // a duplicate, or too old
	"unknown_key",        // the sender key never came
	"kind",               // no frame inside
	"no_network",         // this host does not have the network
	"wrong_vni",          // the frame is of another network than its sender key
	"not_of_network",     // the sender does not have the network
	"fragment",           // a fragment that fits nowhere
	"key_message",        // a key message that is none
	"sender_key_refused", // a sender key that must not be taken
	"bad_offload",        // a super-frame, or a segment of one, that contradicts itself
	"not_expected",       // native multicast of a network that this host does not have
	"tree_message",       // a message about trees that is none
	"plan_queue",         // a message about trees, a beacon, that found the planner busy
}

// String returns the counter's name.
func (d drop) String() string {
	if d < drop(fdb.NumDrops) {
		return fdb.Drop(d).String()
	}
	if d < numDrops {
		return dropNames[d-drop(fdb.NumDrops)]
	}
	return "unknown"
}

// dropCounters are one counter per reason, written by any goroutine.
type dropCounters [numDrops]atomic.Uint64

func (c *dropCounters) count(d drop) { c[d].Add(1) }

// addTo adds the counters that are not zero to m, by name.
func (c *dropCounters) addTo(m map[string]uint64) {
	for i := range c {
		if n := c[i].Load(); n > 0 {
			m[drop(i).String()] += n
		}
	}
}

// moveTo adds the counters to those of to: a network that goes leaves what it dropped.
func (c *dropCounters) moveTo(to *dropCounters) {
	for i := range c {
		to[i].Add(c[i].Swap(0))
	}
}
