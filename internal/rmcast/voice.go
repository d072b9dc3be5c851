package rmcast

import (
	"time"

	"github.com/weft-net/weft/internal/island"
)

// A bus may have two groups, one in each address family. What a member sends to all it sends to one of them, its voice: so nobody gets that twice, and
// who hears it is learned as ever. To the other group it sends beacons alone, which say that they are aside. By them members find it that hear nothing
// else, and it learns who would hear it there. When those are more than hear its voice, it changes that.

const (
	// asideEach is how many beacons at rest go to the voice for each that goes aside, heardFor how long one counts of which no more follow: two may be lost.
	asideEach = 3
	heardFor  = 3*asideEach*island.BeaconEvery + 5*time.Second
	// asideLeast is how many beacons aside show that it is heard: one more than it takes for a voice.
	asideLeast = 3
	// voiceHold is for how long more members must hear the other group before it becomes the voice.
	voiceHold = 5 * time.Second
)

// Groups is what a Wire can do that has two groups, 0 and 1.
type Groups interface {
	// Aside sends a datagram to the group that Send does not use.
	Aside(buf []byte)
	// Use has Send use a group from now on; before that it is group 0.
	Use(group int)
}

// voices is a member's part in this.
type voices struct {
	aside   uint64       // number of its last beacon aside
	beacons [2]time.Time // when its last one came by each group
	runs    [2]int       // how many did, since it was last deaf to us
	word    uint64       // number of the control packet that said what it hears
	reaches byte         // the groups by which ours come to it, as it says: 1 and 2
	shown   byte         // those by which its own come here, as it was told
	lost    time.Time    // when it ceased to hear ours
	says    bool         // that it hears ours
	place   place        // as senders know
}

// voice is this member's own part.
type voice struct {
	group    byte
	usable   byte // the groups that can be sent to: 1 and 2
	asideIn  int  // beacons until one goes aside
	betterAt time.Time
}

// overtaken reports whether a member has said later than in the packet at hand what it hears.
func (n *Node) overtaken(m *member) bool {
	if n.counter < m.word {
		return true
	}
	m.word = n.counter
	return false
}

// Voice returns the group that is used to send to all.
func (n *Node) Voice() int { return int(n.voice.group) }

// Usable tells to which groups can be sent now, 1 and 2, and that it is time to be heard there. It returns when Tick is to be called.
func (n *Node) Usable(now time.Time, groups byte) time.Time {
	v := &n.voice
	v.usable = groups
	if n.cfg.Groups != nil && groups != 0 && groups&(1<<v.group) == 0 {
		n.changeVoice(now)
	}
	for _, m := range n.members {
		if !n.hasVoice() {
			n.reaches(now, m, false)
		}
		n.place(now, m)
	}
	n.speak(now)
	return n.next
}

// hasVoice reports whether anything can be sent to all.
func (n *Node) hasVoice() bool { return n.voice.usable&(1<<n.voice.group) != 0 }

// callOut sends a beacon, and now and then one aside: with each while they come often.
func (n *Node) callOut(number uint64, pause time.Duration) {
	v := &n.voice
	if !n.hasVoice() {
		return
	}
	b := hello{beacon: true, number: number, second: v.group == 1}
	n.sendHello(zeroAddr, true, b)
	if n.cfg.Groups == nil || v.usable&(1<<(1-v.group)) == 0 {
		return
	}
	if v.asideIn--; v.asideIn > 0 && pause >= island.BeaconEvery {
		return
	}
	v.asideIn = asideEach
	b.aside, b.second = true, !b.second
	n.sendHello(zeroAddr, true, b)
}

// beacon takes a beacon of a member, which has a number of its own.
func (n *Node) beacon(now time.Time, m *member, group bool, h hello) {
	last := &m.lastBeacon
	if h.aside {
		last = &m.aside
	}
	if h.number <= *last {
		n.Stats.Replayed++
		return
	}
	*last = h.number
	if group { // only its multicast tells something
		g := flag(h.second, 1)
		m.beacons[g] = now
		m.runs[g]++
		if h.aside {
			g = 1 - g
		}
		if n.speaksTo(now, m, g); !h.aside {
			known := !m.hear && m.runs[g] > asideLeast && now.After(m.deafUntil)
			if known { // by its beacons aside: what comes there next need not wait for a second one to the voice
				n.ear.Beacon(now, m.ID.host(), h.number-1)
				m.groupRun = max(m.groupRun, 1)
			}
			n.ear.Beacon(now, m.ID.host(), h.number)
			n.heard(now, m, true)
			if known {
				n.setHear(now, m, true)
			}
		} else {
			n.heard(now, m, false)
		}
	}
	if !m.believed {
		n.introduce(now, m)
	}
}

// speaksTo notes to which group a member sends.
func (n *Node) speaksTo(now time.Time, m *member, group byte) {
	if m.Voice == group {
		return
	}
	m.Voice = group
	switch {
	case !m.hear:
	case m.runs[group] == 0 || now.Sub(m.beacons[group]) >= heardFor: // no need to wait until that shows
		m.groupRun = 0
		n.setHear(now, m, false)
	default:
		n.place(now, m)
		n.event(PathChanged, m)
	}
}

// comesBy returns by which groups a member's beacons come here, 1 and 2.
func (m *member) comesBy(now time.Time) byte {
	groups := m.voiceHere()
	if g := 1 - m.Voice; m.runs[g] >= asideLeast && now.Sub(m.beacons[g]) < heardFor {
		groups |= 1 << g
	}
	return groups
}

// voiceHere returns the group by which a member's multicast comes here, 1 or 2, or 0.
func (m *member) voiceHere() byte { return flag(m.hear, 1<<m.Voice) }

// place tells every sender by which group a member's multicast comes here, and by which ours would reach it. What came by the same
// group before it ceased to hear ours says nothing any more.
func (n *Node) place(now time.Time, m *member) {
	here := m.voiceHere() * flag(m.Hears || m.Voice != n.voice.group || !m.lastGroup.Before(m.lost), 1)
	at := place{here, m.reaches, !n.hasVoice() && m.says}
	if m.place == at {
		return
	}
	m.place = at
	for _, tx := range n.senders {
		tx.place(now, m.ID, at)
	}
}

// weigh tells members what is new of that, and changes the voice if for a while more of them have heard the other group.
func (n *Node) weigh(now time.Time) {
	v := &n.voice
	here, there := 0, 0
	for _, m := range n.members {
		if m.State == Unreachable {
			continue
		}
		if m.comesBy(now) != m.shown && len(n.members) <= restCrowd { // more are told with the next ping
			n.ask(now, m, recPing)
		}
		here += int(m.reaches >> v.group & 1)
		there += int(m.reaches >> (1 - v.group) & 1)
	}
	switch {
	case n.cfg.Groups == nil || there <= here || v.usable&(1<<(1-v.group)) == 0:
		v.betterAt = time.Time{}
	case v.betterAt.IsZero():
		v.betterAt = now
	case now.Sub(v.betterAt) >= voiceHold:
		n.changeVoice(now)
	}
}

// changeVoice has all that is sent to all go to the other group. Who does not hear that, as far as is known, gets copies at once. A beacon says so at
// once, too: those that were deaf say before it that they hear nothing, and get copies until they say that they do.
func (n *Node) changeVoice(now time.Time) {
	v := &n.voice
	v.group, v.betterAt, v.asideIn = 1-v.group, time.Time{}, 0
	n.cfg.Groups.Use(int(v.group))
	n.Stats.VoiceChanges++
	for _, m := range n.members {
		n.reaches(now, m, n.hasVoice() && m.reaches&(1<<v.group) != 0)
	}
	n.mouth.Now()
	n.mouthAt = now
	n.wake(now)
}
