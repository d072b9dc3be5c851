package handshake

import (
	"cmp"
	"crypto/subtle"
	"io"
	"slices"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/weft-net/weft/internal/wire"
)

// flood decides which hellos under a right MAC are worth public-key work.
type flood struct {
	rand io.Reader

	window time.Time // begin of the second being counted
	count  int
	until  time.Time // under load until then

	secrets [2][32]byte // of this and the last CookieAge
	rotated time.Time

	sources map[string]*bucket
}

type bucket struct {
	tokens float64
	last   time.Time
}

func (f *flood) init(rand io.Reader) {
	f.rand = rand
	f.sources = map[string]*bucket{}
}

// busy counts a hello and reports whether there are more than limit a second.
func (f *flood) busy(now time.Time, limit int) bool {
	if now.Sub(f.window) >= time.Second || now.Before(f.window) {
		f.window, f.count = now, 0
	}
	f.count++
	if f.count > limit {
		f.until = now.Add(time.Second)
	}
	return now.Before(f.until)
}

// rotate draws a cookie secret when the present one is too old.
func (f *flood) rotate(now time.Time) error {
	if !f.rotated.IsZero() && now.Sub(f.rotated) < CookieAge {
		return nil
	}
	var fresh [32]byte
	if _, err := io.ReadFull(f.rand, fresh[:]); err != nil {
		return err
	}
	f.secrets[1] = f.secrets[0]
	if f.rotated.IsZero() || now.Sub(f.rotated) >= 2*CookieAge {
		f.secrets[1] = fresh // an older one is too old to be honoured, and all zeros is no secret
	}
	f.secrets[0], f.rotated = fresh, now
	return nil
}

// proven reports whether mac2 shows that the asker received a cookie at from.
func (f *flood) proven(now time.Time, from string, h *hello) bool {
	if f.rotate(now) != nil {
		return false
	}
	for i := range f.secrets {
		cookie := macOnce(f.secrets[i][:], []byte(from))
		if subtle.ConstantTimeCompare(h.mac2, macOnce(cookie, h.raw[:len(h.raw)-macSize])) == 1 {
			return true
		}
	}
	return false
}

// cookie answers a hello by a cookie that only its sender can open.
func (f *flood) cookie(now time.Time, from string, key *macKey, h *hello, version byte) ([]byte, error) {
	if err := f.rotate(now); err != nil {
		return nil, err
	}
	b := make([]byte, helloHeader+chacha20poly1305.NonceSizeX, cookieSize)
	putHeader(b, wire.TypeCookie, version, 0, h.index)
	if _, err := io.ReadFull(f.rand, b[helloHeader:]); err != nil {
		return nil, err
	}
	a, err := chacha20poly1305.NewX(key.cookie[:])
	if err != nil {
		return nil, err
	}
	return a.Seal(b, b[helloHeader:], macOnce(f.secrets[0][:], []byte(from)), h.mac1), nil
}

// openCookie returns the cookie in pkt that answers the hello with mac1.
func openCookie(pkt []byte, key *macKey, mac1 []byte) ([]byte, bool) {
	a, err := chacha20poly1305.NewX(key.cookie[:])
	if err != nil || len(pkt) != cookieSize {
		return nil, false
	}
	n := helloHeader + chacha20poly1305.NonceSizeX
	c, err := a.Open(nil, pkt[helloHeader:n], pkt[n:], mac1)
	return c, err == nil
}

// allow takes a token of a proven source.
func (f *flood) allow(now time.Time, from string) bool {
	b := f.sources[from]
	if b == nil {
		if len(f.sources) >= MaxSources {
			f.tick(now)
		}
		if len(f.sources) >= MaxSources {
			return false
		}
		b = &bucket{tokens: SourceBurst, last: now}
		f.sources[from] = b
	}
	b.refill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) refill(now time.Time) {
	if d := now.Sub(b.last); d > 0 {
		b.tokens = min(SourceBurst, b.tokens+d.Seconds()*SourceRate)
		b.last = now
	}
}

// tick forgets sources whose bucket is full again: they are like new ones.
func (f *flood) tick(now time.Time) {
	for s, b := range f.sources {
		if b.refill(now); b.tokens >= SourceBurst {
			delete(f.sources, s)
		}
	}
}

// replays remembers the last MaxReplays hellos that drew an answer, by their mac1.
type replays struct {
	seen map[[macSize]byte]struct{}
	ring [][macSize]byte
	next int
}

func (r *replays) has(mac1 []byte) bool {
	_, ok := r.seen[[macSize]byte(mac1)]
	return ok
}

func (r *replays) add(mac1 []byte) {
	k := [macSize]byte(mac1)
	if _, ok := r.seen[k]; ok {
		return
	}
	if r.seen == nil {
		r.seen = map[[macSize]byte]struct{}{}
	}
	if len(r.ring) < MaxReplays {
		r.ring = append(r.ring, k)
	} else {
		delete(r.seen, r.ring[r.next])
		r.ring[r.next] = k
		r.next = (r.next + 1) % MaxReplays
	}
	r.seen[k] = struct{}{}
}

// BadSecret is a source that tried first contact under another secret.
type BadSecret struct {
	From  string
	Count uint64
	Last  time.Time
}

// badSecrets is a bounded table; the source longest silent makes room for a new one.
type badSecrets struct{ sources map[string]*BadSecret }

func (t *badSecrets) add(now time.Time, from string) {
	if len(from) > MaxSource {
		from = from[:MaxSource]
	}
	if s := t.sources[from]; s != nil {
		s.Count++
		s.Last = now
		return
	}
	if t.sources == nil {
		t.sources = map[string]*BadSecret{}
	}
	if len(t.sources) >= MaxBadSecrets {
		var oldest *BadSecret
		for _, s := range t.sources {
			if oldest == nil || s.Last.Before(oldest.Last) {
				oldest = s
			}
		}
		delete(t.sources, oldest.From)
	}
	t.sources[from] = &BadSecret{From: from, Count: 1, Last: now}
}

func (t *badSecrets) list() []BadSecret {
	out := make([]BadSecret, 0, len(t.sources))
	for _, s := range t.sources {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b BadSecret) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.From, b.From))
	})
	return out
}
