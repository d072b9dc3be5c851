package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/test/rig"
)

// head asks the name service and returns dig's lines that begin with ';', and records of authority.
func (a *agent) head(args ...string) string {
	a.t.Helper()
	return a.inside(append([]string{"dig", "@" + dnsServer, "+time=3", "+tries=1", "+noall", "+comments", "+authority"}, args...)...).Stdout
}

// unserved says that nothing of a name service is left on a host.
func unserved(t *testing.T, h *rig.Host) {
	t.Helper()
	rig.Eventually(t, 5*time.Second, func() error {
		if out := h.MustExec("ip", "-o", "link", "show"); strings.Contains(out, ": wvdns") {
			return fmt.Errorf("left of a name service:\n%s", out)
		}
		return nil
	})
}

// TestNamesOfWeave: what Weave Net's names were tested for, under its domain, and TestNames does not ask: names below others and in any case,
// negative answers, long ones by EDNS0, each holder first in turn; restarts of the daemon, programs that end meanwhile; nothing
// left after weft down; a namespace that keeps its own resolv.conf.
func TestNamesOfWeave(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h := []*rig.Host{u.Host("h1"), u.Host("h2")}
	u.Host("dns").NameServer(h, "--local=/sub/") // the world has no such domain
	h[0].Up("--domain", "weave.local")
	h[1].Up(h[0].Endpoint())
	rig.AllKnowAll(t, 15*time.Second, h...)
	one, two, brief := startAgent(t, h[0], "seeone"), startAgent(t, h[1], "seetwo"), startAgent(t, h[1], "brief")
	h[1].MustWeft("name", "add", "db.sub", "192.0.2.9")

	// The host that joined has the founder's domain.
	for _, name := range []string{"seetwo.weave.local", "seetwo.weft.weave.local", "SeeTwo.WEAVE.Local", "seetwo"} {
		says(t, 10*time.Second, func() []string { return one.hosts("ahostsv4", name) }, two.ip4())
	}
	for _, x := range []*agent{one, two} {
		says(t, 5*time.Second, func() []string { return x.hosts("ahostsv4", "db.sub.weave.local") }, "192.0.2.9")
		says(t, 5*time.Second, func() []string { return x.hosts("ahostsv4", "db.sub") }, "192.0.2.9")
		says(t, 5*time.Second, func() []string { return x.dig("-x", "192.0.2.9") }, "db.sub.weft.weave.local.")
		says(t, 5*time.Second, func() []string { return x.dig("-x", brief.ip4()) }, "brief.weft.weave.local.")
	}

	// What is not there is told at once, with how long that holds; what is in our ranges is asked of nobody else.
	for _, c := range []struct{ status, soa, question string }{
		{"NXDOMAIN", "weave.local.", "nobody.weave.local A"},
		{"NXDOMAIN", "weft.weave.local.", "nobody.weft.weave.local AAAA"},
		{"NXDOMAIN", "weft.weave.local.", "_http._tcp.weft.weave.local SRV"},
		{"NOERROR", "weft.weave.local.", "seetwo.weft.weave.local MX"},
		{"NOERROR", "weft.weave.local.", "seetwo.weft.weave.local TXT"},
		{"NOERROR", "weft.weave.local.", "sub.weft.weave.local A"},
		{"NOERROR", "weft.weave.local.", "db.sub.weft.weave.local AAAA"},
		{"NXDOMAIN", "255.47.10.in-addr.arpa.", "7.255.47.10.in-addr.arpa PTR"},
	} {
		out := one.head(strings.Fields(c.question)...)
		for _, part := range []string{"status: " + c.status, "flags: qr aa rd ra", "ANSWER: 0", "\n" + c.soa + "\t"} {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %q in\n%s", c.question, part, out)
			}
		}
	}

	// 32 addresses: too long for 512 bytes, not for who says by EDNS0 that it takes more. Each is first at times.
	var many []string
	for i, x := range h {
		add := []string{"name", "add", "many"}
		for k := range 16 {
			add = append(add, fmt.Sprintf("192.0.2.%d", 100+16*i+k))
		}
		many = append(many, add[3:]...)
		x.MustWeft(add...)
	}
	says(t, 5*time.Second, func() []string { return one.dig("many", "+bufsize=1232", "+ignore") }, many...)
	if out := one.head("many", "+bufsize=512", "+ignore"); !strings.Contains(out, "flags: qr aa tc") {
		t.Errorf("32 addresses in 512 bytes:\n%s", out)
	}
	first := map[string]bool{}
	rig.Eventually(t, 10*time.Second, func() error {
		line, _, _ := strings.Cut(one.inside("dig", "@"+dnsServer, "+short", "many").Stdout, "\n")
		first[line] = true
		if len(first) < 8 {
			return fmt.Errorf("of 32 addresses only %v come first", first)
		}
		return nil
	})

	// A namespace keeps its own resolv.conf, and is told what could be in there.
	p := h[0].Start("unshare", "-n", python, script(t, "agent.py"), agentPort)
	p.ExpectLine("^ready$", 10*time.Second)
	plain := &agent{Process: p, t: t, host: h[0], name: "plain"}
	before := h[0].MustExec("cat", "/etc/resolv.conf")
	var a client.Attachment
	if err := h[0].JSON(&a, "attach", "--pid", fmt.Sprint(p.PID()), "--name", "plain"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.DNS, []string{dnsServer}) || !slices.Equal(a.Search, []string{"weft.weave.local"}) || a.FQDN != "plain.weft.weave.local" {
		t.Errorf("weft attach --json: %+v", a)
	}
	if now := plain.inside("cat", "/etc/resolv.conf").Stdout; now != before {
		t.Errorf("resolv.conf of an attached namespace: %q, was %q", now, before)
	}
	says(t, 5*time.Second, func() []string { return plain.dig("seetwo.weave.local") }, two.ip4())
	says(t, 5*time.Second, func() []string { return two.hosts("ahostsv4", "plain") }, plain.ip4())
	h[0].MustWeft("detach", "plain")
	says(t, 5*time.Second, func() []string { return two.hosts("ahostsv4", "plain") })

	// The daemon restarts, is killed, and a program ends meanwhile.
	h[1].Restart()
	says(t, 20*time.Second, func() []string { return two.hosts("ahostsv4", "seeone") }, one.ip4())
	says(t, 5*time.Second, func() []string { return one.hosts("ahostsv4", "db.sub") }, "192.0.2.9")
	was := brief.ip4()
	h[1].Kill9()
	unserved(t, h[1])
	brief.Kill9()
	h[1].Restart()
	says(t, 20*time.Second, func() []string { return two.hosts("ahostsv4", "seeone") }, one.ip4())
	for _, x := range []*agent{one, two} {
		says(t, 10*time.Second, func() []string { return x.hosts("ahostsv4", "seetwo") }, two.ip4())
		says(t, 10*time.Second, func() []string { return x.hosts("ahostsv4", "brief") })
		says(t, 10*time.Second, func() []string { return x.dig("-x", was) }, "")
	}

	// A host that says goodbye takes its names with it, leaves nothing of the name service behind, and brings them back.
	was = two.ip4()
	h[1].MustWeft("down")
	h[1].Daemon().Wait(10 * time.Second)
	unserved(t, h[1])
	for _, name := range []string{"seetwo", "db.sub"} {
		says(t, 5*time.Second, func() []string { return one.hosts("ahostsv4", name) })
	}
	says(t, 5*time.Second, func() []string { return one.dig("-x", was) }, "")
	h[1].Restart()
	says(t, 20*time.Second, func() []string { return one.hosts("ahostsv4", "seetwo") }, was)
	says(t, 5*time.Second, func() []string { return one.hosts("ahostsv4", "db.sub") }, "192.0.2.9")
}
