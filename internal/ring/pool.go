package ring

import (
	"fmt"
	"iter"
	"maps"
	"slices"
)

// MaxUsed bounds the addresses of one pool: the attachments of one host in one network.
const MaxUsed = 16384

// Pool says which addresses of a host's ranges are in use, each by one key. It takes the next
// free address after the last one taken, round and round, so that a freed address rests as long
// as possible. It is not safe for concurrent use.
type Pool struct {
	keys     map[string]uint32
	used     map[uint32]string
	reserved []uint32
	next     uint32
}

// NewPool returns an empty pool; the reserved addresses are never given.
func NewPool(reserved ...uint32) *Pool {
	return &Pool{keys: map[string]uint32{}, used: map[uint32]string{}, reserved: reserved}
}

// Addr returns the address of a key.
func (p *Pool) Addr(key string) (uint32, bool) { a, ok := p.keys[key]; return a, ok }

// Holder returns the key that uses an address.
func (p *Pool) Holder(a uint32) (string, bool) { k, ok := p.used[a]; return k, ok }

// Reserved reports whether an address is never given.
func (p *Pool) Reserved(a uint32) bool { return slices.Contains(p.reserved, a) }

// Used returns how many addresses are in use.
func (p *Pool) Used() int { return len(p.keys) }

// All goes over the addresses in use and their keys, in no order.
func (p *Pool) All() iter.Seq2[uint32, string] { return maps.All(p.used) }

// Keys returns a copy of who uses what.
func (p *Pool) Keys() map[string]uint32 { return maps.Clone(p.keys) }

// Alloc takes the next free address of the ranges, which are in order. A key that has an address
// keeps it. ok is false when none is free.
func (p *Pool) Alloc(key string, owned []Range) (a uint32, ok bool) {
	return p.AllocBut(key, owned, func(uint32) bool { return false })
}

// AllocBut is Alloc that leaves addresses out which another is known to use.
func (p *Pool) AllocBut(key string, owned []Range, used func(uint32) bool) (a uint32, ok bool) {
	if a, ok := p.keys[key]; ok {
		return a, true
	}
	if len(p.keys) >= MaxUsed {
		return 0, false
	}
	find := func(from uint32) (uint32, bool) {
		for _, r := range owned {
			if r.Last < from {
				continue
			}
			for a := uint64(max(r.First, from)); a <= uint64(r.Last); a++ {
				if p.free(uint32(a)) && !used(uint32(a)) {
					return uint32(a), true
				}
			}
		}
		return 0, false
	}
	if a, ok = find(p.next); !ok {
		a, ok = find(0)
	}
	if ok {
		p.set(key, a)
	}
	return a, ok
}

// AllocAt takes one address. It fails when it is reserved, in no range or in use by another key.
func (p *Pool) AllocAt(key string, a uint32, owned []Range) error {
	if have, ok := p.keys[key]; ok {
		if have == a {
			return nil
		}
		return fmt.Errorf("%s has another address already", key)
	}
	switch k, inUse := p.used[a]; {
	case inUse:
		return fmt.Errorf("in use by %s", k)
	case p.Reserved(a):
		return fmt.Errorf("reserved")
	case !slices.ContainsFunc(owned, func(r Range) bool { return r.Contains(a) }):
		return ErrNotOwned
	case len(p.keys) >= MaxUsed:
		return fmt.Errorf("more than %d addresses in use", MaxUsed)
	}
	p.set(key, a)
	return nil
}

// Restore notes an address that a key had before a restart, whoever owns the range now: what is
// in use stays in use. It reports false when another key has it, or the pool is full.
func (p *Pool) Restore(key string, a uint32) bool {
	if k, ok := p.used[a]; ok {
		return k == key
	}
	if _, ok := p.keys[key]; ok || len(p.keys) >= MaxUsed {
		return false
	}
	p.set(key, a)
	return true
}

func (p *Pool) set(key string, a uint32) {
	p.keys[key], p.used[a] = a, key
	p.next = a + 1 // at the end of the space it wraps to 0: the lowest address
}

// Free gives up the address of a key.
func (p *Pool) Free(key string) (uint32, bool) {
	a, ok := p.keys[key]
	if ok {
		delete(p.keys, key)
		delete(p.used, a)
	}
	return a, ok
}

func (p *Pool) free(a uint32) bool {
	_, inUse := p.used[a]
	return !inUse && !p.Reserved(a)
}

// InUse returns the addresses in use, in order.
func (p *Pool) InUse() []uint32 {
	out := make([]uint32, 0, len(p.used))
	for a := range p.used {
		out = append(out, a)
	}
	slices.Sort(out)
	return out
}

// Runs returns the free runs of the ranges, in order: what could be given away.
func (p *Pool) Runs(owned []Range) []Range {
	taken := append(p.InUse(), p.reserved...)
	slices.Sort(taken)
	var out []Range
	for _, r := range owned {
		out = append(out, gaps(r, taken)...)
	}
	return out
}

// gaps returns the parts of r between the taken addresses, which are in order.
func gaps(r Range, taken []uint32) []Range {
	var out []Range
	first := r.First
	i, _ := slices.BinarySearch(taken, r.First)
	for ; i < len(taken) && taken[i] <= r.Last; i++ {
		if taken[i] > first {
			out = append(out, Range{first, taken[i] - 1})
		}
		if taken[i] == r.Last {
			return out
		}
		first = taken[i] + 1
	}
	return append(out, Range{first, r.Last})
}

// Available returns how many addresses of the ranges are free.
func (p *Pool) Available(owned []Range) uint64 {
	var n uint64
	for _, r := range p.Runs(owned) {
		n += r.Size()
	}
	return n
}

// Spare returns a part to give away: the tail of the largest free run, at most so many addresses.
func (p *Pool) Spare(owned []Range, most uint64) (Range, bool) {
	var best Range
	found := false
	for _, r := range p.Runs(owned) {
		if !found || r.Size() > best.Size() {
			best, found = r, true
		}
	}
	if !found || most == 0 {
		return Range{}, false
	}
	n := min(best.Size(), most)
	return Range{best.Last - uint32(n-1), best.Last}, true
}
