package seal

// Window is a replay window (RFC 6479): it accepts each counter once, and nothing that is
// WindowSize or more behind the highest accepted. The zero value accepts any counter but 0.
type Window struct {
	high uint64
	ring [windowWords]uint64
}

const windowWords = 128

// WindowSize is how far behind the highest counter a packet may be: one word less than the ring.
const WindowSize = (windowWords - 1) * 64

// Fresh reports whether n would be accepted.
func (w *Window) Fresh(n uint64) bool {
	if n == 0 || n < w.high && w.high-n >= WindowSize {
		return false
	}
	return n > w.high || w.ring[(n/64)%windowWords]&(1<<(n%64)) == 0
}

// Accept marks n as seen; false when it was seen before or is too old.
// Call it only after the packet has proved authentic.
func (w *Window) Accept(n uint64) bool {
	if !w.Fresh(n) {
		return false
	}
	if n > w.high {
		first, last := w.high/64+1, n/64
		if last-w.high/64 > windowWords {
			first = last - windowWords + 1
		}
		for i := first; i <= last; i++ {
			w.ring[i%windowWords] = 0
		}
		w.high = n
	}
	w.ring[(n/64)%windowWords] |= 1 << (n % 64)
	return true
}

// High returns the highest accepted counter.
func (w *Window) High() uint64 { return w.high }
