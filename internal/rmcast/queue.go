package rmcast

import (
	"encoding/binary"
	"slices"

	"github.com/weft-net/weft/internal/subject"
)

// Each message goes to one subscription of each queue group that wants it: its sender deals it. On a stream of one subject, packets begin
// with a table, which names for each group up to eight subscriptions (of more, others in each packet), what each weighs, and whose turn it is at the
// first message that begins in the packet; so messages themselves carry nothing. On a stream of many subjects, and where there are so many groups
// that the table would fill a quarter of a packet, messages say themselves who of which group is to have them.

// Deal gives a message to a subscription of a queue group: 16 bytes, the group's hash 4, the member's epoch 8, the subscription's number 4.
type Deal struct {
	Group  uint32 // GroupHash of its name
	Member ID
	Sub    uint32 // Interest.ID
}

const (
	dealSize  = 16
	groupSize = 9  // of a group in a table: hash 4, how many 1, turn 4
	turnSize  = 14 // of each of its subscriptions: member 8, number 4, weight 2
	// inTurn is how many subscriptions of a group take the messages of a packet.
	inTurn = 8
)

// GroupHash names a queue group on the wire; it is never 0.
func GroupHash(group string) uint32 {
	h := uint32(2166136261) // FNV-1a
	for i := range len(group) {
		h = (h ^ uint32(group[i])) * 16777619
	}
	return max(h, 1)
}

func (d Deal) append(b []byte) []byte { return u32(u64(u32(b, d.Group), uint64(d.Member)), d.Sub) }

func readDeal(b []byte) Deal {
	return Deal{binary.BigEndian.Uint32(b), ID(binary.BigEndian.Uint64(b[4:])), binary.BigEndian.Uint32(b[12:])}
}

// seat is a subscription of a queue group.
type seat struct {
	member  ID
	sub     uint32
	pattern string
	weight  uint64
	upTo    uint64 // the sum of weights up to its own
}

// queue is one queue group that wants a stream.
type queue struct {
	hash  uint32
	seats []seat
}

func (q *queue) add(s seat) {
	s.upTo = s.weight
	if n := len(q.seats); n > 0 {
		s.upTo += q.seats[n-1].upTo
	}
	q.seats = append(q.seats, s)
}

// weyl maps a turn to [0, total): turns that follow each other are as far apart as can be (Weyl's sequence of the golden section), so that
// each subscription gets its share of few messages as of many.
func weyl(turn uint32, total uint64) uint64 { return uint64(turn*2654435769) * total >> 32 }

// at returns whose turn it is.
func (q *queue) at(turn uint32) *seat {
	n := weyl(turn, q.seats[len(q.seats)-1].upTo)
	i, _ := slices.BinarySearchFunc(q.seats, n, func(s seat, n uint64) int {
		if s.upTo <= n {
			return -1
		}
		return 1
	})
	return &q.seats[i]
}

// grouped returns the interests of queue groups: few of many.
func grouped(all []Interest) (out []Interest) {
	for i := range all {
		if all[i].Queue != "" {
			out = append(out, all[i])
		}
	}
	return out
}

// refreshQueues tells senders which queue groups there are and who is in them. A member that cannot be reached is not.
func (n *Node) refreshQueues() {
	for _, tx := range n.senders {
		if tx.cfg.Dealt || tx.cfg.Class.hasValues() {
			continue // read from tables, by all
		}
		most := maxGroups
		if !tx.wild {
			most = MaxDeals
		}
		var qs []queue
		add := func(id ID, interests []Interest) {
			for i := range interests {
				in := &interests[i]
				if !subject.Overlap(in.Pattern, tx.cfg.Subject) {
					continue
				}
				h := GroupHash(in.Queue)
				j := slices.IndexFunc(qs, func(q queue) bool { return q.hash == h })
				if j < 0 {
					if len(qs) == most {
						continue
					}
					j = len(qs)
					qs = append(qs, queue{hash: h})
				}
				weight := uint64(1)
				if in.Mode == FromNow {
					weight = min(max(in.N, 1), maxWeight)
				}
				qs[j].add(seat{member: id, sub: in.ID, pattern: in.Pattern, weight: weight})
			}
		}
		add(n.cfg.Self, n.grouped)
		for _, m := range n.members {
			if m.State != Unreachable {
				add(m.ID, m.grouped)
			}
		}
		tx.setQueues(qs)
	}
}

func (s *Sender) setQueues(qs []queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.EqualFunc(s.queues, qs, func(a, b queue) bool { return a.hash == b.hash && slices.Equal(a.seats, b.seats) }) {
		return
	}
	s.close(false)
	s.queues, s.routes = qs, nil
	s.inTurn = 0
	if s.dealsEach = len(qs) > 0; !s.wild {
		for k := inTurn; k > 0 && s.dealsEach; k /= 2 {
			if tableOf(len(qs), k) <= s.limit/4 {
				s.dealsEach, s.inTurn = false, k
			}
		}
	}
}

// tableOf is how long a table is that names so many subscriptions of each of some groups.
func tableOf(groups, each int) int { return 1 + groups*(groupSize+each*turnSize) }

// tableBytes is how long the table of a packet is.
func (s *Sender) tableBytes() int {
	if s.inTurn == 0 {
		return 0
	}
	return tableOf(len(s.queues), s.inTurn)
}

// appendTable writes who takes the messages of a packet in turn.
func (s *Sender) appendTable(b []byte) []byte {
	b = append(b, byte(len(s.queues)))
	for i := range s.queues {
		q := &s.queues[i]
		k := min(s.inTurn, len(q.seats))
		b = u32(append(u32(b, q.hash), byte(k)), s.turn)
		for j := range k {
			to, weight := &q.seats[j], uint16(1)
			if k == len(q.seats) {
				weight = uint16(to.weight)
			} else {
				to = q.at(s.shift + uint32(j)) // its weight is how often it is among these
			}
			b = binary.BigEndian.AppendUint16(u32(u64(b, uint64(to.member)), to.sub), weight)
		}
	}
	s.shift += uint32(s.inTurn)
	return b
}

// deal chooses who of each queue group is to have a message on a subject, and returns it as it goes along with the message: valid until the next call.
func (s *Sender) deal(subj string) []byte {
	if subj == "" {
		subj = s.cfg.Subject
	}
	qs, ok := s.routes[subj]
	if !ok {
		for i := range s.queues {
			q := queue{hash: s.queues[i].hash}
			for _, t := range s.queues[i].seats {
				if subject.Overlap(t.pattern, subj) {
					q.add(t)
				}
			}
			if len(q.seats) > 0 && len(qs) < MaxDeals {
				qs = append(qs, q)
			}
		}
		if s.routes == nil || len(s.routes) >= maxRoutes {
			s.routes = map[string][]queue{}
		}
		s.routes[subj] = qs
	}
	s.deals = s.deals[:0]
	if len(qs) > 0 {
		s.turn++
	}
	for i := range qs {
		to := qs[i].at(s.turn)
		s.deals = Deal{qs[i].hash, to.member, to.sub}.append(s.deals)
	}
	return s.deals
}

// SendDealt is Send of a message whose sender has chosen who of each queue group has it: of a stream with SenderConfig.Dealt. No more
// than MaxDeals.
func (s *Sender) SendDealt(subj string, headers, payload []byte, deals []Deal) (number uint64, full bool, err error) {
	s.mu.Lock()
	s.deals = s.deals[:0]
	for _, d := range deals[:min(len(deals), MaxDeals)] {
		s.deals = d.append(s.deals)
	}
	number, err = s.send(subj, headers, payload, s.deals)
	full = s.store.next-s.sent >= MaxTrain
	s.mu.Unlock()
	return number, full, err
}

// tables returns the table of queue groups of a packet, if it has one, and where the records begin.
func tables(plain []byte) (table, rest []byte, err error) {
	if len(plain) < packetHeader {
		return nil, nil, ErrMalformed
	}
	rest = plain[packetHeader:]
	if plain[0]&flagQueues == 0 {
		return nil, rest, nil
	}
	if len(rest) < 1 {
		return nil, nil, ErrMalformed
	}
	at := 1
	for range rest[0] {
		if len(rest) < at+groupSize || rest[at+4] == 0 || len(rest) < at+groupSize+int(rest[at+4])*turnSize {
			return nil, nil, ErrMalformed
		}
		at += groupSize + int(rest[at+4])*turnSize
	}
	return rest[:at:at], rest[at:], nil
}

// turns calls each for every group in a table with the one whose turn it is at a message, counted from the first that begins in the packet. each
// returns whether to go on.
func turns(table []byte, message uint64, each func(d Deal) bool) {
	for at := 1; at < len(table); {
		d := Deal{Group: binary.BigEndian.Uint32(table[at:])}
		turn := binary.BigEndian.Uint32(table[at+5:])
		end := at + groupSize + int(table[at+4])*turnSize
		total := uint64(0)
		for p := at + groupSize; p < end; p += turnSize {
			total += uint64(binary.BigEndian.Uint16(table[p+12:]))
		}
		n := weyl(turn+uint32(message), total)
		for p := at + groupSize; p < end; p += turnSize {
			weight := uint64(binary.BigEndian.Uint16(table[p+12:]))
			if n < weight {
				d.Member, d.Sub = ID(binary.BigEndian.Uint64(table[p:])), binary.BigEndian.Uint32(table[p+8:])
				break
			}
			n -= weight
		}
		if !each(d) {
			return
		}
		at = end
	}
}

// dealt returns the table for the message that was given last, and its place.
func (c *Cursor) dealt() (table []byte, index uint64) {
	if c.long {
		return c.longTable, c.longIndex
	}
	return c.table, c.index
}

// Seat has the cursor give only those messages that a subscription of a queue group is dealt.
func (c *Cursor) Seat(d Deal) { c.seat = d }

// Dealt appends the hashes of the groups of which a member has the message that Next or Plain gave last, and m is.
func (c *Cursor) Dealt(m *Message, member ID, to []uint32) []uint32 {
	table, index := c.dealt()
	turns(table, index, func(d Deal) bool {
		if d.Member == member {
			to = append(to, d.Group)
		}
		return true
	})
	for b := m.Deals; len(b) >= dealSize; b = b[dealSize:] {
		if d := readDeal(b); d.Member == member {
			to = append(to, d.Group)
		}
	}
	return to
}

// mine reports whether a message is for the cursor's seat.
func (c *Cursor) mine(m *Message) bool {
	if c.seat.Group == 0 {
		return true
	}
	found := false
	table, index := c.dealt()
	turns(table, index, func(d Deal) bool {
		found = found || d == c.seat
		return d.Group != c.seat.Group
	})
	for b := m.Deals; len(b) >= dealSize && !found; b = b[dealSize:] {
		found = readDeal(b) == c.seat
	}
	return found
}
