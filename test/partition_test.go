package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestPartitionAllocations: a cluster cut in two for a minute gives addresses on both sides; when it heals all agree
// within 5 s and no address was given twice.
func TestPartitionAllocations(t *testing.T) {
	t.Parallel()
	u, h := cloud(t, 4)
	for _, host := range h {
		awaitShare(t, host)
	}
	heal := u.Partition(h[:2], h[2:])
	began := time.Now()
	var all []*agent
	for round := range 3 {
		for _, host := range h {
			all = append(all, startAgent(t, host, fmt.Sprintf("%s-%d", host.Name, round)))
		}
	}
	rig.Eventually(t, 40*time.Second, func() error { // the cut is seen, or this tests nothing
		hosts, err := h[0].Hosts()
		if err != nil {
			return err
		}
		for _, s := range hosts {
			if s.Name == h[3].Name && s.State == "alive" {
				return fmt.Errorf("h1 still sees %s", s.Name)
			}
		}
		return nil
	})
	rig.Pause(t, time.Minute-time.Since(began))
	for _, host := range h {
		all = append(all, startAgent(t, host, host.Name+"-late"))
	}
	heal()
	var last string
	rig.Eventually(t, 5*time.Second, func() error {
		last = ""
		for _, host := range h {
			view, err := addresses(host)
			if err != nil {
				return err
			}
			if n := strings.Count(view, "\n"); n < len(all) {
				return fmt.Errorf("%s knows %d addresses of %d attachments", host.Name, n, len(all))
			}
			if last != "" && view != last {
				return fmt.Errorf("%s sees\n%s\nh1 sees\n%s", host.Name, view, last)
			}
			last = view
		}
		return nil
	})
	seen := map[string]string{}
	for _, a := range all {
		for _, ip := range []string{a.ip4(), a.ip6()} {
			if other := seen[ip]; other != "" {
				t.Errorf("%s was given to %s and to %s", ip, other, a.name)
			}
			seen[ip] = a.name
		}
	}
	converse(t, "239.3.3.3", all[0], all[3])
}

// awaitShare waits until a host has addresses of the network weft to give.
func awaitShare(t *testing.T, at *rig.Host) {
	t.Helper()
	rig.Eventually(t, 5*time.Second, func() error {
		var out struct {
			IPAM []struct{ Network, Owner string } `json:"ipam"`
		}
		if err := at.JSON(&out, "ipam"); err != nil {
			return err
		}
		for _, r := range out.IPAM {
			if r.Network == "weft" && r.Owner == at.Name {
				return nil
			}
		}
		return fmt.Errorf("%s has no addresses", at.Name)
	})
}

// addresses is a host's view of who has which address, one a line.
func addresses(at *rig.Host) (string, error) {
	all, err := at.Attachments()
	if err != nil {
		return "", err
	}
	var lines []string
	for _, a := range all {
		for _, ip := range a.IPs {
			lines = append(lines, a.Network+" "+ip+" "+a.Name+"@"+a.Host+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, ""), nil
}

// TestLossAndDuplication: an underlay that loses, doubles and corrupts slows the cluster and breaks nothing.
func TestLossAndDuplication(t *testing.T) {
	const group, n = "239.3.3.4", 1000
	u, h := cloud(t, 3)
	agents := []*agent{startAgent(t, h[0], "a1"), startAgent(t, h[1], "a2"), startAgent(t, h[2], "a3")}
	for _, a := range agents {
		a.do("join %s", group)
	}
	rig.AwaitMembers(t, 10*time.Second, h[0], group, 3)

	undup := u.Dup(100)
	agents[0].do("flow %s %d 2 200 twice", group, n)
	for _, a := range agents[1:] {
		rig.Eventually(t, 6*time.Second, func() error {
			if got, _ := a.flowed("twice"); got != n {
				return fmt.Errorf("%s got %d of %d datagrams", a.name, got, n)
			}
			return nil
		})
		if got, all := a.flowed("twice"); got != all {
			t.Errorf("%s got %d datagrams for %d sent, every underlay packet doubled", a.name, all, got)
		}
	}
	undup()

	u.Loss(10)
	undup = u.Dup(5)
	transfer(t, h[1], h[2], 1<<20, 30*time.Second)
	undup()
	u.Corrupt(5)
	agents[0].do("flow %s %d 5 200 lossy", group, n)
	agents[0].ExpectLine("^flowed lossy", 15*time.Second)
	rig.Pause(t, 300*time.Millisecond)
	for _, a := range agents[1:] {
		// 10 % lost and 5 % of the rest corrupted: 85 % expected; 75 % is 9 standard deviations below.
		if got, all := a.flowed("lossy"); got < n*75/100 || got > n*95/100 || got != all {
			t.Errorf("%s got %d distinct datagrams and %d in all of %d through 10 %% loss and 5 %% corruption", a.name, got, all, n)
		}
	}
	// What must be reliable still is: memberships and the list of hosts.
	late := startAgent(t, h[2], "late")
	late.do("join 239.3.3.5")
	rig.AwaitMembers(t, 10*time.Second, h[0], "239.3.3.5", 1)
	for _, host := range h {
		if err := host.KnowsAlive(h...); err != nil {
			t.Error(err)
		}
		for _, line := range host.Daemon().Errors() {
			if strings.Contains(line, "link down") {
				t.Errorf("%s lost a link: %s", host.Name, line)
			}
		}
	}
}

// transfer sends n bytes over TCP between new attachments of two hosts and compares them. An attachment ends with its
// program, and with it what its kernel has yet to send: so each end stays until the other has all.
func transfer(t *testing.T, from, to *rig.Host, n int, d time.Duration) {
	t.Helper()
	const body = "bytes(i * 31 % 251 for i in range(int(sys.argv[1])))"
	server := to.RunWith([]string{"--name", "sink"}, python, "-c", `import socket, sys
want = `+body+`
s = socket.create_server(("", 4000))
print("ready", flush=True)
c, _ = s.accept()
got = b""
while True:
    b = c.recv(65536)
    if not b:
        break
    got += b
print("whole" if got == want else "broken %d" % len(got), flush=True)
c.sendall(b"k")
sys.stdin.read()`, fmt.Sprint(n))
	server.ExpectLine("^ready$", 10*time.Second)
	sink := &agent{Process: server, t: t, host: to, name: "sink"}
	client := from.RunWith([]string{"--name", "source"}, python, "-c", `import socket, sys
c = socket.create_connection((sys.argv[2], 4000), timeout=30)
c.sendall(`+body+`)
c.shutdown(socket.SHUT_WR)
c.recv(1)`, fmt.Sprint(n), sink.ip4())
	began := time.Now()
	server.ExpectLine("^whole$", d)
	t.Logf("%d bytes over TCP in %v", n, time.Since(began).Round(time.Millisecond))
	if code := client.Wait(d); code != 0 {
		t.Errorf("the sender ended with %d", code)
	}
}
