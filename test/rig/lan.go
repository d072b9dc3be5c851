package rig

import (
	"fmt"
	"strconv"
	"strings"
)

// Acquaint tells the hosts of a LAN each other's MAC for good. The kernel has one neighbour table for all namespaces of a machine,
// 1,024 entries by default, in which permanent ones don't count: fifty hosts that all talk to each other have 2,450.
func (u *Underlay) Acquaint(hosts ...*Host) {
	u.w.T.Helper()
	macs := make([]string, len(hosts))
	for i, h := range hosts {
		macs[i] = strings.TrimSpace(u.w.in(h.NS, "cat", "/sys/class/net/eth0/address"))
	}
	for _, h := range hosts {
		var b strings.Builder
		for i, o := range hosts {
			if o != h {
				fmt.Fprintf(&b, "neigh replace %s lladdr %s dev eth0 nud permanent\n", o.IP, macs[i])
			}
		}
		u.w.batch(h.NS, b.String())
	}
}

// Queue gives hosts a receive queue each, as network cards have: veth polls one when GRO is on and the other end segments no TCP. Without it the packets of all hosts wait in
// one queue for each processor, 1,000 long, and what a LAN copies to fifty hosts in a burst is lost there.
func (u *Underlay) Queue(hosts ...*Host) {
	u.w.T.Helper()
	for _, h := range hosts {
		u.w.in(h.NS, "ethtool", "-K", "eth0", "gro", "on")
		u.w.in(u.ns, "ethtool", "-K", u.port(h), "tso", "off")
	}
}

// LoseFrom drops a share of what a host sends before the underlay makes copies of it: a loss common to all receivers.
func (u *Underlay) LoseFrom(h *Host, percent float64) Fault {
	u.w.T.Helper()
	rules := fmt.Sprintf(`table bridge riglose
delete table bridge riglose
table bridge riglose {
  counter lost { }
  chain prerouting { type filter hook prerouting priority -200; policy accept;
    iifname %q ip daddr 239.192.0.0/14 %s counter name lost drop
  }
}
`, u.port(h), chance(percent))
	u.w.nft(u.ns, rules)
	return func() { u.w.nft(u.ns, "table bridge riglose\ndelete table bridge riglose\n") }
}

// LostFrom returns how many packets LoseFrom has dropped.
func (u *Underlay) LostFrom() int {
	u.w.T.Helper()
	return counterIn(u.w.in(u.ns, "nft", "list", "counter", "bridge", "riglose", "lost"))
}

// Multicasts counts from now on what a LAN gets of packets to buses' groups, before copies of them are made: of one host, and of all
// others. The function returned tells how many.
func (u *Underlay) Multicasts(of *Host) func() (own, others int) {
	u.w.T.Helper()
	u.w.nft(u.ns, fmt.Sprintf(`table bridge rigcast
delete table bridge rigcast
table bridge rigcast {
  counter own { }
  counter others { }
  chain prerouting { type filter hook prerouting priority -250; policy accept;
    ip daddr 239.192.0.0/14 iifname %[1]q counter name own
    ip daddr 239.192.0.0/14 iifname != %[1]q counter name others
  }
}
`, u.port(of)))
	return func() (own, others int) {
		u.w.T.Helper()
		get := func(name string) int {
			return counterIn(u.w.in(u.ns, "nft", "list", "counter", "bridge", "rigcast", name))
		}
		return get("own"), get("others")
	}
}

// Carried returns how many bytes a host has sent and received, Ethernet headers included.
func (u *Underlay) Carried(h *Host) (bytes int) {
	u.w.T.Helper()
	for _, file := range []string{"rx_bytes", "tx_bytes"} {
		n, err := strconv.Atoi(strings.TrimSpace(u.w.in(u.ns, "cat", "/sys/class/net/"+u.port(h)+"/statistics/"+file)))
		if err != nil {
			u.w.T.Fatal(err)
		}
		bytes += n
	}
	return bytes
}
