package test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// bridged is how long a path may swallow frames before they go another way: in fragments.
const bridged = 3 * time.Second

// TestMTUBlackHole: in mid-stream a path begins to drop what is longer than 1300 bytes, without a word. Frames of full size are
// through again within 3 s, in fragments, and short ones never stop. That the path has become wider again is found after ten
// minutes (RFC 8899 section 5.1.1), or as soon as it is another path: TestLengthFollowsThePath.
func TestMTUBlackHole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		underlay int // MTU
		mtu      int // of networks
	}{
		{"1500", 1500, 1300}, // fits also when relayed
		{"9000", 9000, 8900},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := rig.New(t)
			u := w.Cloud()
			h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3"), u.Host("h4")}
			u.MTU(c.underlay)
			mtu := fmt.Sprint(c.mtu)
			h[0].Up("--mtu", mtu)
			for _, host := range h[1:] {
				host.Up(h[0].Endpoint())
			}
			rig.AllKnowAll(t, 15*time.Second, h...)
			var a []*agent
			for i, host := range h {
				a = append(a, startAgent(t, host, fmt.Sprintf("a%d", i+1)))
			}
			u.Block(h[0], h[3]) // these two go through a third

			t.Run("relayed", func(t *testing.T) {
				via := rig.AwaitPath(t, 15*time.Second, h[0], h[3], "relayed").Via
				rig.AwaitPath(t, 15*time.Second, h[3], h[0], "relayed")
				awaitLength(t, h[0], h[3], c.underlay-64)
				relay := h[1]
				if via == h[2].Name {
					relay = h[2]
				}
				throughHole(t, a[0], a[3], c.mtu, func() rig.Fault { return u.BlackHoleBetween(relay, h[3], 1300) })
			})

			t.Run("both ways", func(t *testing.T) {
				awaitLength(t, h[0], h[1], c.underlay)
				throughHole(t, a[0], a[1], c.mtu, func() rig.Fault { return u.BlackHoleBetween(h[0], h[1], 1300) })
			})
			t.Run("one way", func(t *testing.T) {
				awaitLength(t, h[0], h[2], c.underlay)
				throughHole(t, a[0], a[2], c.mtu, func() rig.Fault { return u.BlackHoleFrom(h[0], h[2], 1300) })
				if l, err := h[2].Link("h1"); err != nil || l.MTU < c.underlay-32 {
					t.Errorf("the way back carries %d bytes (%v), want all it ever did", l.MTU, err)
				}
			})
		})
	}
}

// awaitLength waits until a link is known to carry packets of nearly n bytes.
func awaitLength(t *testing.T, at, to *rig.Host, n int) {
	t.Helper()
	rig.Eventually(t, 30*time.Second, func() error {
		l, err := at.Link(to.Name)
		if err == nil && l.MTU < n-32 {
			err = fmt.Errorf("%s to %s: packets of %d bytes, want about %d", at.Name, to.Name, l.MTU, n)
		}
		return err
	})
}

// throughHole has frames of all lengths flow between two attachments while a hole opens, and checks how long they missed.
func throughHole(t *testing.T, from, to *agent, mtu int, open func() rig.Fault) {
	t.Helper()
	const every, lasts = 50 * time.Millisecond, 5 * time.Second
	tag := to.name
	group, quiet := "239.2.9."+tag[1:], "239.2.19."+tag[1:]
	inside := func(a *agent, cmd ...string) *rig.Process { return a.host.Start(a.beside(cmd...)...) }
	for _, g := range []string{group, quiet} {
		to.do("join %s", g)
		rig.AwaitMembers(t, 10*time.Second, from.host, g, 1)
	}
	server := inside(to, python, script(t, "flow.py"), "serve", "4000")
	server.ExpectLine("^ready$", 10*time.Second)
	seconds, n := int(lasts/time.Second), int(lasts/every)
	inside(from, python, script(t, "flow.py"), "send", to.ip4(), "4000", strconv.Itoa(seconds))
	server.ExpectLine("^begun$", 10*time.Second)
	ping := inside(from, "ping", "-n", "-M", "do", "-i", fmt.Sprint(every.Seconds()), "-c", strconv.Itoa(n), "-W", "1", "-s", strconv.Itoa(mtu-28), to.ip4())
	from.do("flow %s %d %d %d long%s", group, n, seconds, mtu-28, tag)
	from.do("flow %s %d %d 40 short%s", quiet, n, seconds, tag)
	to.awaitGot("long"+tag+"-20", 5*time.Second)
	heal := open()
	for range 2 { // in either order
		from.ExpectLine("^flowed (long|short)"+tag, lasts+5*time.Second)
	}
	ping.Wait(5 * time.Second)
	server.ExpectLine("^end ", 10*time.Second)

	long := longestGap(indices(to.Lines(), "got long"+tag+"-"), n)
	echo := longestGap(indices(ping.Lines(), "icmp_seq="), n)
	tcp := 0.
	for _, l := range server.Lines() {
		var gap float64
		if _, err := fmt.Sscanf(l, "gap %f", &gap); err == nil {
			tcp = max(tcp, gap)
		}
	}
	t.Logf("to %s: multicast missed %v, pings %v, TCP %.2fs", to.host.Name, time.Duration(long)*every, time.Duration(echo)*every, tcp)
	if time.Duration(long)*every > bridged || time.Duration(echo)*every > bridged || tcp > bridged.Seconds() {
		t.Errorf("longer than %v", bridged)
	}
	if long == 0 || echo == 0 {
		t.Error("nothing was missed: there was no hole")
	}
	if got, all := to.flowed("short" + tag); got != n || all != n {
		t.Errorf("%d of %d short datagrams arrived, %d in all", got, n, all)
	}
	if l, err := from.host.Link(to.host.Name); err != nil || l.MTU > 1300 {
		t.Errorf("weft links says packets of %d bytes (%v), want at most 1300", l.MTU, err)
	}
	heal()
}

// indices reads the numbers behind a mark.
func indices(lines []string, mark string) map[int]bool {
	seen := map[int]bool{}
	for _, l := range lines {
		if _, after, ok := strings.Cut(l, mark); ok {
			end := strings.IndexFunc(after, func(r rune) bool { return r < '0' || r > '9' })
			if i, err := strconv.Atoi(after[:max(end, 0)]); err == nil {
				seen[i] = true
			}
		}
	}
	return seen
}

// longestGap is the longest run of numbers from 1 to n-1 that are missing.
func longestGap(seen map[int]bool, n int) int {
	longest, run := 0, 0
	for i := 1; i < n; i++ {
		run++
		if seen[i] {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}
