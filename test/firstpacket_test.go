package test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestFirstPacket: a program that speaks as soon as it is started is answered at once by one on a host that has not heard of it yet, by IPv4 and
// IPv6, in sealed and plain networks: not when the kernel there asks for its address a second time, a second later.
func TestFirstPacket(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	h[0].MustWeft("network", "create", "open", "--plain")
	var leaves []*rig.Process // announcements are for this host alone
	for uplink := range strings.FieldsSeq(h[0].MustExec("sh", "-c", "ls /sys/class/net | grep '^w[ux]'")) {
		leaves = append(leaves, h[0].Start("tcpdump", "-i", uplink, "-n", "-l", "-Q", "out", "ether multicast and (arp[6:2] == 2 or icmp6 and ip6[40] == 136)"))
	}
	millis := regexp.MustCompile(`time=([0-9.]+) ms`)
	for _, network := range []string{"weft", "open"} {
		name := "there-" + network
		h[0].RunWith([]string{"--network", network, "--name", name}, python, script(t, "agent.py"), agentPort).ExpectLine("^ready$", 5*time.Second)
		there, err := h[0].Attachment(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range there.IPs {
			to, _, _ := strings.Cut(to, "/")
			var all []float64
			for i := range times(10, 100) {
				out := h[1].MustWeft("run", "--network", network, "--name", fmt.Sprintf("brief%d", i), "--", "ping", "-c1", "-W5", to)
				m := millis.FindStringSubmatch(out)
				if m == nil {
					t.Fatalf("ping %s: no time\n%s", to, out)
				}
				ms, err := strconv.ParseFloat(m[1], 64)
				if err != nil {
					t.Fatal(err)
				}
				if all = append(all, ms); ms > 900 {
					t.Errorf("%s: ping %s, program %d: answered after %.0f ms", network, to, i, ms)
				}
			}
			slices.Sort(all)
			t.Logf("%s: ping %s: %.1f ms (median), %.1f at most", network, to, all[len(all)/2], all[len(all)-1])
		}
	}
	for _, p := range leaves {
		p.Stop(5 * time.Second)
		if p.Count("ARP|ICMP6") > 0 || !strings.Contains(strings.Join(p.Errors(), "\n"), "listening") {
			t.Errorf("%s: %v %v", p, p.Lines(), p.Errors())
		}
	}
}
