package rmcast

import (
	"bytes"
	"errors"
	"slices"
	"sync"
)

// Bounds of a table of values.
const (
	// MaxValues is how many bytes the last values of a stream may have, valueCost for each counted.
	MaxValues = 64 << 20
	valueCost = 192
)

// ErrValues says that a value finds no room: the last values of a stream have as many bytes as they may.
var ErrValues = errors.New("the last values are too many bytes")

// Value is the last message of a key. It does not change.
type Value struct {
	Number  uint64
	Subject string // the key
	Headers []byte
	Payload []byte
}

func (v *Value) size() int { return valueCost + len(v.Subject) + len(v.Headers) + len(v.Payload) }

// Values are the last messages of a stream, by subject, in the order of their numbers. Whoever reads gets what is newer than what
// it has read: of a key that changed meanwhile only the last. Its methods lock it.
type Values struct {
	mu    sync.Mutex
	by    map[string]*Value
	log   []*Value // in order; some were replaced since
	dead  int      // how many
	bytes int
	most  int
	whole bool // all that was before is here
}

func newValues(most int, whole bool) *Values {
	return &Values{by: map[string]*Value{}, most: most, whole: whole}
}

// fits reports whether there is room for a value.
func (t *Values) fits(subj string, size int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	after := t.bytes + valueCost + len(subj) + size
	if old := t.by[subj]; old != nil {
		after -= old.size()
	}
	return after <= t.most
}

// put notes a value, unless a newer one of its key is here. Where there is no room the oldest go.
func (t *Values) put(number uint64, subj, headers, payload []byte) (forgotten uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.by[string(subj)]
	if old != nil && old.Number >= number {
		return 0
	}
	v := &Value{Number: number, Headers: bytes.Clone(headers), Payload: bytes.Clone(payload)}
	if old != nil {
		v.Subject = old.Subject
		t.dead++
		t.bytes -= old.size()
	} else {
		v.Subject = string(subj)
	}
	t.by[v.Subject] = v
	t.bytes += v.size()
	at := len(t.log)
	if at > 0 && t.log[at-1].Number > number { // of a snapshot, while news came
		at, _ = slices.BinarySearchFunc(t.log, number, compareNumber)
	}
	t.log = slices.Insert(t.log, at, v)
	if t.dead > len(t.log)/2 {
		t.log = slices.DeleteFunc(t.log, func(v *Value) bool { return t.by[v.Subject] != v })
		t.dead = 0
	}
	for i := 0; t.bytes > t.most && i < len(t.log); i++ {
		if o := t.log[i]; o != v && t.by[o.Subject] == o {
			delete(t.by, o.Subject)
			t.bytes -= o.size()
			t.dead++
			forgotten++
		}
	}
	return forgotten
}

func compareNumber(v *Value, number uint64) int {
	switch {
	case v.Number < number:
		return -1
	case v.Number > number:
		return 1
	}
	return 0
}

// Next appends values that are newer than a number to out, up to its capacity. While what was before is on its way there are none.
func (t *Values) Next(after uint64, out []*Value) []*Value {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.whole {
		return out
	}
	i, _ := slices.BinarySearchFunc(t.log, after+1, compareNumber)
	for ; i < len(t.log) && len(out) < cap(out); i++ {
		if v := t.log[i]; t.by[v.Subject] == v {
			out = append(out, v)
		}
	}
	return out
}

// all returns the values as they are now.
func (t *Values) all() []*Value {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*Value, 0, len(t.by))
	for _, v := range t.log {
		if t.by[v.Subject] == v {
			out = append(out, v)
		}
	}
	return out
}

func (t *Values) setWhole(whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.whole = whole
}
