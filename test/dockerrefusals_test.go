package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// garbage calls the plugin with what dockerd would not send; the answer is an error of one line, or one of the few that need nothing.
func (e engine) garbage(t *testing.T, name, body string) {
	t.Helper()
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.DockerPlugin()[1])
	}}}
	r, err := c.Post("http://weft/"+name, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatalf("%s %.40q: %v", name, body, err)
	}
	defer func() { _ = r.Body.Close() }()
	text, err := io.ReadAll(r.Body)
	if err != nil || strings.Count(strings.TrimSpace(string(text)), "\n") > 0 {
		t.Errorf("%s %.40q: %v\n%s", name, body, err, text)
	}
	failed := strings.Contains(string(text), `"Err":"`) || strings.Contains(string(text), `"Error":"`)
	if quiet := name == "Plugin.Activate" || name == "IpamDriver.ReleasePool"; !failed && !quiet {
		t.Errorf("%s %.40q: %d %s", name, body, r.StatusCode, text)
	}
}

// holds is what a refused command must not change: networks of Docker's and of weft's, and what weft keeps for Docker.
func (e engine) holds(t *testing.T) string {
	t.Helper()
	var out []string
	all, err := e.Networks()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		out = append(out, fmt.Sprintf("weft has %s %v", n.Name, n.Subnets))
	}
	s, err := e.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Limits {
		if strings.HasPrefix(l.Name, "docker_") {
			out = append(out, fmt.Sprintf("%s %d", l.Name, l.Used))
		}
	}
	slices.Sort(out)
	return e.Must("network", "ls", "--format", "docker has {{.Name}} {{.Driver}}") + "\n" + strings.Join(out, "\n")
}

// refuses says that docker refuses a command in exactly one sentence, and that nothing has changed then.
func (e engine) refuses(t *testing.T, sentence string, args ...string) {
	t.Helper()
	before := e.holds(t)
	e.Refuses(sentence, args...)
	rig.Eventually(t, 5*time.Second, func() error { // Docker gives back what it got after it has answered
		if after := e.holds(t); after != before {
			return fmt.Errorf("docker %s: refused, and yet from\n%s\nto\n%s", strings.Join(args, " "), before, after)
		}
		return nil
	})
}

// TestDockerRefusals: what cannot be is refused by Docker in one sentence that says what to type, and leaves nothing.
func TestDockerRefusals(t *testing.T) {
	e := engines(t, 2)
	x := e[0]
	const (
		command = "docker network create -d weft --ipam-driver weft --ipam-opt weft.network="
		foreign = "the addresses must be weft's, or every host would give out the same ones: " + command
	)
	create := func(sentence string, args ...string) {
		t.Helper()
		x.refuses(t, sentence, append([]string{"network", "create", "-d", "weft"}, args...)...)
	}
	weft := func(sentence, network string, args ...string) {
		t.Helper()
		create(sentence, append([]string{"--ipam-driver", "weft", "--ipam-opt", "weft.network=" + network}, args...)...)
	}

	create("which weft network? Docker does not tell its plugins a network's name: "+command+"NAME NAME", "--ipam-driver", "weft", "party")
	create("which weft network? Docker does not tell its plugins a network's name: "+command+"NAME NAME", "--ipam-driver", "weft", "-o", "weft.network=party", "party")
	create("which weft network? Docker does not tell its plugins a network's name: "+command+"NAME --subnet 10.95.0.0/24 NAME",
		"--ipam-driver", "weft", "--subnet", "10.95.0.0/24", "party")
	create(foreign+"NAME NAME", "party")
	create(foreign+"party party", "-o", "weft.network=party", "party")
	create(foreign+"party party", "-o", "weft.network=party", "--subnet", "10.95.0.0/24", "party")

	// Options that there are not, and values that cannot be.
	weft("-o weft.colour: no such option; there are weft.network, weft.plain, weft.multicast-route, weft.ipv6", "party", "-o", "weft.colour=red", "party")
	weft("--ipam-opt weft.colour: no such option; there are weft.network, weft.plain", "party", "--ipam-opt", "weft.colour=red", "party")
	weft("-o com.docker.network.driver.mtu=9000: the network carries 1400 bytes at most", "party", "-o", "com.docker.network.driver.mtu=9000", "party")
	weft("weft.ipv6=perhaps: want true or false", "party", "-o", "weft.ipv6=perhaps", "party")
	weft(`network "Party": use a-z, 0-9 and '-' inside`, "Party", "party")
	weft("-o weft.network=other and --ipam-opt weft.network=party: give both the same name, or only the latter", "party", "-o", "weft.network=other", "party")

	// Subnets that cannot be: not one, of another network, not the network's, in part only.
	weft("--ip-range 10.95.0.128/25: weft shares a subnet out among the hosts by itself; leave it out", "party", "--subnet", "10.95.0.0/24", "--ip-range", "10.95.0.128/25", "party")
	weft("--gateway 10.95.0.9: nothing is routed by a gateway in a weft network; leave it out", "party", "--subnet", "10.95.0.0/24", "--gateway", "10.95.0.9", "party")
	x.clean(t)
	// Docker does not take a subnet to which a route of the host leads, unless told to.
	x.MustWeft("network", "create", "taken", "--subnet", "10.90.0.0/24")
	x.MustWeft("expose", "--network", "taken")
	weft("subnet 10.90.0.0/24 of network taken is in use on this host, says Docker: a route leads there, or a name server is in it; if you mean it: "+command+"taken --subnet 10.90.0.0/24 taken",
		"taken", "taken")
	x.Must("network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=taken", "--subnet", "10.90.0.0/24", "taken")
	weft("subnet 10.90.0.128/25 overlaps 10.90.0.0/24 of network taken (choose another with --subnet, or leave it out)", "second", "--subnet", "10.90.0.128/25", "second")
	e[1].refuses(t, "subnet 10.90.0.0/16 overlaps 10.90.0.0/24 of network taken (choose another with --subnet, or leave it out)",
		"network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=second", "--subnet", "10.90.0.0/16", "second")
	// Not the network's, or one that is and one that is not, on a host that has it and on one that has not.
	for _, y := range e {
		for _, more := range [][]string{nil, {"--subnet", "10.90.0.0/24"}} {
			y.refuses(t, "network taken has the subnet 10.90.0.0/24, not 10.95.0.0/24; leave --subnet out, or choose another network",
				append(append([]string{"network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=taken", "--subnet", "10.95.0.0/24"}, more...), "again")...)
		}
	}
	var nine []string
	for i := range 9 {
		nine = append(nine, "--subnet", fmt.Sprintf("10.96.%d.0/24", i))
	}
	weft("9 subnets, at most 8: leave some out, or take larger ones", "many", append(nine, "many")...)
	weft("subnet 10.90.0.0/25 overlaps 10.90.0.0/24 of network taken (choose another with --subnet, or leave it out)", "second", "--subnet", "10.96.0.0/24", "--subnet", "10.90.0.0/25", "second")
	x.Must("network", "rm", "taken")
	x.MustWeft("hide", "--network", "taken")
	x.MustWeft("network", "rm", "taken")
	x.party()
	var subnet string
	all, err := x.Networks()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if n.Name == "party" {
			subnet = n.Subnets[0]
		}
	}
	weft("network party has the subnet "+subnet+", not 10.99.0.0/24; leave --subnet out, or choose another network", "party", "--subnet", "10.99.0.0/24", "again")

	// A second time: Docker's own sentence, on this host; on another it is the same network.
	weft("network with name party already exists", "party", "party")
	e[1].party()
	e[1].Must("network", "rm", "party")

	// A network with a container.
	refused(t, x.Weft("network", "rm", "party"), 1, "party", "Docker", "docker network rm")
	x.sleeper("c1", "--network", "party")
	var name string
	attached, err := x.Attachments()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attached {
		if strings.HasPrefix(a.Name, "docker-") {
			name = a.Name
		}
	}
	refused(t, x.Weft("detach", "--network", "party", name), 1, name, "docker network disconnect")
	id := x.Must("network", "inspect", "-f", "{{.Id}}", "party")
	x.refuses(t, "network party id "+id+" has active endpoints", "network", "rm", "party")
	x.pings(t, "c1", x.addr("c1", "party", "IPAddress"))

	// Anybody with root may call the plugin, with anything: it changes nothing, not for containers either.
	before := x.holds(t)
	for _, name := range []string{"Plugin.Activate", "IpamDriver.RequestPool", "IpamDriver.RequestAddress", "IpamDriver.ReleasePool", "NetworkDriver.CreateNetwork", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join", "NetworkDriver.DeleteNetwork", "NetworkDriver.Fly", ""} {
		for _, body := range []string{"", "null", "[]", "{", `{"NetworkID":7}`, `{"NetworkID":"../../etc","EndpointID":"` + strings.Repeat("e", 1000) + `"}`, strings.Repeat("[", 100000), "\x00\xff"} {
			x.garbage(t, name, body)
		}
	}
	if after := x.holds(t); after != before {
		t.Errorf("garbage changed\n%s\nto\n%s", before, after)
	}
	x.sleeper("c2", "--network", "party")
	x.pings(t, "c2", x.addr("c1", "party", "IPAddress"))
	x.Must("rm", "-f", "c1", "c2")
	x.Must("network", "rm", "party")
	x.clean(t)
	e[1].clean(t)

	// weft down --clean takes a container's interface away; Docker gets rid of the container all the same.
	x.party()
	x.sleeper("c1", "--network", "party")
	x.MustWeft("down", "--clean")
	if out := x.MustExec("ip", "-o", "link"); strings.Contains(out, ": wv") || strings.Contains(out, ": wb") {
		t.Errorf("after weft down --clean:\n%s", out)
	}
	x.Restart()
	x.Must("rm", "-f", "c1")
	x.Must("network", "rm", "party")
	rig.Eventually(t, 10*time.Second, func() error {
		s, err := x.Status()
		if err != nil {
			return err
		}
		for _, l := range s.Limits {
			if strings.HasPrefix(l.Name, "docker_") && l.Used != 0 {
				return errors.New(l.Name + " is not 0")
			}
		}
		return nil
	})
}
