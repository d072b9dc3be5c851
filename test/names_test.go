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

// dnsServer is the name service's address in the default network: the second of the first subnet.
const dnsServer = "10.32.0.1"

// inside runs a command as the agent sees the world, its resolv.conf included.
func (a *agent) inside(cmd ...string) rig.Result {
	a.t.Helper()
	return a.host.Exec(append([]string{"nsenter", "-t", fmt.Sprint(a.PID()), "-n", "-m"}, cmd...)...)
}

// hosts asks the C library for the addresses of a name, of one family, in order.
func (a *agent) hosts(family, name string) []string {
	a.t.Helper()
	var out []string
	for line := range strings.Lines(a.inside("getent", family, name).Stdout) {
		if f := strings.Fields(line); len(f) > 0 && !slices.Contains(out, f[0]) {
			out = append(out, f[0])
		}
	}
	slices.Sort(out)
	return out
}

// dig asks the name service and returns what it says, sorted by line.
func (a *agent) dig(args ...string) []string {
	a.t.Helper()
	r := a.inside(append([]string{"dig", "@" + dnsServer, "+short", "+time=3", "+tries=1"}, args...)...)
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	slices.Sort(lines)
	return lines
}

// says polls until a question is answered as it should be.
func says(t *testing.T, within time.Duration, ask func() []string, want ...string) {
	t.Helper()
	rig.Eventually(t, within, func() error {
		if got := ask(); !slices.Equal(got, want) {
			return fmt.Errorf("answered %q, want %q", got, want)
		}
		return nil
	})
}

// TestNames: programs on three hosts find each other by name, address and service, ask for the world's names through the host, and
// no longer find what was on a host that died.
func TestNames(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
	dns := u.Host("dns")
	dns.NameServer(h, "--address=/www.example/192.0.2.80", "--txt-record=long.example,"+strings.Repeat("x", 250), "--ptr-record=80.2.0.192.in-addr.arpa,www.example")
	h[1].DockerFirewall()
	rig.Found(t, h...)
	web, db, ask := startAgent(t, h[0], "web"), startAgent(t, h[1], "db"), startAgent(t, h[2], "ask")
	second := startAgent(t, h[0], "second")

	// Names and addresses, short and long, in both families, from each host.
	for _, x := range []*agent{ask, web, second} {
		says(t, 10*time.Second, func() []string { return x.hosts("ahostsv4", "db") }, db.ip4())
		says(t, 5*time.Second, func() []string { return x.hosts("ahostsv6", "db.weft.weft.internal") }, db.ip6())
	}
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "web.weft.internal") }, web.ip4())
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "nobody") })
	for _, ip := range []string{db.ip4(), db.ip6()} {
		if r := ask.inside("getent", "hosts", ip); !strings.Contains(r.Stdout, "db.weft.weft.internal") {
			t.Errorf("the name of %s: %q", ip, r.Stdout)
		}
	}
	if r := ask.inside("dig", "@"+dnsServer, "nobody.weft.weft.internal"); !strings.Contains(r.Stdout, "NXDOMAIN") || !strings.Contains(r.Stdout, "SOA") {
		t.Errorf("a name that is not there: %s", r.Stdout)
	}

	// Names given by hand, on two hosts, and services.
	h[0].MustWeft("name", "add", "printer", "192.0.2.7")
	h[1].MustWeft("name", "add", "printer", "192.0.2.8")
	h[0].MustWeft("service", "add", "_http._tcp", "web", "8080", "--txt", "path=/")
	h[1].MustWeft("service", "add", "_http._tcp", "db", "8081", "--priority", "1")
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "printer") }, "192.0.2.7", "192.0.2.8")
	says(t, 5*time.Second, func() []string { return ask.dig("_services._dns-sd._udp.weft.weft.internal", "PTR") }, "_http._tcp.weft.weft.internal.")
	says(t, 5*time.Second, func() []string { return ask.dig("b._dns-sd._udp.weft.weft.internal", "PTR") }, "weft.weft.internal.")
	says(t, 5*time.Second, func() []string { return ask.dig("_http._tcp.weft.weft.internal", "PTR") }, "db._http._tcp.weft.weft.internal.", "web._http._tcp.weft.weft.internal.")
	says(t, 5*time.Second, func() []string { return ask.dig("web._http._tcp.weft.weft.internal", "SRV") }, "0 0 8080 web.weft.weft.internal.")
	says(t, 5*time.Second, func() []string { return ask.dig("_http._tcp.db.weft.weft.internal", "SRV", "+tcp") }, "1 0 8081 db.weft.weft.internal.")
	says(t, 5*time.Second, func() []string { return ask.dig("web._http._tcp.weft.weft.internal", "TXT") }, `"path=/"`)
	if out := h[2].MustWeft("names"); !strings.Contains(out, "printer") || !strings.Contains(out, "db.weft.weft.internal") {
		t.Errorf("weft names:\n%s", out)
	}
	if out := strings.Fields(h[2].MustWeft("name", "lookup", "printer")); !slices.Equal(out, []string{"192.0.2.7", "192.0.2.8"}) {
		t.Errorf("weft name lookup: %q", out)
	}
	refused(t, h[2].Weft("name", "rm", "printer"), 1, "h1", "not of this one")
	refused(t, h[2].Weft("name", "lookup", "nobody"), 1, "no name nobody")

	// Further names of attachments, as containers have them.
	api := client.Dial(client.SocketPath(h[0].RunDir()))
	defer api.Close()
	for _, x := range []*agent{web, second} {
		if err := api.SetAliases(t.Context(), "weft", x.name, "shop", "tasks.shop"); err != nil {
			t.Fatal(err)
		}
	}
	both := []string{web.ip4(), second.ip4()}
	slices.Sort(both)
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "shop") }, both...)
	second.Kill9()
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "tasks.shop.weft.weft.internal") }, web.ip4())
	if err := api.SetAliases(t.Context(), "weft", "web"); err != nil {
		t.Fatal(err)
	}
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "shop") })

	// More addresses than a short packet holds: told so, and all of them by TCP.
	var many []string
	for _, x := range h {
		add := []string{"name", "add", "many"}
		for i := range 16 {
			a := fmt.Sprintf("192.0.2.%d", len(many)+i+10)
			add = append(add, a)
		}
		many = append(many, add[3:]...)
		x.MustWeft(add...)
	}
	slices.Sort(many)
	says(t, 5*time.Second, func() []string { return ask.dig("many.weft.weft.internal", "+noedns") }, many...)
	if r := ask.inside("dig", "@"+dnsServer, "many.weft.weft.internal", "+noedns", "+ignore"); !strings.Contains(r.Stdout, "flags: qr aa tc") {
		t.Errorf("48 addresses in 512 bytes: %s", r.Stdout)
	}

	// The world's names, by the host's resolvers; over TCP, too.
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "www.example") }, "192.0.2.80")
	says(t, 5*time.Second, func() []string { return ask.dig("www.example", "+tcp") }, "192.0.2.80")
	says(t, 5*time.Second, func() []string { return ask.dig("-x", "192.0.2.80") }, "www.example.")
	says(t, 5*time.Second, func() []string { return ask.dig("long.example", "TXT") }, `"`+strings.Repeat("x", 250)+`"`)

	// The host cannot ask, nor be asked: it is not in the network.
	if r := h[0].Exec("dig", "@"+dnsServer, "+time=1", "+tries=1", "db.weft.weft.internal"); r.Code == 0 {
		t.Errorf("a host that is not exposed is answered: %s", r.Stdout)
	}

	// A host dies: what was on it is gone once that is known.
	h[1].Kill9()
	rig.Eventually(t, 30*time.Second, func() error {
		all, err := h[2].Hosts()
		for _, x := range all {
			if x.Name == "h2" && x.State == "dead" {
				return nil
			}
		}
		return fmt.Errorf("h2 is not known to be dead, %w", err)
	})
	known := time.Now()
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "db") })
	t.Logf("gone %v after the death was known", time.Since(known).Round(time.Millisecond))
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "printer") }, "192.0.2.7")
	says(t, 5*time.Second, func() []string { return ask.dig("_http._tcp.weft.weft.internal", "PTR") }, "web._http._tcp.weft.weft.internal.")
	h[1].Restart()
	says(t, 20*time.Second, func() []string { return ask.hosts("ahostsv4", "db") }, db.ip4())
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "printer") }, "192.0.2.7", "192.0.2.8")
	says(t, 10*time.Second, func() []string { return db.hosts("ahostsv4", "web") }, web.ip4())

	// Taken back.
	h[1].MustWeft("name", "rm", "printer")
	h[0].MustWeft("service", "rm", "_http._tcp", "web")
	says(t, 5*time.Second, func() []string { return ask.hosts("ahostsv4", "printer") }, "192.0.2.7")
	says(t, 5*time.Second, func() []string { return ask.dig("_http._tcp.weft.weft.internal", "PTR") }, "db._http._tcp.weft.weft.internal.")
}

// TestNamesApart: names of one network are not another's, and the name service of each ends with it; hostile packets cost nothing.
func TestNamesApart(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	h[0].MustWeft("network", "create", "lab")
	rig.Eventually(t, 5*time.Second, func() error {
		r := h[1].Weft("network", "create", "lab")
		if r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	a, b, c := startAgent(t, h[0], "a", "--network", "lab"), startAgent(t, h[1], "b", "--network", "lab"), startAgent(t, h[1], "c")
	says(t, 10*time.Second, func() []string { return a.hosts("ahostsv4", "b") }, b.ip4())
	says(t, 5*time.Second, func() []string { return a.hosts("ahostsv4", "b.lab.weft.internal") }, b.ip4())
	for _, name := range []string{"b", "b.lab.weft.internal", "a"} {
		if got := c.hosts("ahostsv4", name); len(got) > 0 {
			t.Errorf("network weft knows %s of network lab: %q", name, got)
		}
	}
	if got := a.hosts("ahostsv4", "c.weft.weft.internal"); len(got) > 0 {
		t.Errorf("network lab knows a name of network weft: %q", got)
	}
	garbage := `import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(2000):
    s.sendto(os.urandom(i % 600), (sys.argv[1], 53))
t = [socket.socket() for i in range(40)]
for c in t:
    c.settimeout(2)
    try:
        c.connect((sys.argv[1], 53)); c.send(os.urandom(50))
    except OSError: pass
print("done")`
	if r := c.inside(python, "-c", garbage, dnsServer); !strings.Contains(r.Stdout, "done") {
		t.Fatalf("%+v", r)
	}
	says(t, 5*time.Second, func() []string { return c.hosts("ahostsv4", "weft.weft.internal") }, dnsServer)
	rig.Eventually(t, 5*time.Second, func() error {
		st, err := h[1].Status()
		var sum uint64
		for _, d := range st.Drops {
			if slices.Contains([]string{"names_malformed", "names_operation", "names_response"}, d.Reason) {
				sum += d.Count
			}
		}
		if sum < 500 {
			return fmt.Errorf("%d drops, %v, %w", sum, st.Drops, err)
		}
		return nil
	})
	a.Kill9()
	b.Kill9()
	gone(t, "a", h...)
	gone(t, "b", h...)
	h[0].MustWeft("network", "rm", "lab")
	if out := h[0].MustExec("ip", "-o", "link", "show", "type", "veth"); strings.Count(out, ": wvdns") != 1 {
		t.Errorf("left of a network's name service:\n%s", out)
	}
}

// TestNamesLoop: a host whose own resolver asks weft's name service is told so at once, and nothing goes round.
func TestNamesLoop(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	h := w.Cloud().Host("h1")
	h.NameServer([]*rig.Host{h}, "--server="+dnsServer, "--cache-size=0")
	h.Up("--domain", "weave.local")
	h.MustWeft("expose")
	a := startAgent(t, h, "web")
	began := time.Now()
	if r := a.inside("dig", "@"+dnsServer, "+time=4", "+tries=1", "www.example"); !strings.Contains(r.Stdout, "SERVFAIL") {
		t.Errorf("a loop: %s", r.Stdout)
	}
	t.Logf("told after %v", time.Since(began).Round(time.Millisecond))
	st, err := h.Status()
	if err != nil || !slices.ContainsFunc(st.Drops, func(d client.Drop) bool { return d.Reason == "names_upstream_loop" && d.Count < 20 }) {
		t.Errorf("drops %v, %v", st.Drops, err)
	}
	// The host, exposed, is a member of the network: it may ask. The domain is the one that was chosen.
	if r := h.Exec("getent", "ahostsv4", "web.weft.weave.local"); !strings.Contains(r.Stdout, a.ip4()) {
		t.Errorf("the host asks: %+v", r)
	}
	says(t, 5*time.Second, func() []string { return a.hosts("ahostsv4", "web.weave.local") }, a.ip4())
	// Our own address as the host's resolver is nobody to ask.
	h.MustExec("sh", "-c", "echo nameserver "+dnsServer+" > /etc/resolv.conf")
	says(t, 15*time.Second, func() []string {
		if r := a.inside("dig", "@"+dnsServer, "+time=4", "+tries=1", "www.example"); !strings.Contains(r.Stdout, "SERVFAIL") {
			return []string{r.Stdout}
		}
		st, _ := h.Status()
		for _, d := range st.Drops {
			if d.Reason == "names_upstream_none" {
				return nil
			}
		}
		return []string{"asked"}
	})
}
