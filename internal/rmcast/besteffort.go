package rmcast

import "time"

// Class says what a stream promises.
type Class byte

// The classes.
const (
	// Reliable streams are in order and gap-free, or say what is lost.
	Reliable Class = iota
	// BestEffort streams are in order and have nothing twice; what is lost is not asked for, and nobody waits for it.
	BestEffort
	// LastValue streams are in order and have nothing twice; of each subject the last message comes, and others if there is time.
	LastValue
	snapshotClass // last values for one receiver
)

func (c Class) hasValues() bool { return c == LastValue || c == snapshotClass }

// Receivers of best-effort streams confirm as those of others do, so that the sender knows who is there and when all know the end.
// But a gap is passed over at once, and what a heartbeat shows is given up when the next one comes and it is still not there.

// looseWait is how long what a heartbeat tells of may still be on its way by another path.
const looseWait = 10 * time.Millisecond

// loose is what a receiver keeps of a best-effort stream beside its place in it.
type loose struct {
	next, message uint64 // the end, as told
	at            time.Time
}

// acceptLoose takes a packet that is not older than those before.
func (r *rx) acceptLoose(seq uint64, plain []byte, in *block) {
	r.n.Stats.PassedOver += seq - r.next
	in.hold()
	r.ready = append(r.ready, Packet{Seq: seq, Plain: plain, in: in})
	r.next, r.high = seq+1, seq+1
}

// tailLoose learns where the stream ends: what was told before and did not come is passed over.
func (r *rx) tailLoose(now time.Time, next, message uint64) {
	if t := &r.loose; t.next > r.next && now.Sub(t.at) >= looseWait {
		r.n.Stats.PassedOver += t.next - r.next
		r.ready = append(r.ready, Packet{Gone: t.message})
		r.next, r.high = t.next, t.next
	}
	if next > r.next && (next > r.loose.next || r.loose.next <= r.next) {
		r.loose = loose{next, message, now}
	}
}
