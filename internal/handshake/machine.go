package handshake

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/flynn/noise"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/seal"
	"github.com/weft-net/weft/internal/wire"
)

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)

// attempt is a handshake that this host began.
type attempt struct {
	born    time.Time
	peer    *ident.Card // nil: first contact
	state   *noise.HandshakeState
	key     macKey // of what the responder says without Noise: cookie and refuse
	answer  [macSize]byte
	hello   []byte
	cookied bool // a cookie was used: the next one is ignored
}

// halfOpen is a first contact that this host answered.
type halfOpen struct {
	born   time.Time
	state  *noise.HandshakeState
	answer [macSize]byte
	remote uint32
	info   Info
	suite  seal.Suite
}

func (m *Machine) noiseState(mode byte, initiator bool, header []byte, peer []byte) (*noise.HandshakeState, error) {
	c := noise.Config{
		CipherSuite:   suite,
		Random:        m.cfg.Rand,
		Initiator:     initiator,
		StaticKeypair: m.static,
		Prologue:      append(append([]byte("weft handshake 1\x00"+m.cfg.Domain+"\x00"), m.cfg.Cluster[:]...), header...),
	}
	if mode == modeFirst {
		psk := pskOf(m.secret, m.cfg.Domain, m.cfg.Cluster)
		c.Pattern, c.PresharedKey = noise.HandshakeXX, psk[:]
	} else {
		c.Pattern, c.PeerStatic = noise.HandshakeIK, peer
	}
	return noise.NewHandshakeState(c)
}

// reload follows a rotated secret. Attempts under the old one go on.
func (m *Machine) reload() {
	if m.cfg.Secret == nil {
		return
	}
	if s := m.cfg.Secret(); s != m.secret {
		m.secret = s
		m.first = newMACKey(firstKey(s, m.cfg.Domain, m.cfg.Cluster))
	}
}

func (m *Machine) self(now time.Time) (*Info, error) {
	i := m.cfg.Self(now)
	if i.Card == (ident.Card{}) {
		i.Card = m.cfg.Keys.Card()
	}
	if i.Unix == 0 {
		i.Unix = now.Unix()
	}
	if err := i.Validate(); err != nil {
		return nil, fmt.Errorf("handshake: this host's own info: %w", err)
	}
	return &i, nil
}

// newIndex draws an index that no attempt, answer or session has.
func (m *Machine) newIndex() (uint32, error) {
	if len(m.sessions)+len(m.attempts)+len(m.halfOpen) >= MaxSessions {
		return 0, ErrSessions
	}
	for range 64 { // 2^32 numbers for 2^16 sessions: a second round is rare, a 64th means a broken source
		var b [4]byte
		if _, err := io.ReadFull(m.cfg.Rand, b[:]); err != nil {
			return 0, fmt.Errorf("handshake: draw index: %w", err)
		}
		i := binary.BigEndian.Uint32(b[:])
		_, s := m.sessions[i]
		if i != 0 && !s && m.attempts[i] == nil && m.halfOpen[i] == nil {
			return i, nil
		}
	}
	return 0, ErrSessions
}

func (m *Machine) drawAnswer() (k [macSize]byte, err error) {
	if _, err = io.ReadFull(m.cfg.Rand, k[:]); err != nil {
		err = fmt.Errorf("handshake: draw key: %w", err)
	}
	return k, err
}

// Start begins a handshake with the host of a known card, or, when peer is nil, first contact under the secret.
// It fails with ErrBusy, ErrSessions or ErrNoSecret, or when Self returns what may not be said.
func (m *Machine) Start(now time.Time, peer *ident.Card) (Attempt, error) {
	m.reload()
	if len(m.attempts) >= MaxHalfOpen {
		return Attempt{}, ErrBusy
	}
	if peer == nil && m.cfg.Secret == nil {
		return Attempt{}, ErrNoSecret
	}
	self, err := m.self(now)
	if err != nil {
		return Attempt{}, err
	}
	index, err := m.newIndex()
	if err != nil {
		return Attempt{}, err
	}
	a := &attempt{born: now}
	if a.answer, err = m.drawAnswer(); err != nil {
		return Attempt{}, err
	}
	mode, size, static := byte(modeFirst), firstPayload, []byte(nil)
	if peer != nil {
		p := *peer
		a.peer, mode, size, static = &p, modeKnown, payloadSize, p.Static[:]
		a.key = newMACKey(knownKey(static, m.cfg.Domain, m.cfg.Cluster))
	} else {
		a.key = newMACKey(firstKey(m.secret, m.cfg.Domain, m.cfg.Cluster))
	}
	b := make([]byte, helloHeader, HelloSize)
	putHeader(b, wire.TypeHello, m.version, mode, index)
	if a.state, err = m.noiseState(mode, true, b, static); err != nil {
		return Attempt{}, fmt.Errorf("handshake: %w", err)
	}
	say := payload{Answer: a.answer[:], Info: self}
	text, err := say.encode(size)
	if err != nil {
		return Attempt{}, err
	}
	if b, _, _, err = a.state.WriteMessage(b, text); err != nil {
		return Attempt{}, fmt.Errorf("handshake: %w", err)
	}
	b = append(b, a.key.sum(b, nil)...)
	a.hello = append(b, make([]byte, macSize)...)
	m.attempts[index] = a
	return Attempt{Index: index, Packet: bytes.Clone(a.hello)}, nil
}

// Input takes a handshake datagram. from names its source as finely as the source can be proven: an address
// with port, or the relay through which it came. The packet is not kept.
func (m *Machine) Input(now time.Time, from string, pkt []byte) Output {
	if len(pkt) < helloHeader {
		return m.drop(DropShort)
	}
	if len(from) > MaxSource {
		from = from[:MaxSource]
	}
	switch pkt[0] {
	case wire.TypeHello:
		out := m.hello(now, from, pkt)
		if len(out.Reply) > len(pkt) { // only a short hello of another version can get here
			out.Reply = nil
		}
		return out
	case wire.TypeReply:
		return m.reply(now, pkt)
	case wire.TypeFinish:
		return m.finish(now, pkt)
	case wire.TypeCookie:
		return m.takeCookie(now, pkt)
	case wire.TypeRefuse:
		return m.takeRefuse(now, pkt)
	}
	return m.drop(DropType)
}

func (m *Machine) hello(now time.Time, from string, pkt []byte) Output {
	h, ok := parseHello(pkt)
	if !ok {
		return m.drop(DropShort)
	}
	m.reload()
	key, wrong := &m.known, DropBadMAC
	switch h.mode {
	case modeFirst:
		key, wrong = &m.first, DropBadSecret
	case modeKnown:
	default:
		return m.drop(DropBadMAC)
	}
	if !key.check(h.mac1, h.covered(), nil) {
		if h.mode == modeFirst && m.cfg.Secret != nil {
			m.bad.add(now, from)
		}
		return m.drop(wrong)
	}
	// Whoever made this holds the key; but it may be a copy, and its source may be false.
	m.counters[CountHellos]++
	if m.replays.has(h.mac1) {
		return m.drop(DropReplay)
	}
	if m.flood.busy(now, m.cfg.Load) {
		if !m.flood.proven(now, from, &h) {
			out := m.drop(DropLoad)
			if b, err := m.flood.cookie(now, from, key, &h, m.version); err == nil {
				m.counters[CountCookies]++
				out.Reply = b
			}
			return out
		}
		if !m.flood.allow(now, from) {
			return m.drop(DropRate)
		}
	}
	if h.version != m.version {
		m.replays.add(h.mac1)
		out := m.drop(DropVersion)
		out.Reply = refuse(key, &h, m.version)
		return out
	}
	if len(pkt) != HelloSize {
		return m.drop(DropShort)
	}
	return m.answer(now, &h)
}

// refuse says in every version's form that the versions differ.
func refuse(key *macKey, h *hello, version byte) []byte {
	text := fmt.Sprintf("it speaks wire version %d, this host %d: run the same weft on both", version, h.version)
	b := make([]byte, helloHeader, minRefuse+len(text))
	putHeader(b, wire.TypeRefuse, version, 0, h.index)
	b = append(b, text...)
	return append(b, key.sum(b, h.mac1)...)
}

// answer does the public-key work for a hello of our version.
func (m *Machine) answer(now time.Time, h *hello) Output {
	first := h.mode == modeFirst
	if first && len(m.halfOpen) >= MaxHalfOpen {
		return m.drop(DropHalfOpen)
	}
	state, err := m.noiseState(h.mode, false, h.raw[:helloHeader], nil)
	if err != nil {
		return m.drop(DropNoise)
	}
	text, _, _, err := state.ReadMessage(nil, h.noise)
	if err != nil {
		return m.drop(DropNoise)
	}
	said, err := decodePayload(text)
	if err != nil || said.Info == nil || said.Info.Validate() != nil {
		return m.drop(DropInfo)
	}
	info := *said.Info
	id := info.Card.ID()
	known, isKnown := m.lookup(id)
	// A card that equals the known one needs no second look at its signature.
	if !(isKnown && known == info.Card) && info.Card.Check() != nil {
		return m.drop(DropInfo)
	}
	if !first && !bytes.Equal(state.PeerStatic(), info.Card.Static[:]) {
		return m.drop(DropInfo)
	}
	no := m.refusal(id, info, first, h)
	if no == nil && !first && !(isKnown && known == info.Card) {
		no = &Refusal{CodeUnknown, "the host is not in the cluster's state there: it joins under the token"}
	}
	m.replays.add(h.mac1)

	say := payload{Refusal: no}
	var index uint32
	if no == nil {
		if say.Info, err = m.self(now); err != nil {
			return m.drop(DropInfo)
		}
		if index, err = m.newIndex(); err != nil {
			return m.drop(DropSessions)
		}
		say.Suite = chooseSuite(info.Suites, say.Info.Suites)
	}
	answer, err := m.drawAnswer()
	if err != nil {
		return m.drop(DropNoise)
	}
	say.Answer = answer[:]
	text, err = say.encode(payloadSize)
	if err != nil {
		return m.drop(DropInfo)
	}
	b := make([]byte, replyHeader, firstReply)
	putHeader(b, wire.TypeReply, m.version, 0, h.index)
	binary.BigEndian.PutUint32(b[8:], index)
	b, in, out, err := state.WriteMessage(b, text)
	if err != nil {
		return m.drop(DropNoise)
	}
	b = append(b, make([]byte, macSize)...)
	signAnswer([macSize]byte(said.Answer), b)

	if no != nil {
		o := m.drop(DropRefused)
		o.Reply = b
		return o
	}
	if first {
		m.halfOpen[index] = &halfOpen{born: now, state: state, answer: answer, remote: h.index, info: info, suite: say.Suite}
		return Output{Reply: b}
	}
	m.sessions[index] = struct{}{}
	m.counters[CountDone]++
	return Output{Reply: b, Done: &Result{
		ID: id, Peer: info, Local: index, Remote: h.index, Suite: say.Suite,
		SendKey: out.UnsafeKey(), RecvKey: in.UnsafeKey(),
	}}
}

func (m *Machine) lookup(id ident.HostID) (ident.Card, bool) {
	if m.cfg.Known == nil {
		return ident.Card{}, false
	}
	return m.cfg.Known(id)
}

// refusal asks Admit, after what the Machine sees itself: our own HostID is ourselves, or a copy of our disk.
func (m *Machine) refusal(id ident.HostID, info Info, first bool, h *hello) *Refusal {
	if id == m.id {
		if h != nil && m.attempts[h.index] != nil {
			return &Refusal{CodeSelf, "this address is the host's own"}
		}
		return &Refusal{CodeElsewhere, "a host with the same keys is there (a cloned disk?): remove the state directory of one of the two"}
	}
	if m.cfg.Admit == nil {
		return nil
	}
	if r := m.cfg.Admit(id, info, first); r != nil {
		return r.clean()
	}
	return nil
}

// reply takes the responder's answer to an attempt.
func (m *Machine) reply(now time.Time, pkt []byte) Output {
	index := headerIndex(pkt)
	a := m.attempts[index]
	if a == nil || now.Sub(a.born) > HalfOpenAge {
		return m.drop(DropUnknown)
	}
	want := firstReply
	if a.peer != nil {
		want = knownReply
	}
	if len(pkt) != want {
		return m.drop(DropShort)
	}
	if !checkAnswer(a.answer, pkt) {
		return m.drop(DropBadMAC)
	}
	// Only who could read our hello gets here: a fault is the peer's, and the attempt is over.
	delete(m.attempts, index)
	fail := func(name string) Output {
		o := m.drop(name)
		o.Index = index
		return o
	}
	text, out, in, err := a.state.ReadMessage(nil, pkt[replyHeader:len(pkt)-macSize])
	if err != nil {
		return fail(DropNoise)
	}
	said, err := decodePayload(text)
	if err != nil {
		return fail(DropInfo)
	}
	if said.Refusal != nil {
		o := fail(DropRefused)
		o.Refused = said.Refusal.clean()
		return o
	}
	if said.Info == nil || said.Info.Validate() != nil || said.Suite != seal.SuiteAES && said.Suite != seal.SuiteChaCha {
		return fail(DropInfo)
	}
	r := &Result{
		ID: said.Info.Card.ID(), Peer: *said.Info, Local: index, Remote: binary.BigEndian.Uint32(pkt[8:]),
		Suite: said.Suite, Initiator: true, First: a.peer == nil, Confirmed: true,
	}
	if r.Remote == 0 {
		return fail(DropInfo)
	}
	o := Output{Index: index, Done: r}
	if a.peer != nil {
		if said.Info.Card != *a.peer {
			return fail(DropInfo)
		}
	} else {
		if said.Info.Card.Check() != nil || !bytes.Equal(a.state.PeerStatic(), said.Info.Card.Static[:]) {
			return fail(DropInfo)
		}
		if no := m.refusal(r.ID, r.Peer, true, nil); no != nil {
			f := fail(DropRefused)
			f.Refused = no
			return f
		}
		b := make([]byte, helloHeader, finishSize)
		putHeader(b, wire.TypeFinish, m.version, 0, r.Remote)
		if b, out, in, err = a.state.WriteMessage(b, nil); err != nil {
			return fail(DropNoise)
		}
		b = append(b, make([]byte, macSize)...)
		signAnswer([macSize]byte(said.Answer), b)
		o.Reply = b
	}
	r.SendKey, r.RecvKey = out.UnsafeKey(), in.UnsafeKey()
	m.sessions[index] = struct{}{}
	m.counters[CountDone]++
	return o
}

// finish takes the third message of a first contact.
func (m *Machine) finish(now time.Time, pkt []byte) Output {
	if len(pkt) != finishSize {
		return m.drop(DropShort)
	}
	index := headerIndex(pkt)
	h := m.halfOpen[index]
	if h == nil || now.Sub(h.born) > HalfOpenAge {
		return m.drop(DropUnknown)
	}
	if !checkAnswer(h.answer, pkt) {
		return m.drop(DropBadMAC)
	}
	delete(m.halfOpen, index)
	_, in, out, err := h.state.ReadMessage(nil, pkt[helloHeader:len(pkt)-macSize])
	if err != nil {
		return m.drop(DropNoise)
	}
	if !bytes.Equal(h.state.PeerStatic(), h.info.Card.Static[:]) {
		return m.drop(DropInfo)
	}
	id := h.info.Card.ID()
	// Two hosts of one name may have been answered in the same moment: the later finish is not taken,
	// and its next hello is told why.
	if m.refusal(id, h.info, true, nil) != nil {
		return m.drop(DropRefused)
	}
	m.sessions[index] = struct{}{}
	m.counters[CountDone]++
	return Output{Done: &Result{
		ID: id, Peer: h.info, Local: index, Remote: h.remote, Suite: h.suite,
		SendKey: out.UnsafeKey(), RecvKey: in.UnsafeKey(), First: true, Confirmed: true,
	}}
}

// takeCookie sends the hello of an attempt once more, with the proof of our address. It is the one
// answer longer than its question, once per attempt, and only to who can read our hello.
func (m *Machine) takeCookie(now time.Time, pkt []byte) Output {
	index := headerIndex(pkt)
	a := m.attempts[index]
	if a == nil || a.cookied || now.Sub(a.born) > HalfOpenAge {
		return m.drop(DropUnknown)
	}
	n := HelloSize - macSize
	cookie, ok := openCookie(pkt, &a.key, a.hello[n-macSize:n])
	if !ok {
		return m.drop(DropBadMAC)
	}
	a.cookied = true
	b := bytes.Clone(a.hello)
	copy(b[n:], macOnce(cookie, b[:n]))
	return Output{Reply: b, Index: index}
}

// takeRefuse ends an attempt that a host of another wire version answered.
func (m *Machine) takeRefuse(now time.Time, pkt []byte) Output {
	index := headerIndex(pkt)
	a := m.attempts[index]
	if a == nil || now.Sub(a.born) > HalfOpenAge {
		return m.drop(DropUnknown)
	}
	if len(pkt) < minRefuse || len(pkt) > minRefuse+MaxText {
		return m.drop(DropShort)
	}
	n, k := len(pkt)-macSize, HelloSize-2*macSize
	if !a.key.check(pkt[n:], pkt[:n], a.hello[k:k+macSize]) {
		return m.drop(DropBadMAC)
	}
	delete(m.attempts, index)
	o := m.drop(DropVersion)
	o.Index = index
	o.Refused = (&Refusal{CodeVersion, string(pkt[helloHeader:n])}).clean()
	return o
}
