package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/docker"
	"github.com/weft-net/weft/internal/docker/dockertest"
)

// TestGolden are the lives of containers, call by call, as dockerd 20.10 makes them; the texts are what crosses the socket.
func TestGolden(t *testing.T) {
	for _, name := range []string{"container", "subnets"} {
		t.Run(name, func(t *testing.T) { golden(t, "testdata/"+name+".txt") })
	}
}

func golden(t *testing.T, file string) {
	l := newLab(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var pools []string
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i, line := range lines {
		part := strings.SplitN(line, " ", 3)
		switch part[0] {
		case "#", "":
		case ">": // call, body
			body := ""
			if len(part) > 2 {
				body = part[2]
			}
			for n, id := range pools {
				body = strings.ReplaceAll(body, fmt.Sprintf("POOL%d", n+1), id)
			}
			_, answer := l.post(part[1], body+"\n")
			var v map[string]any
			if json.Unmarshal([]byte(answer), &v) == nil && v["PoolID"] != nil {
				pools = append(pools, v["PoolID"].(string))
			}
			want := strings.TrimPrefix(lines[i+1], "< ")
			if got := random.ReplaceAllString(answer, `,RANDOM"`); got != want {
				t.Errorf("%s:%d, %s:\n got %s\nwant %s", file, i+1, part[1], got, want)
			}
		case "move": // interface, sandbox
			if err := l.weft.Move(part[1], part[2]); err != nil {
				t.Fatal(err)
			}
		case "home":
			if err := l.weft.Move(part[1], ""); err != nil {
				t.Fatal(err)
			}
		case "is": // what there is on the host
			if want := strings.TrimPrefix(line, "is "); !strings.Contains("\n"+l.weft.String()+"\n", "\n"+want+"\n") {
				t.Errorf("%s:%d: no %q in\n%s", file, i+1, want, l.weft)
			}
		case "nothing":
			if got := l.weft.String(); got != "" {
				t.Errorf("%s:%d: there is\n%s", file, i+1, got)
			}
		}
	}
	if got := l.weft.String(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
	if b := string(l.store.b); b != `{"version":1,"made":[],"pools":[],"networks":[],"addresses":[],"endpoints":[]}` {
		t.Errorf("state left behind: %s", b)
	}
}

// TestRefusals: each is one sentence that says what to type.
func TestRefusals(t *testing.T) {
	l := newLab(t)
	l.refused("IpamDriver.RequestPool", `{"AddressSpace":"weft"}`,
		"which weft network? Docker does not tell its plugins a network's name: docker network create -d weft --ipam-driver weft --ipam-opt weft.network=NAME NAME")
	l.refused("IpamDriver.RequestPool", `{"AddressSpace":"weft","Pool":"10.40.0.0/20"}`,
		"which weft network? Docker does not tell its plugins a network's name: docker network create -d weft --ipam-driver weft --ipam-opt weft.network=NAME --subnet 10.40.0.0/20 NAME")
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"Party"}}`, `network "Party": use a-z, 0-9 and '-' inside`)
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party","colour":"red"}}`,
		"--ipam-opt colour: no such option; there are weft.network, weft.plain")
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"Pool":"10.40.0.1/20"}`, "--subnet 10.40.0.1/20: not a subnet")
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"SubPool":"10.40.0.0/24"}`,
		"--ip-range 10.40.0.0/24: weft shares a subnet out among the hosts by itself; leave it out")
	if got := l.weft.String(); got != "" {
		t.Errorf("a refused call left:\n%s", got)
	}
	id := l.pool("party")
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"Pool":"10.40.0.0/20"}`,
		"network party has the subnet 10.32.16.0/20, not 10.40.0.0/20; leave --subnet out, or choose another network")
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party","weft.plain":"yes"}}`, "weft.plain=yes: want true or false")
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party","weft.plain":"true"}}`,
		"network party is sealed, not plain, and a network's engine never changes; for a new one: docker network create -d weft --ipam-driver weft --ipam-opt weft.network=NAME --ipam-opt weft.plain=true NAME")
	l.refused("IpamDriver.RequestAddress", `{"PoolID":"`+id+`","Address":"10.40.0.9"}`, "address 10.40.0.9 is not in the network's subnet 10.32.16.0/20")
	l.refused("IpamDriver.RequestAddress", `{"PoolID":"`+id+`","Address":"10.32.16.9","Options":{"RequestAddressType":"com.docker.network.gateway"}}`,
		"--gateway 10.32.16.9: nothing is routed by a gateway in a weft network; leave it out")
	l.refused("IpamDriver.RequestAddress", `{"PoolID":"x"}`, `pool "x" is not known here: docker network rm its network, and create it again`)

	const foreign = "the addresses must be weft's, or every host would give out the same ones: docker network create -d weft --ipam-driver weft --ipam-opt weft.network="
	l.refused("NetworkDriver.CreateNetwork", createCall("n1", "LocalDefault", "172.18.0.0/16", ""), foreign+"NAME NAME")
	l.refused("NetworkDriver.CreateNetwork", createCall("n1", "LocalDefault", "172.18.0.0/16", `"weft.network":"party"`), foreign+"party party")
	l.refused("NetworkDriver.CreateNetwork", createCall("n1", "LocalDefault", "10.32.16.0/20", ""), foreign+"NAME NAME")
	l.refused("NetworkDriver.CreateNetwork", `{"NetworkID":"n1"}`,
		"the addresses must be weft's, and there are none: docker network create -d weft --ipam-driver weft --ipam-opt weft.network=NAME NAME")
	l.refused("NetworkDriver.CreateNetwork", createCall("n1", "weft", "10.32.16.0/20", `"weft.network":"other"`),
		"-o weft.network=other and --ipam-opt weft.network=party: give both the same name, or only the latter")
	l.refused("NetworkDriver.CreateNetwork", createCall("n1", "weft", "10.32.16.0/20", `"weft.colour":"red"`),
		"-o weft.colour: no such option; there are weft.network, weft.plain, weft.multicast-route, weft.ipv6")
	l.refused("NetworkDriver.CreateNetwork", createCall("n1", "weft", "10.32.16.0/20", `"com.docker.network.driver.mtu":"9000"`),
		"-o com.docker.network.driver.mtu=9000: the network carries 1400 bytes at most")
	l.refused("NetworkDriver.CreateNetwork", createCall("n1", "weft", "10.32.16.0/20", `"com.docker.network.driver.mtu":"576"`),
		"-o com.docker.network.driver.mtu=576: want 1280 or more bytes")
	l.refused("NetworkDriver.CreateEndpoint", endpointBody("n1", "e1", "10.32.16.2/20"),
		"network n1 is not known to weft: docker network rm it, and create it again")
	l.network("n1", "10.32.16.0/20", "")
	l.refused("NetworkDriver.CreateEndpoint", endpointBody("n1", "e1", "10.32.16.2/20"),
		"endpoint e1: address 10.32.16.2 was not given by weft: docker network rm the network, and create it again with docker network create -d weft --ipam-driver weft --ipam-opt weft.network=party party")
	l.refused("NetworkDriver.Join", `{"NetworkID":"n1","EndpointID":"e1","SandboxKey":"s"}`, "endpoint e1 is not known here: start the container again")
	l.weft.NotReady(errors.New("not yet part of a cluster"))
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"}}`, "not yet part of a cluster")
	l.refused("IpamDriver.RequestAddress", `{"PoolID":"`+id+`"}`, "not yet part of a cluster")
}

// TestSubnetInUse: Docker asks again and again for a pool whose subnet it finds in use on the host, until it is refused.
func TestSubnetInUse(t *testing.T) {
	l := newLab(t)
	var pools []string
	for range docker.MostRepeats {
		pools = append(pools, l.pool("party"))
	}
	l.refused("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"}}`,
		"subnet 10.32.16.0/20 of network party is in use on this host, says Docker: a route leads there, or a name server is in it; if you mean it: "+
			"docker network create -d weft --ipam-driver weft --ipam-opt weft.network=party --subnet 10.32.16.0/20 party")
	for _, id := range pools {
		l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+id+`"}`)
	}
	if got := l.weft.String(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
	// Who makes many networks, or one with many mistakes, is not taken for it.
	for i := range 3 * docker.MostRepeats {
		l.pool("many")
		l.network(fmt.Sprint("n", i), "10.32.32.0/20", "")
	}
	for range 3 * docker.MostRepeats {
		id := l.pool("wrong")
		l.refused("NetworkDriver.CreateNetwork", createCall("w", "weft", strings.Split(id, ",")[2], `"weft.network":"other"`),
			"-o weft.network=other and --ipam-opt weft.network=wrong: give both the same name, or only the latter")
		l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+id+`"}`)
	}
}

// TestGarbage: whatever is sent, the answer is one sentence, or 404 as Docker wants it for what a plugin does not have.
func TestGarbage(t *testing.T) {
	l := newLab(t)
	if code, _ := l.post("NetworkDriver.Fly", "{}"); code != http.StatusNotFound {
		t.Errorf("unknown method: %d, want 404", code)
	}
	for _, body := range []string{"", "\n", "null", "[]", `"x"`, "{", `{"NetworkID":7}`, strings.Repeat("[", 100000), `{"NetworkID":"../../etc"}`} {
		for _, name := range docker.Methods() {
			code, answer := l.post(name, body)
			var v map[string]any
			if err := json.Unmarshal([]byte(answer), &v); err != nil || code != http.StatusOK {
				t.Errorf("%s %.20q: %d %s", name, body, code, answer)
			}
		}
	}
	if code, _ := l.post("NetworkDriver.CreateNetwork", strings.Repeat(" ", docker.MaxBody+1)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a long body: %d, want 413", code)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/Plugin.Activate", nil)
	w := httptest.NewRecorder()
	if l.p.ServeHTTP(w, r); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
	if got := l.weft.String(); got != "" {
		t.Errorf("garbage made:\n%s", got)
	}
	if c := l.p.Counts(); c["docker_malformed"] == 0 || c["docker_unknown"] != 1 || c["docker_failed"] == 0 {
		t.Errorf("counts %v", c)
	}
}

// TestRepeats: Docker repeats a call whose answer it did not get; nothing is made twice, nothing that is gone is an error.
func TestRepeats(t *testing.T) {
	l := newLab(t)
	pool := l.pool("party")
	a := l.address(pool)
	for range 3 {
		l.network("n1", "10.32.16.0/20", "")
		if i := l.endpoint("n1", "e1", a); i["AddressIPv6"] != "fd57:1:2:1::a20:1002/64" || i["MacAddress"] != "02:57:0a:20:10:02" || i["Address"] != "" {
			t.Errorf("interface %v", i)
		}
	}
	before := l.weft.String()
	l.restart()
	if got := l.weft.String(); got != before {
		t.Errorf("a restart changed\n%s\nto\n%s", before, got)
	}
	l.join("n1", "e1", "s1")
	for range 2 {
		l.ok("NetworkDriver.Leave", `{"NetworkID":"n1","EndpointID":"e1"}`)
		l.ok("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"e1"}`)
		l.ok("IpamDriver.ReleaseAddress", `{"PoolID":"`+pool+`","Address":"10.32.16.2"}`)
		l.ok("IpamDriver.ReleaseAddress", `{"PoolID":"","Address":"fd57:1:2:1::a20:1002"}`)
		l.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
		l.ok("IpamDriver.ReleaseAddress", `{"PoolID":"`+pool+`","Address":"10.32.16.1"}`) // the gateway
		l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+pool+`"}`)
	}
	if got := l.weft.String(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

// TestTwoNetworks: a container in two weft networks gets one route for groups, by the first; Docker's kernel call would refuse a second.
func TestTwoNetworks(t *testing.T) {
	l := newLab(t)
	a, b := l.pool("one"), l.pool("two")
	l.network("n1", "10.32.16.0/20", `"com.docker.network.driver.mtu":"1300"`)
	l.network("n2", "10.32.32.0/20", "")
	l.endpoint("n1", "e1", l.address(a))
	l.endpoint("n2", "e2", l.address(b))
	l.endpoint("n2", "e3", l.address(b))
	if r := l.join("n1", "e1", "s1"); len(r) != 1 {
		t.Errorf("routes by the first network: %v", r)
	}
	if r := l.join("n2", "e2", "s1"); len(r) != 0 {
		t.Errorf("routes by the second network: %v", r)
	}
	if r := l.join("n2", "e3", "s2"); len(r) != 1 {
		t.Errorf("routes of another container: %v", r)
	}
	l.ok("NetworkDriver.Leave", `{"NetworkID":"n1","EndpointID":"e1"}`)
	l.ok("NetworkDriver.Leave", `{"NetworkID":"n2","EndpointID":"e2"}`)
	_ = l.weft.Move("wi-docker-e2", "")
	if r := l.join("n2", "e2", "s1"); len(r) != 1 {
		t.Errorf("routes by the second network when the first has left: %v", r)
	}
	if !strings.Contains(l.weft.String(), "port one docker-e1 02:57:0a:20:10:02 [10.32.16.2/20 fd57:1:2:1::a20:1002/64] mtu=1300 s1") {
		t.Errorf("ports:\n%s", l.weft)
	}
	p := l.pool("three")
	l.network("n3", "10.32.48.0/20", `"weft.multicast-route":"false","weft.ipv6":"false"`)
	if i := l.endpoint("n3", "e4", l.address(p)); i["AddressIPv6"] != "" {
		t.Errorf("weft.ipv6=false: %v", i)
	}
	if r := l.join("n3", "e4", "s3"); len(r) != 0 {
		t.Errorf("weft.multicast-route=false: routes %v", r)
	}
}

// TestIPv6Pool: with --ipv6 Docker asks for both families, one after the other and without saying for whom; no address is had twice.
func TestIPv6Pool(t *testing.T) {
	l := newLab(t)
	four := l.pool("party")
	v := l.ok("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"V6":true}`)
	six := v["PoolID"].(string)
	if v["Pool"] != "fd57:1:2:1::/64" || v["Data"].(map[string]any)["com.docker.network.gateway"] != "fd57:1:2:1::a20:1001/64" {
		t.Errorf("pool %v", v)
	}
	l.ok("NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{"AddressSpace":"weft","Pool":"10.32.16.0/20"}],"IPv6Data":[{"AddressSpace":"weft","Pool":"fd57:1:2:1::/64"}]}`)
	had := map[any]bool{}
	for _, id := range []string{"a", "b", "c"} {
		ip4, ip6 := l.address(four), l.address(six)
		if had[ip4] || had[ip6] {
			t.Errorf("%s or %s a second time", ip4, ip6)
		}
		had[ip4], had[ip6] = true, true
		i := l.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"`+id+`","Interface":{"Address":"`+ip4+`","AddressIPv6":"`+ip6+`"}}`)
		if got := i["Interface"].(map[string]any)["AddressIPv6"]; got != "" {
			t.Errorf("Docker gave %s, the answer is %v", ip6, got)
		}
	}
	l.refused("IpamDriver.RequestAddress", `{"PoolID":"`+six+`","Address":"fd57:1:2:1::7"}`,
		"address fd57:1:2:1::7: an IPv6 address of the network ends in an IPv4 address of its subnet 10.32.16.0/20, such as fd57:1:2:1::a20:1002")
	if got := l.ok("IpamDriver.RequestAddress", `{"PoolID":"`+six+`","Address":"fd57:1:2:1::a20:1fff"}`)["Address"]; got != "fd57:1:2:1::a20:1fff/64" {
		t.Errorf("--ip6: %v", got)
	}
}

// TestWanted: --ip and --mac-address.
func TestWanted(t *testing.T) {
	l := newLab(t)
	pool := l.pool("party")
	l.network("n1", "10.32.16.0/20", "")
	want := `{"PoolID":"` + pool + `","Address":"10.32.17.5","Options":null}`
	if got := l.ok("IpamDriver.RequestAddress", want)["Address"]; got != "10.32.17.5/20" {
		t.Errorf("--ip: %v", got)
	}
	l.refused("IpamDriver.RequestAddress", want, "address 10.32.17.5: in use")
	i := l.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e1","Interface":{"Address":"10.32.17.5/20","MacAddress":"02:42:ac:11:00:02"}}`)
	if m := i["Interface"].(map[string]any)["MacAddress"]; m != "" {
		t.Errorf("Docker gave a MAC, the answer is %v", m)
	}
	if !strings.Contains(l.weft.String(), "docker-e1 02:42:ac:11:00:02 ") {
		t.Errorf("ports:\n%s", l.weft)
	}
	b := l.address(pool)
	l.refused("NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e2","Interface":{"Address":"`+b+`","MacAddress":"01:00:5e:00:00:01"}}`,
		"endpoint e2: MAC 01:00:5e:00:00:01 is not the address of one interface")
	l.refused("NetworkDriver.CreateEndpoint", endpointBody("n1", "e2", "10.32.17.5/20"), "endpoint e2: address 10.32.17.5 is endpoint e1's")
}

// TestSharedNetwork: two of Docker's networks stand for one of weft's; it stays as long as one of them does, or a program is attached.
func TestSharedNetwork(t *testing.T) {
	l := newLab(t)
	a, b := l.pool("party"), l.pool("party")
	if a == b {
		t.Fatalf("one id for two pools: %s", a)
	}
	l.network("n1", "10.32.16.0/20", "")
	l.network("n2", "10.32.16.0/20", "")
	l.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+a+`"}`)
	if !strings.Contains(l.weft.String(), "network party") || !l.p.Uses("party") {
		t.Error("the network went with the first of two")
	}
	l.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n2"}`)
	l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+b+`"}`)
	if got := l.weft.String(); got != "" || l.p.Uses("party") {
		t.Errorf("left behind:\n%s", got)
	}
	// What this host had before Docker came stays.
	if _, _, err := l.weft.Network(t.Context(), "own", docker.Wish{}); err != nil {
		t.Fatal(err)
	}
	c := l.pool("own")
	l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+c+`"}`)
	if !strings.Contains(l.weft.String(), "network own") {
		t.Error("a network that was there before Docker is gone")
	}
}

// TestAllOrNothing fails each change below the plugin, and each save, in turn: a container that did not start leaves nothing that a
// later one trips over, and nothing stays for good.
func TestAllOrNothing(t *testing.T) {
	endpoint := func(l *lab) (string, string) {
		for _, a := range l.p.Given() {
			return "NetworkDriver.CreateEndpoint", endpointBody("n1", "e1", a)
		}
		return "NetworkDriver.CreateEndpoint", "{}"
	}
	call := func(name, body string) func(*lab) (string, string) {
		return func(*lab) (string, string) { return name, body }
	}
	allOrNothing(t, []func(l *lab) (string, string){
		call(said("party", "10.70.0.0/24")), call(said("party", "10.71.0.0/24")),
		func(l *lab) (string, string) {
			return "IpamDriver.RequestAddress", `{"PoolID":"` + l.p.PoolIDs()[0] + `","Address":"10.70.0.2"}`
		},
		call(createOf("n1", "10.71.0.0/24", "10.70.0.0/24")),
		endpoint,
	})
	allOrNothing(t, []func(l *lab) (string, string){
		func(*lab) (string, string) {
			return "IpamDriver.RequestPool", `{"Options":{"weft.network":"party"}}`
		},
		func(*lab) (string, string) {
			return "NetworkDriver.CreateNetwork", createCall("n1", "weft", "10.32.16.0/20", "")
		},
		func(l *lab) (string, string) {
			for _, id := range l.p.PoolIDs() {
				return "IpamDriver.RequestAddress", `{"PoolID":"` + id + `"}`
			}
			return "IpamDriver.RequestAddress", "{}"
		},
		endpoint,
	})
}

func allOrNothing(t *testing.T, life []func(l *lab) (string, string)) {
	t.Helper()
	for step := range life {
		for _, fail := range []int{0, 1, 2} { // the save, the first change, the second
			l := newLab(t)
			for i, f := range life[:step+1] {
				if i == step && fail == 0 {
					l.store.fail = errors.New("no space left on device")
				} else if i == step {
					l.weft.FailAt(fail)
				}
				before, book := l.weft.String(), string(l.store.b)
				name, body := f(l)
				_, answer := l.post(name, body)
				failed := strings.Contains(answer, `"Err`)
				if i < step && failed {
					t.Fatalf("%s: %s", name, answer)
				}
				if failed && (l.weft.String() != before || string(l.store.b) != book) {
					t.Errorf("%s failed (%s), and left:\n%s", name, answer, l.weft)
				}
				l.store.fail = nil
				l.weft.FailAt(0)
				if failed {
					l.ok(name, body) // and works when it is tried again
				}
			}
		}
	}
}

// TestSweep: Docker was killed, or weft was away when a container ended: after a while what nobody has is gone, and nothing else.
func TestSweep(t *testing.T) {
	l := newLab(t)
	pool := l.pool("party")
	l.network("n1", "10.32.16.0/20", "")
	for _, id := range []string{"alive", "back", "cut", "never"} {
		l.endpoint("n1", id, l.address(pool))
	}
	waiting := l.address(pool) // an address set aside (--aux-address): it never had an endpoint
	for _, id := range []string{"alive", "back", "cut"} {
		l.join("n1", id, "sandbox-"+id)
	}
	_ = l.weft.Move("wi-docker-back", "")
	l.weft.Cut("wi-docker-cut")
	s := docker.NewSweeper(l.p)
	now := time.Unix(1000, 0)
	sweep := func() {
		t.Helper()
		if err := s.Sweep(now); err != nil {
			t.Fatal(err)
		}
	}
	before := l.weft.String()
	sweep()
	now = now.Add(docker.SweepAfter - time.Second)
	sweep()
	if got := l.weft.String(); got != before {
		t.Errorf("too early:\n%s", got)
	}
	now = now.Add(time.Second)
	sweep()
	now = now.Add(docker.SweepAfter)
	sweep()
	now = now.Add(docker.SweepAfter)
	sweep()
	want := "address party 10.32.16.2\naddress party " + strings.TrimSuffix(waiting, "/20") +
		"\nnetwork party 10.32.16.0/20 plain=false\nport party docker-alive 02:57:0a:20:10:02 [10.32.16.2/20 fd57:1:2:1::a20:1002/64] mtu=0 sandbox-alive"
	if got := l.weft.String(); got != want {
		t.Errorf("after the sweep:\n%s\nwant:\n%s", got, want)
	}
	// Docker comes back and tells what it remembers.
	for _, id := range []string{"alive", "back", "cut", "never"} {
		l.ok("NetworkDriver.Leave", `{"NetworkID":"n1","EndpointID":"`+id+`"}`)
		l.ok("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"`+id+`"}`)
	}
	l.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+pool+`"}`)
	if got := l.weft.String(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

// TestReleasedInUse: an address that Docker gives back while its endpoint is still there (DeleteEndpoint was lost) goes with the endpoint.
func TestReleasedInUse(t *testing.T) {
	l := newLab(t)
	pool := l.pool("party")
	l.network("n1", "10.32.16.0/20", "")
	l.endpoint("n1", "e1", l.address(pool))
	l.ok("IpamDriver.ReleaseAddress", `{"PoolID":"`+pool+`","Address":"10.32.16.2"}`)
	if b := l.address(pool); b == "10.32.16.2/20" {
		t.Error("an address that an endpoint has was given to another")
	}
	l.ok("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"e1"}`)
	if b := l.address(pool); b != "10.32.16.2/20" {
		t.Errorf("the address is not free again: %s", b)
	}
}

// TestLostState: a host whose state is gone (weft down --leave, a new disk) says what to do; addresses of a pool that is as it was can be
// had again.
func TestLostState(t *testing.T) {
	l := newLab(t)
	pool := l.pool("party")
	l.network("n1", "10.32.16.0/20", "")
	l.endpoint("n1", "e1", l.address(pool))
	l.store.b = nil
	l.restart()
	if got := l.weft.String(); strings.Contains(got, "port") {
		t.Errorf("a port without a record stays:\n%s", got)
	}
	l.address(pool)
	l.refused("NetworkDriver.CreateEndpoint", endpointBody("n1", "e1", "10.32.16.3/20"),
		"network n1 is not known to weft: docker network rm it, and create it again")
	l.ok("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"e1"}`)
	if err := l.p.Forget(); err != nil {
		t.Fatal(err)
	}
	if len(l.p.Held("party")) != 0 {
		t.Error("addresses are held after Forget")
	}
}

// TestServe: over a real socket, with a body of unknown length as dockerd sends it; quiet while another daemon takes over.
func TestServe(t *testing.T) {
	l := newLab(t)
	dir, err := os.MkdirTemp("", "d") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "weft.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.p.Serve(ctx, ln) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	post := func() (int, string) {
		t.Helper()
		body := struct{ io.Reader }{strings.NewReader(`{"Options":{"weft.network":"party"}}` + "\n")}
		r, err := client.Post("http://weft.sock/IpamDriver.RequestPool", "application/vnd.docker.plugins.v1.2+json", body)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		answer, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(answer)
	}
	if code, answer := post(); code != http.StatusOK || !strings.Contains(answer, `"Pool":"10.32.16.0/20"`) {
		t.Errorf("%d %s", code, answer)
	}
	l.p.Quiet(t.Context())
	if code, answer := post(); code != http.StatusServiceUnavailable || !strings.Contains(answer, "handed over") {
		t.Errorf("quiet: %d %s", code, answer)
	}
	l.p.Loud()
	if code, answer := post(); code != http.StatusOK {
		t.Errorf("loud again: %d %s", code, answer)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzCalls: any sequence of calls, whatever is in them, gets answers that Docker can read, and leaves a state that can be read back.
func FuzzCalls(f *testing.F) {
	f.Add("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"}}`, "NetworkDriver.CreateNetwork", createCall("n1", "weft", "10.32.16.0/20", `"weft.plain":true`))
	f.Add("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"V6":true}`, "IpamDriver.RequestAddress", `{"PoolID":"weft,party,10.32.16.0/20,00","Address":"10.32.16.9"}`)
	f.Add("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"Pool":"::/0","V6":true}`, "IpamDriver.ReleaseAddress", `{"PoolID":",,,","Address":"::"}`)
	f.Add("IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"Pool":"10.70.0.0/24"}`, "NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{"AddressSpace":"weft","Pool":"10.70.0.0/24"}]}`)
	f.Add("IpamDriver.RequestAddress", `{"PoolID":"weft,party,10.70.0.0/24,00","Address":"10.70.0.5"}`, "IpamDriver.RequestPool", `{"Options":{"weft.network":"party"},"Pool":"10.70.0.0/23"}`)
	f.Add("NetworkDriver.CreateEndpoint", endpointBody("n1", "e1", "10.32.16.2/20"), "NetworkDriver.Join", `{"NetworkID":"n1","EndpointID":"e1","SandboxKey":"x"}`)
	f.Fuzz(func(t *testing.T, name1, body1, name2, body2 string) {
		weft := dockertest.New()
		var store memory
		p, err := docker.New(docker.Config{Weft: weft, Store: &store})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for _, c := range [][2]string{{name1, body1}, {name2, body2}} {
				status, answer := p.Call(t.Context(), c[0], []byte(c[1]))
				if _, err := json.Marshal(answer); err != nil || status != http.StatusOK && status != http.StatusNotFound {
					t.Fatalf("%s %s: %d %v %v", c[0], c[1], status, answer, err)
				}
			}
			if p, err = docker.New(docker.Config{Weft: weft, Store: &store}); err != nil {
				t.Fatalf("%s %s, %s %s: %v\n%s", name1, body1, name2, body2, err, store.b)
			}
		}
	})
}
