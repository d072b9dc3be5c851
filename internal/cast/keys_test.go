package cast

import (
	"bytes"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newKeys(t *testing.T, budget uint64, hosts ...ident.HostID) *sendKeys {
	t.Helper()
	s, err := newSendKeys(testVNI, seal.SuiteAES, DefaultRotation, budget, rand.Reader, start)
	check(t, err)
	s.setHosts(start, hosts)
	return s
}

// ackAll acknowledges every offer in q, from every host but those in except.
func (s *sendKeys) ackAll(now time.Time, except ...ident.HostID) (offers int) {
	for _, o := range s.take() {
		offers++
		if !slices.Contains(except, o.to) {
			s.ack(now, o.to, o.msg.ID)
		}
	}
	return offers
}

func TestOfferIsRepeatedUntilAcknowledged(t *testing.T) {
	s := newKeys(t, 0, idOf(2))
	var at []time.Duration
	for d := time.Duration(0); d <= 60*time.Second; d += 100 * time.Millisecond {
		s.tick(start.Add(d))
		for range s.take() {
			at = append(at, d)
		}
	}
	ms := time.Millisecond
	if want := []time.Duration{0, 200 * ms, 600 * ms, 1400 * ms, 3000 * ms, 6200 * ms, 12600 * ms}; !slices.Equal(at[:7], want) {
		t.Errorf("offers at %v, want %v", at[:7], want)
	}
	if n := len(at); n > 12 {
		t.Errorf("%d offers in a minute to a host that does not answer", n)
	}
	s.ack(start, idOf(2), s.current.id)
	s.tick(start.Add(10 * time.Minute))
	if n := len(s.take()); n != 0 {
		t.Errorf("%d offers after the acknowledgement", n)
	}
}

// A host that started again refuses offers until it knows that we are of the network; its own offer says that it does.
func TestOfferFollowsAnOffer(t *testing.T) {
	s := newKeys(t, 0, idOf(2), idOf(3))
	s.ackAll(start)
	now := start.Add(time.Minute)
	s.up(now, idOf(2))
	s.take()
	s.heard(now, idOf(2))
	if n := len(s.take()); n != 0 {
		t.Errorf("%d offers at the moment of another", n)
	}
	now = now.Add(heardPause)
	s.heard(now, idOf(2))
	s.heard(now, idOf(3)) // has acknowledged
	s.heard(now, idOf(4)) // not of the network
	if q := s.take(); len(q) != 1 || q[0].to != idOf(2) || q[0].msg.ID != s.current.id {
		t.Errorf("offers %+v, want one to the host that was heard", q)
	}
	s.ack(now, idOf(2), s.current.id)
	s.heard(now.Add(time.Second), idOf(2))
	if n := len(s.take()); n != 0 {
		t.Errorf("%d offers after the acknowledgement", n)
	}
}

// The next key is used once all have it, or after a second; not before.
func TestNewKeyIsHandedOverBeforeUse(t *testing.T) {
	for _, silent := range []bool{false, true} {
		s := newKeys(t, 0, idOf(2), idOf(3))
		s.ackAll(start)
		old, now := s.current.id, start.Add(DefaultRotation)
		s.tick(now)
		if s.next == nil || s.current.id != old {
			t.Fatal("used before it was handed over")
		}
		var except []ident.HostID
		if silent {
			except = []ident.HostID{idOf(3)}
		}
		if n := s.ackAll(now, except...); n != 2 {
			t.Errorf("%d offers of the new key, want 2", n)
		}
		if changed := s.current.id != old; changed == silent {
			t.Errorf("one host silent %v: key changed %v", silent, changed)
		}
		s.tick(now.Add(handoverWait))
		if s.current.id == old || s.rotations != 1 {
			t.Errorf("after a second: key changed %v, %d rotations", s.current.id != old, s.rotations)
		}
	}
}

func TestBudgetRotatesAtHalf(t *testing.T) {
	s := newKeys(t, 10)
	old := s.current
	buf := make([]byte, 100)
	for range 4 {
		_, err := old.sealer.SealGroup(buf, 10, 0)
		check(t, err)
		s.tick(start)
	}
	if s.current != old {
		t.Fatal("rotated before half of the budget")
	}
	_, err := old.sealer.SealGroup(buf, 10, 0)
	check(t, err)
	s.tick(start)
	if s.current == old || s.current.id == old.id || s.current.key == old.key {
		t.Error("not rotated at half of the budget")
	}
}

// Removals in a row rotate at once and then every ten seconds at most; a death is none (the set stays).
func TestRemovalsAreCoalesced(t *testing.T) {
	var hosts []ident.HostID
	for n := 2; n < 32; n++ {
		hosts = append(hosts, idOf(n))
	}
	s := newKeys(t, 0, hosts...)
	s.ackAll(start)
	now := start
	for len(hosts) > 1 { // one a second leaves
		now = now.Add(time.Second)
		gone := hosts[0]
		hosts = hosts[1:]
		s.setHosts(now, hosts)
		for _, o := range s.q {
			if o.to == gone {
				t.Error("key offered to a host that was removed")
			}
		}
		s.ackAll(now)
		s.tick(now)
	}
	if s.rotations != 3 {
		t.Errorf("%d rotations in 29 s of removals, want 3", s.rotations)
	}
	s.tick(now.Add(removalPause))
	s.ackAll(now.Add(removalPause))
	if s.rotations != 4 || s.removal {
		t.Errorf("%d rotations, still due %v: the last removals must be followed by one", s.rotations, s.removal)
	}
}

// A host removed while the next key is on its way knows that one too.
func TestRemovalDuringHandoverBurnsNextKey(t *testing.T) {
	s := newKeys(t, 0, idOf(2), idOf(3))
	s.ackAll(start)
	now := start.Add(DefaultRotation)
	s.tick(now)
	burnt := s.next.id
	s.setHosts(now, []ident.HostID{idOf(2)})
	s.ackAll(now)
	if s.current.id == burnt || s.next != nil && s.next.id == burnt {
		t.Error("a key that a removed host was offered came into use")
	}
	if s.rotations != 1 {
		t.Errorf("%d rotations, want 1", s.rotations)
	}
}

func TestOnlyHostsOfTheNetworkGetAnAnswer(t *testing.T) {
	s := newKeys(t, 0, idOf(2))
	s.ackAll(start)
	now := start.Add(time.Second)
	s.asked(now, idOf(3), s.current.id)
	if len(s.take()) != 0 {
		t.Error("the key went to a host without the network")
	}
	for range 100 {
		s.asked(now, idOf(2), s.current.id)
	}
	if n := len(s.take()); n != 1 {
		t.Errorf("%d answers to 100 questions at once", n)
	}
	if s.asked(now, idOf(2), s.current.id+1) {
		t.Error("knows a key that is not there")
	}
	s.up(now, idOf(3))
	if len(s.take()) != 0 {
		t.Error("a host without the network came up and got the key")
	}
	s.up(now, idOf(2))
	if len(s.take()) != 1 {
		t.Error("a host that restarted got no key")
	}
}

func offerOf(id uint64, b byte) *keyMessage {
	return &keyMessage{Op: keyOffer, VNI: testVNI, ID: id, Suite: seal.SuiteAES, Key: bytes.Repeat([]byte{b}, seal.KeySize)}
}

func TestKeyRing(t *testing.T) {
	r := newKeyRing()
	offer := func(now time.Time, n int, m *keyMessage) (ringChange, bool) { return r.offer(now, idOf(n), m) }
	c, ok := offer(start, 2, offerOf(1, 1))
	if !ok || c.add == nil || c.add.host != idOf(2) || c.add.vni != testVNI {
		t.Fatal("first key refused")
	}
	if c, ok := offer(start, 2, offerOf(1, 1)); !ok || c.add != nil {
		t.Error("the same offer again must be acknowledged and keep the replay window")
	}
	if _, ok := offer(start, 3, offerOf(1, 1)); ok {
		t.Error("another host took over a key id")
	}
	if _, ok := offer(start, 2, offerOf(1, 9)); ok {
		t.Error("another key under the same id")
	}
	bad := offerOf(50, 1)
	bad.Suite = 77
	if _, ok := offer(start, 2, bad); ok {
		t.Error("unknown suite")
	}

	_, _ = offer(start, 2, offerOf(2, 2))
	if gone := r.expire(start.Add(keepOld)); len(gone) != 0 {
		t.Errorf("%v dropped before %v", gone, keepOld)
	}
	if gone := r.expire(start.Add(keepOld + 1)); !slices.Equal(gone, []uint64{1}) {
		t.Errorf("%v expired, want the older key", gone)
	}
	if _, ok := offer(start, 2, offerOf(1, 1)); ok {
		t.Error("a retired key came back with an empty replay window")
	}
	for id := uint64(3); id < 20; id++ {
		c, ok = offer(start, 2, offerOf(id, byte(id)))
		if n := len(r.senders[sender{idOf(2), testVNI}].keys); !ok || n > maxKeysPerSender {
			t.Errorf("key %d: taken %v, %d keys kept", id, ok, n)
		}
	}
	if !slices.Equal(c.remove, []uint64{16}) {
		t.Errorf("removed %v, want the oldest", c.remove)
	}
	if gone := r.forgetNetwork(testVNI); len(gone) != maxKeysPerSender || len(r.byID) != 0 || len(r.senders) != 0 {
		t.Errorf("forgot %v; %d ids and %d senders left", gone, len(r.byID), len(r.senders))
	}
}

func TestKeyMessage(t *testing.T) {
	good := offerOf(1<<63, 5)
	plain := good.encode()
	m, err := decodeKeyMessage(plain)
	if err != nil || m.ID != good.ID || m.VNI != good.VNI || !bytes.Equal(m.Key, good.Key) {
		t.Fatalf("%v, %v", m, err)
	}
	clear(plain)
	if !bytes.Equal(m.Key, good.Key) {
		t.Error("the key is a part of the packet's buffer")
	}
	if bytes.Contains([]byte(good.String()), good.Key[:4]) {
		t.Error("the key shows in logs")
	}
	for name, m := range map[string]keyMessage{
		"no id": {Op: keyAsk}, "short key": {Op: keyOffer, ID: 1, Key: make([]byte, 31)}, "key in an ack": {Op: keyAck, ID: 1, Key: make([]byte, 32)},
		"VNI": {Op: keyAck, ID: 1, VNI: maxVNI + 1}, "op": {Op: 4, ID: 1}, "huge": {Op: keyOffer, ID: 1, Key: make([]byte, 300)},
	} {
		if _, err := decodeKeyMessage(m.encode()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
