package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestSubnetsOfOneNetwork: two subnets are one supply: what is wanted chooses its subnet, what is not comes from any with room, also of
// another host's share; from one alone when that is asked for; and there is none when both are full, and not before.
func TestSubnetsOfOneNetwork(t *testing.T) {
	inLab(t, 2, func(t *testing.T, l *lab) {
		one, two := netip.MustParsePrefix("10.99.0.0/29"), netip.MustParsePrefix("10.98.0.0/29") // 5 addresses each
		for i, h := range l.hosts {
			l.check(h.JoinNetwork(7, one, i == 0))
			l.check(h.JoinNetwork(7, two, i == 1))
		}
		later(5 * time.Second)
		first, second := l.hosts[0], l.hosts[1]
		if a := first.must(7, "want", "10.98.0.5"); a.IP4.Masked() != two {
			t.Errorf("%s, want it in %s", a.IP4, two)
		}
		if _, err := first.get(7, "none", "10.97.0.5"); err == nil || !strings.Contains(err.Error(), "10.99.0.0/29, 10.98.0.0/29") {
			t.Errorf("%v, want both subnets named", err)
		}
		count := map[netip.Prefix]int{two: 1}
		for i := range 8 {
			a := l.hosts[i%2].must(7, fmt.Sprint("n", i), "")
			count[a.IP4.Masked()]++
		}
		a, err := first.AllocateIn(t.Context(), 7, one, "in-one", netip.Addr{})
		if count[one] < 5 && (err != nil || a.IP4.Masked() != one) || count[one] == 5 && !errors.Is(err, ErrExhausted) {
			t.Errorf("%v of %s with %v in use: %v", a.IP4, one, count, err)
		}
		if err == nil {
			count[one]++
		} else {
			count[second.must(7, "last", "").IP4.Masked()]++
		}
		if count[one] != 5 || count[two] != 5 {
			t.Errorf("in use: %v, want 5 of each", count)
		}
		if _, err := second.get(7, "too-many", ""); !errors.Is(err, ErrExhausted) {
			t.Errorf("eleventh of ten: %v", err)
		}
		if _, err := first.AllocateIn(t.Context(), 7, netip.MustParsePrefix("10.97.0.0/29"), "elsewhere", netip.Addr{}); err == nil {
			t.Error("an address of a subnet that is not there")
		}
	})
}
