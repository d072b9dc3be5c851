package bus

import (
	"testing"
)

// TestEventsDropped: nobody reads; the newest stay, and the others are counted.
func TestEventsDropped(t *testing.T) {
	var b Bus
	for i := range maxEvents + 7 {
		b.events.put(Event{Kind: Joined, Member: Member{Name: string(rune('a' + i%26))}})
	}
	b.events.close()
	n := 0
	for e := range b.Events(t.Context()) {
		if n == 0 && e.Member.Name != string(rune('a'+7)) {
			t.Errorf("the first event left is of %q, want that of the eighth", e.Member.Name)
		}
		n++
	}
	if n != maxEvents || b.events.dropped != 7 {
		t.Errorf("%d events, %d dropped; want %d and 7", n, b.events.dropped, maxEvents)
	}
}
