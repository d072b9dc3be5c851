package discover

import (
	"testing"
	"time"
)

// TestNext: a source is asked at once, often while this host looks for others, calmly after that, and more and more seldom while it fails;
// never so seldom that a registration ends between two tries that succeed.
func TestNext(t *testing.T) {
	p := Pace{Looking: 2 * time.Second, Calm: 25 * time.Second, Slow: 20 * time.Second}
	at := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name    string
		t       tries
		looking bool
		want    time.Duration
	}{
		{"calm", tries{last: at}, false, 25 * time.Second},
		{"looking", tries{last: at}, true, 2 * time.Second},
		{"failed once", tries{last: at, failures: 1}, false, time.Second},
		{"four times", tries{last: at, failures: 4}, true, 8 * time.Second},
		{"for long", tries{last: at, failures: 1000}, false, 20 * time.Second},
		{"for long, looking", tries{last: at, failures: 1000}, true, 20 * time.Second},
		{"early", tries{last: at, jitter: -1}, false, 20 * time.Second},
		{"late", tries{last: at, jitter: 1}, false, 30 * time.Second},
	} {
		if got := c.t.next(p, c.looking).Sub(at); got != c.want {
			t.Errorf("%s: after %v, want %v", c.name, got, c.want)
		}
	}
	if !(tries{}).next(p, false).IsZero() {
		t.Error("a source that was never asked has to wait")
	}
	for _, p := range []Pace{stores, local} {
		if latest := p.Calm + p.Calm/5; 2*latest+tick > Lease {
			t.Errorf("%+v: one answer lost, and the registration ends: it lasts %v", p, Lease)
		}
	}
}
