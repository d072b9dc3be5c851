package mesh

import "sync/atomic"

// drop names a reason for which the mesh drops a packet.
type drop int

const (
	dropShort drop = iota
	dropType
	dropSession
	dropForged
	dropReplay
	dropSpent
	dropNoPath
	dropRelayed
	dropNested
	dropPing
	dropRead
	dropSend
	dropHandshakeQueue
	dropHandshakeLate
	dropControlQueue
	dropUnknownKind
	dropState
	dropHandingOver
	dropGone
	dropBye
	numDrops
)

var dropNames = [numDrops]string{
	"short", "unknown_type", "unknown_session", "forged", "replay", "key_spent", "no_path", "relay_refused",
	"relay_nested", "ping", "read_error", "send_error", "handshake_queue_full", "handshake_late", "control_queue_full", "unknown_kind", "state_refused",
	"handing_over", "gone", "goodbye",
}

// dropCounters counts by reason; any goroutine adds.
type dropCounters struct {
	n       [numDrops]atomic.Uint64
	relayed atomic.Uint64 // packets forwarded for others: no drop, but counted here
}

func (d *dropCounters) add(r drop) { d.n[r].Add(1) }

// Drops returns the packets dropped so far by reason; zero ones are left out.
func (m *Mesh) Drops() map[string]uint64 {
	out := map[string]uint64{}
	for i, name := range dropNames {
		if v := m.drops.n[i].Load(); v > 0 {
			out[name] = v
		}
	}
	return out
}

// Handshakes returns how often each thing named in package handshake happened.
func (m *Mesh) Handshakes() map[string]uint64 {
	var out map[string]uint64
	_ = m.do(func() { out = m.machine.Counters() })
	return out
}

// Relayed returns the packets forwarded for other hosts.
func (m *Mesh) Relayed() uint64 { return m.drops.relayed.Load() }
