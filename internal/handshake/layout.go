package handshake

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/wire"
)

// The datagrams. Integers are big-endian. What is marked * never changes, whatever the wire version:
// hosts of different versions can still tell each other so.
//
//	hello    always HelloSize long, so that no answer to it is longer
//
//	0        1           2        3          4             8                     -32       -16
//	+--------+-----------+--------+----------+-------------+---------------------+---------+--------+
//	| type * | version * | mode * | reserved | initiator * | noise message 1     | mac1 *  | mac2 * |
//	+--------+-----------+--------+----------+-------------+---------------------+---------+--------+
//
//	reply
//
//	0        1           2        4             8             12                    -16
//	+--------+-----------+--------+-------------+-------------+---------------------+-------+
//	| type   | version   | 0      | initiator   | responder   | noise message 2     | mac   |
//	+--------+-----------+--------+-------------+-------------+---------------------+-------+
//
//	finish   first contact only
//
//	0        1           2        4             8                     -16
//	+--------+-----------+--------+-------------+---------------------+-------+
//	| type   | version   | 0      | responder   | noise message 3     | mac   |
//	+--------+-----------+--------+-------------+---------------------+-------+
//
//	cookie *
//
//	0        1           2        4             8             32                     64
//	+--------+-----------+--------+-------------+-------------+----------------------+
//	| type   | version   | 0      | initiator   | nonce       | sealed cookie 16+16  |
//	+--------+-----------+--------+-------------+-------------+----------------------+
//
//	refuse * of another version
//
//	0        1           2        4             8             -16
//	+--------+-----------+--------+-------------+-------------+-------+
//	| type   | version   | 0      | initiator   | text        | mac   |
//	+--------+-----------+--------+-------------+-------------+-------+
//
// mac1, and the mac of refuse, is HMAC-SHA256 cut to 16 bytes under a key from the cluster secret (first contact)
// or from the responder's X25519 key, both with the ClusterID. The mac of refuse goes on over the mac1 that it answers.
// mac2 is under the cookie, zero without one. The mac of reply and finish is under a key that the message before it
// carried encrypted, so nobody but the peer can disturb a handshake that is under way.
const (
	modeFirst = 1 // XXpsk0
	modeKnown = 2 // IK

	macSize     = 16
	helloHeader = 8
	replyHeader = 12
	aeadTag     = 16
	dhSize      = 32

	// payloadSize is the padded size of what is said inside: Info and Refusal fit with room for later fields.
	payloadSize = 448
	ikHello     = dhSize + dhSize + aeadTag + payloadSize + aeadTag
	// firstPayload is larger by what IK's first message has more than XX's.
	firstPayload = ikHello - dhSize - aeadTag

	// HelloSize is the length of every hello of this version in bytes, small enough for a relay envelope on the smallest path.
	HelloSize = helloHeader + ikHello + 2*macSize

	// MaxReply bounds everything that answers a hello, of whatever version.
	MaxReply = HelloSize

	firstReply = replyHeader + dhSize + dhSize + aeadTag + payloadSize + aeadTag + macSize
	knownReply = replyHeader + dhSize + payloadSize + aeadTag + macSize
	finishSize = helloHeader + dhSize + aeadTag + aeadTag + macSize
	cookieSize = helloHeader + 24 + macSize + aeadTag
	// minHello is the least that a hello of any version has.
	minHello  = cookieSize
	minRefuse = helloHeader + macSize
)

// Compile-time proofs: an answer is never longer than its question, and hellos fit everywhere.
const (
	_ = uint(HelloSize - firstReply)
	_ = uint(HelloSize - knownReply)
	_ = uint(wire.MinPath - wire.RelayTotal - HelloSize)
)

func putHeader(b []byte, typ, version byte, mode byte, index uint32) {
	b[0], b[1], b[2], b[3] = typ, version, mode, 0
	binary.BigEndian.PutUint32(b[4:], index)
}

func headerIndex(b []byte) uint32 { return binary.BigEndian.Uint32(b[4:]) }

// derive makes a key for one purpose from another one.
func derive(key []byte, label, domain string, cluster ident.ClusterID) [32]byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("weft " + label + "\x00" + domain + "\x00"))
	h.Write(cluster[:])
	return [32]byte(h.Sum(nil))
}

func firstKey(s ident.Secret, domain string, c ident.ClusterID) [32]byte {
	return derive(s[:], "mac1 first 1", domain, c)
}

func pskOf(s ident.Secret, domain string, c ident.ClusterID) [32]byte {
	return derive(s[:], "psk 1", domain, c)
}

func knownKey(static []byte, domain string, c ident.ClusterID) [32]byte {
	return derive(static, "mac1 known 1", domain, c)
}

// macKey makes and checks MACs under one key, without allocating. The zero value refuses everything.
type macKey struct {
	h      hash.Hash
	cookie [32]byte // the key that seals cookies
	buf    []byte
}

func newMACKey(key [32]byte) macKey {
	k := macKey{h: hmac.New(sha256.New, key[:]), buf: make([]byte, 0, sha256.Size)}
	k.cookie = derive(key[:], "cookie 1", "", ident.ClusterID{})
	return k
}

// sum returns the MAC over a and b; it is valid until the next call.
func (k *macKey) sum(a, b []byte) []byte {
	k.h.Reset()
	k.h.Write(a)
	k.h.Write(b)
	k.buf = k.h.Sum(k.buf[:0])
	return k.buf[:macSize]
}

func (k *macKey) check(mac, a, b []byte) bool {
	return k.h != nil && subtle.ConstantTimeCompare(mac, k.sum(a, b)) == 1
}

// macOnce is macKey for keys used once: cookies and answer keys.
func macOnce(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)[:macSize]
}

// signAnswer puts the MAC at the end of a reply or finish, checkAnswer verifies it.
func signAnswer(key [macSize]byte, b []byte) {
	n := len(b) - macSize
	copy(b[n:], macOnce(key[:], b[:n]))
}

func checkAnswer(key [macSize]byte, b []byte) bool {
	n := len(b) - macSize
	return subtle.ConstantTimeCompare(b[n:], macOnce(key[:], b[:n])) == 1
}

// hello is a view of a hello's parts.
type hello struct {
	raw     []byte
	version byte
	mode    byte
	index   uint32
	noise   []byte
	mac1    []byte
	mac2    []byte
}

// parseHello reads a hello of any version; ok is false when b cannot be one.
func parseHello(b []byte) (hello, bool) {
	if len(b) < minHello || len(b) > wire.MaxDatagram || b[0] != wire.TypeHello {
		return hello{}, false
	}
	n := len(b) - 2*macSize
	return hello{
		raw: b, version: b[1], mode: b[2], index: headerIndex(b),
		noise: b[helloHeader:n], mac1: b[n : n+macSize], mac2: b[n+macSize:],
	}, true
}

// covered is what mac1 is over.
func (h *hello) covered() []byte { return h.raw[:len(h.raw)-2*macSize] }
