package broker

import (
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/envelope"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// What members that are no brokers hear of a broker's interest, and it of theirs: what members of a bus tell each other, all of it at
// each change. So there is a bound, and a pause that grows with what it costs.
const (
	// newsID is the number of the interest by which brokers know each other.
	newsID = 1
	// maxDeclared and maxDeclaredBytes bound what is declared. What is more is declared as wanting everything; a queue group that has no room
	// gets nothing from programs, and is counted.
	maxDeclared      = 1024
	maxDeclaredBytes = 96 << 10
	// declareLeast is the shortest pause between two declarations, declareEach what each interest and member adds: who subscribes anew for
	// each request costs no more than 3 MB/s so. declareMost is the longest.
	declareLeast = 2 * time.Millisecond
	declareEach  = 20 * time.Microsecond
	declareMost  = time.Second
	// maxRefusals bounds the answers that nobody is there.
	maxRefusals = 256
	// inboxes begin subjects that clients wait for answers on: who answers before it has heard of one has kept what it said.
	inboxes = "_INBOX."
)

// nobodyThere is the envelope of a message that says that nobody is there to answer.
var nobodyThere = envelope.Append(nil, envelope.Envelope{Header: []byte("NATS/1.0 503\r\n\r\n")})

// declare tells members that are no brokers what is wanted here, and returns how long it is not to be done again.
func (u *uplink) declare() time.Duration {
	b := u.b
	b.mu.Lock()
	if b.uplink != u || !u.stale {
		b.mu.Unlock()
		return 0
	}
	u.stale = false
	all, left := u.interests(b.wants)
	pause := min(declareLeast+declareEach*time.Duration(len(all)*len(b.peers)), declareMost)
	b.mu.Unlock()
	b.counters.interestFull.Add(uint64(left))
	u.bus.Want(all)
	return pause
}

// interests makes what is declared of wants: each with the number it had before, and how many queue groups had no room.
func (u *uplink) interests(wants map[want]int) (all []rmcast.Interest, left int) {
	maps.DeleteFunc(u.ids, func(w want, _ uint32) bool { return wants[w] == 0 && w != want{pattern: ">"} })
	all = append(all, rmcast.Interest{ID: newsID, Pattern: subjectNews})
	size := 0
	var plain []rmcast.Interest
	for w, n := range wants {
		i := rmcast.Interest{ID: u.id(w), Pattern: w.pattern, Queue: w.queue}
		switch {
		case w.queue != "" && (len(all) >= maxDeclared || size+i.Size() > maxDeclaredBytes):
			left++
		case w.queue != "":
			i.N = uint64(n)
			size += i.Size()
			all = append(all, i)
		default:
			if strings.HasPrefix(w.pattern, inboxes) {
				i.Mode = rmcast.FromOldest
			}
			plain = append(plain, i)
		}
	}
	for i := range plain {
		size += plain[i].Size()
	}
	if len(all)+len(plain) > maxDeclared || size > maxDeclaredBytes {
		plain = append(plain[:0], rmcast.Interest{ID: u.id(want{pattern: ">"}), Pattern: ">"})
	}
	return append(all, plain...), left
}

// id numbers a want, as long as it is there.
func (u *uplink) id(w want) uint32 {
	if u.ids[w] == 0 {
		u.lastID++
		u.ids[w] = u.lastID
	}
	return u.ids[w]
}

// meet takes note of a member of which nothing is known; b.mu is held.
func (b *Broker) meet(epoch uint64, name string) *peer {
	if len(b.peers) >= MaxPeers {
		b.counters.strange.Add(1)
		return nil
	}
	p := &peer{epoch: epoch, name: name, subs: map[want]*Subscription{}}
	b.peers[epoch] = p
	b.brokers++ // it may be one
	b.gen.Add(1)
	b.tellChanged()
	return p
}

// setKind takes note of what a member is; b.mu is held.
func (b *Broker) setKind(p *peer, k kind) {
	if p.kind != isProgram && k == isProgram {
		b.brokers--
	} else if p.kind == isProgram && k != isProgram {
		b.brokers++
	}
	p.kind = k
}

// Wants takes note of what a member has declared. It may be called from any goroutine, and waits for nothing. A broker says by itself, and
// better, what it wants.
func (l *Link) Wants(epoch uint64, name string, all []rmcast.Interest) {
	b := l.u.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uplink != l.u || epoch == l.u.self {
		return
	}
	p := b.peers[epoch]
	if p == nil {
		if p = b.meet(epoch, name); p == nil {
			return
		}
	}
	if slices.ContainsFunc(all, func(i rmcast.Interest) bool { return i.Pattern == subjectNews && i.Queue == "" }) {
		if p.kind != isBroker {
			b.setKind(p, isBroker)
			l.u.wake() // it is asked
		}
		return
	}
	if p.kind == isBroker {
		return // it is about to leave
	}
	b.setKind(p, isProgram)
	seats := map[want][]uint32{}
	for i := range all {
		w := want{all[i].Pattern, all[i].Queue}
		if len(seats) < MaxSubscriptions && subject.CheckPattern(w.pattern) == nil && CheckQueue(w.queue) == nil {
			seats[w] = append(seats[w], all[i].ID)
		}
	}
	var news []wanted
	for w := range p.subs {
		if seats[w] == nil {
			news = append(news, wanted{w, 0})
		}
	}
	for w, ids := range seats {
		news = append(news, wanted{w, len(ids)})
	}
	p.known = true
	b.apply(p, news)
	for w, s := range p.subs {
		s.seats = seats[w]
	}
	b.tellChanged()
}

// nobody answers a program whose request has found nobody here: who was here has just gone, or this host has declared to want everything. Only where
// the answer goes to the program itself: other members give other replies with other meanings.
func (b *Broker) nobody(epoch uint64, reply []byte) {
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], epoch)
	if !strings.HasPrefix(string(reply), inboxes+hex.EncodeToString(id[:])+".") {
		return
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	u, p := b.uplink, b.peers[epoch]
	if u == nil || p == nil || p.kind != isProgram {
		return
	}
	select {
	case u.refusals <- slices.Clone(reply):
	default:
		b.counters.unsent.Add(1)
	}
}
