package docker_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/docker"
)

// said asks for a pool of a subnet, as docker network create --subnet does.
func said(network, subnet string) (name, body string) {
	v6 := strings.Contains(subnet, ":")
	return "IpamDriver.RequestPool", fmt.Sprintf(`{"Options":{"weft.network":%q},"Pool":%q,"V6":%v}`, network, subnet, v6)
}

func (l *lab) said(network, subnet string) string {
	l.Helper()
	return l.ok(said(network, subnet))["PoolID"].(string)
}

// createOf makes a network of Docker's of several pools.
func createOf(id string, subnets ...string) (name, body string) {
	four, six := []string{}, []string{}
	for _, s := range subnets {
		d := fmt.Sprintf(`{"AddressSpace":"weft","Pool":%q}`, s)
		if strings.Contains(s, ":") {
			six = append(six, d)
		} else {
			four = append(four, d)
		}
	}
	return "NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID":%q,"IPv4Data":[%s],"IPv6Data":[%s]}`, id, strings.Join(four, ","), strings.Join(six, ","))
}

// over gives all pools back, as Docker does after a refusal, and says that nothing was made.
func (l *lab) over() {
	l.Helper()
	for _, id := range l.p.PoolIDs() {
		l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+id+`"}`)
	}
	if got := l.weft.String(); got != "" {
		l.Errorf("left behind:\n%s", got)
	}
	if b := string(l.store.b); b != `{"version":1,"made":[],"pools":[],"networks":[],"addresses":[],"endpoints":[]}` {
		l.Errorf("state left behind: %s", b)
	}
}

// TestSubnetsRefused: what several subnets cannot be, in one sentence, with nothing made before and nothing left after.
func TestSubnetsRefused(t *testing.T) {
	l := newLab(t)
	var nine []string
	for i := range 9 {
		nine = append(nine, fmt.Sprintf("10.70.%d.0/24", i))
		l.said("party", nine[i])
	}
	name, body := createOf("n1", nine...)
	l.refused(name, body, "9 subnets, at most 8")
	l.over()

	l.said("party", "10.70.0.0/24")
	l.said("party", "10.70.0.128/25")
	name, body = createOf("n1", "10.70.0.0/24", "10.70.0.128/25")
	l.refused(name, body, "subnet 10.70.0.128/25 overlaps subnet 10.70.0.0/24")
	l.over()

	// Of another network, which is promised and not made.
	l.said("party", "10.70.0.0/24")
	name, body = said("other", "10.70.0.0/16")
	l.refused(name, body, "subnet 10.70.0.0/16 overlaps 10.70.0.0/24 of network party; choose another with --subnet, or leave it out")
	l.over()

	// Not the network's: of one on other hosts, and on this one.
	l.weft.Define("there", false) // 10.32.16.0/20
	l.weft.Add("there", netip.MustParsePrefix("10.71.0.0/24"))
	for range 2 {
		l.said("there", "10.71.0.0/24")
		name, body = said("there", "10.72.0.0/24")
		l.refused(name, body, "network there has the subnets 10.32.16.0/20, 10.71.0.0/24, not 10.72.0.0/24; leave --subnet out, or choose another network")
		name, body = said("there", "fd57:1:2:99::/64")
		l.refused(name, body, "network there has the subnets fd57:1:2:1::/64, fd57:1:2:a47::/64, not fd57:1:2:99::/64; leave the IPv6 --subnet out, or choose another network")
		if l.weft.String() == "" {
			l.over()
			if _, _, err := l.weft.Network(t.Context(), "there", docker.Wish{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, id := range l.p.PoolIDs() {
		l.ok("IpamDriver.ReleasePool", `{"PoolID":"`+id+`"}`)
	}
	if err := l.weft.GiveUp("there"); err != nil {
		t.Fatal(err)
	}
	l.over()

	// A network that was made meanwhile, of other subnets.
	l.said("party", "10.70.0.0/24")
	l.said("party", "10.71.0.0/24")
	l.weft.Define("party", false)
	name, body = createOf("n1", "10.70.0.0/24", "10.71.0.0/24")
	l.refused(name, body, "network party has the subnet 10.32.32.0/20, not 10.70.0.0/24; leave --subnet out, or choose another network")
	l.over()

	// No address but one that was chosen is given before there is a network; that one may turn out not to be free.
	id := l.said("free", "10.73.0.0/24")
	l.refused("IpamDriver.RequestAddress", `{"PoolID":"`+id+`"}`, "network free has no address to give before Docker makes it")
	for range 2 {
		l.ok("IpamDriver.RequestAddress", `{"PoolID":"`+id+`","Address":"10.73.0.5"}`)
	}
	name, body = createOf("n1", "10.73.0.0/24")
	l.refused(name, body, "address 10.73.0.5: in use")
	if _, _, err := l.weft.Network(t.Context(), "free", docker.Wish{Subnets: []netip.Prefix{netip.MustParsePrefix("10.73.0.0/24")}}); err != nil {
		t.Fatal(err)
	}
	l.refused(name, body, "address 10.73.0.5: in use") // the network is there, and stays
	if got := l.weft.String(); got != "network free 10.73.0.0/24 plain=false" {
		t.Errorf("after a refusal there is\n%s", got)
	}
	if err := l.weft.GiveUp("free"); err != nil {
		t.Fatal(err)
	}
	l.over()
}

// TestSubnetsPlain: a network that is to be plain is made so, though it is made later.
func TestSubnetsPlain(t *testing.T) {
	l := newLab(t)
	for _, s := range []string{"10.70.0.0/24", "10.71.0.0/24"} {
		l.ok("IpamDriver.RequestPool", `{"Options":{"weft.network":"party","weft.plain":"true"},"Pool":"`+s+`"}`)
	}
	l.ok(createOf("n1", "10.71.0.0/24", "10.70.0.0/24"))
	if got, want := l.weft.String(), "network party 10.70.0.0/24,10.71.0.0/24 plain=true"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestSubnetsForgotten: Docker was killed before it made the network. What was promised is not kept for ever.
func TestSubnetsForgotten(t *testing.T) {
	l := newLab(t)
	id := l.said("party", "10.70.0.0/24")
	l.ok("IpamDriver.RequestAddress", `{"PoolID":"`+id+`","Address":"10.70.0.5"}`)
	if len(l.p.Networks())+len(l.p.Held("party")) > 0 {
		t.Error("an address of a network that is not there counts as given")
	}
	l.restart()
	s, now := docker.NewSweeper(l.p), time.Unix(1000, 0)
	for range 2 {
		if err := s.Sweep(now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(docker.SweepAfter)
	}
	if ids := l.p.PoolIDs(); len(ids) > 0 {
		t.Errorf("still promised: %v", ids)
	}
	l.over()
}

// TestSubnetsLater: a container has routes to the subnets that its network has when it joins, of the families that it has addresses of.
func TestSubnetsLater(t *testing.T) {
	l := newLab(t)
	pool := l.pool("party")
	l.network("n1", "10.32.16.0/20", "")
	l.network("n2", "10.32.16.0/20", `"weft.ipv6":"false"`)
	routes := func(network, id string) string {
		t.Helper()
		l.endpoint(network, id, l.address(pool))
		var out []string
		for _, r := range l.join(network, id, "sandbox-"+id) {
			out = append(out, fmt.Sprint(r.(map[string]any)["Destination"], " ", r.(map[string]any)["RouteType"]))
		}
		return strings.Join(out, ", ")
	}
	if got := routes("n1", "e1"); got != "224.0.0.0/4 1" {
		t.Errorf("one subnet: %s", got)
	}
	l.weft.Add("party", netip.MustParsePrefix("10.71.0.0/24"))
	if got := routes("n1", "e2"); got != "224.0.0.0/4 1, 10.71.0.0/24 1, fd57:1:2:a47::/64 1" {
		t.Errorf("two subnets: %s", got)
	}
	if got := routes("n2", "e3"); got != "224.0.0.0/4 1, 10.71.0.0/24 1" {
		t.Errorf("without IPv6: %s", got)
	}
}
