package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// engine is a host with weft and an engine of Docker's.
type engine struct {
	*rig.Docker
	*rig.Host
}

// engines makes n hosts of one cluster in a cloud that drops multicast, each with Docker; more are options of the one that founds it.
func engines(t *testing.T, n int, more ...string) []engine {
	t.Helper()
	w := rig.New(t)
	u := w.Cloud()
	var out []engine
	for i := range n {
		out = append(out, engine{Host: u.Host(fmt.Sprintf("h%d", i+1))})
	}
	rig.MulticastProbe(t, out[0].Host, out[1].Host)
	hosts := make([]*rig.Host, n)
	for i, e := range out {
		hosts[i] = e.Host
		options := append(e.DockerPlugin(), e.DockerNames()...)
		if i > 0 {
			options = append([]string{out[0].Endpoint()}, options...)
		} else {
			options = append(options, more...)
		}
		e.Up(options...)
	}
	rig.AllKnowAll(t, 15*time.Second, hosts...)
	for i := range out {
		out[i].Docker = out[i].Host.Docker()
	}
	return out
}

// party makes the network party on an engine, as anybody would.
func (e engine) party() {
	e.Must("network", "create", "-d", "weft", "--ipam-driver", "weft", "-o", "weft.network=party", "--ipam-opt", "weft.network=party", "party")
}

// sleeper starts a container that does nothing.
func (e engine) sleeper(name string, options ...string) {
	args := append([]string{"run", "-d", "--name", name, "--init=false"}, options...)
	e.Must(append(args, rig.DockerImage, "sleep", "1000000")...)
}

// addr is a container's address in a network of Docker's.
func (e engine) addr(container, network, field string) string {
	return e.Must("inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).%s}}", network, field), container)
}

// pings waits until a container reaches an address.
func (e engine) pings(t *testing.T, container, to string) {
	t.Helper()
	rig.Eventually(t, 15*time.Second, func() error {
		if r := e.Docker.Run("exec", container, "ping", "-c", "1", "-W", "1", to); r.Code != 0 {
			return fmt.Errorf("%s on %s to %s: %s%s", container, e.Name, to, r.Stdout, r.Stderr)
		}
		return nil
	})
}

// clean says that Docker's doings have left nothing on a host: no veth, no bridge but the default network's, no address.
func (e engine) clean(t *testing.T) {
	t.Helper()
	rig.Eventually(t, 15*time.Second, func() error {
		out := e.MustExec("ip", "-o", "link", "show", "type", "veth")
		if ports(e.Host) != 0 || strings.Contains(out, ": wi") || strings.Count(out, ": wvdns") > 1 {
			return fmt.Errorf("%s has interfaces besides that of the default network's name service:\n%s", e.Name, out)
		}
		if out := e.MustExec("ip", "-o", "link", "show", "type", "bridge"); strings.Count(out, ": wb") != 1 {
			return fmt.Errorf("%s has bridges:\n%s", e.Name, out)
		}
		s, err := e.Status()
		if err != nil {
			return err
		}
		for _, l := range s.Limits {
			if strings.HasPrefix(l.Name, "docker_") && l.Used != 0 {
				return fmt.Errorf("%s: %s is %d", e.Name, l.Name, l.Used)
			}
		}
		return nil
	})
}

// TestDocker: one network on three hosts, made by Docker's own command; containers reach each other in both families, and chat in a
// cloud that drops multicast; a container of another network hears nothing; nothing is left in the end.
func TestDocker(t *testing.T) {
	e := engines(t, 3)
	for i, x := range e {
		x.party()
		x.sleeper(fmt.Sprintf("c%d", i+1), "--network", "party")
	}
	e[0].Must("network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=other", "other")
	seen := map[string]bool{}
	for i, x := range e {
		name := fmt.Sprintf("c%d", i+1)
		for _, field := range []string{"IPAddress", "GlobalIPv6Address", "MacAddress"} {
			v := x.addr(name, "party", field)
			if v == "" || seen[v] {
				t.Errorf("%s: %s %q", name, field, v)
			}
			seen[v] = true
		}
	}
	for i, x := range e {
		for j, y := range e {
			to := fmt.Sprintf("c%d", j+1)
			if i != j {
				x.pings(t, fmt.Sprintf("c%d", i+1), y.addr(to, "party", "IPAddress"))
				x.pings(t, fmt.Sprintf("c%d", i+1), y.addr(to, "party", "GlobalIPv6Address"))
			}
		}
	}

	const group = "239.1.2.3:1234"
	var chats []*rig.Process
	for i, x := range e {
		chats = append(chats, x.Attend("run", "-i", "--name", fmt.Sprintf("chat%d", i+1), "--network", "party", rig.DockerImage, "weft", "chat", group, fmt.Sprintf("n%d", i+1)))
	}
	deaf := e[0].Attend("run", "-i", "--name", "deaf", "--network", "other", rig.DockerImage, "weft", "chat", group, "deaf")
	rig.Eventually(t, 20*time.Second, func() error {
		all, err := e[0].Groups()
		members := map[string]int{}
		for _, g := range all {
			if g.Group == "239.1.2.3" {
				members[g.Network] += len(g.Members)
			}
		}
		if err == nil && (members["party"] != 3 || members["other"] != 1) {
			err = fmt.Errorf("members: %v", members)
		}
		return err
	})
	for i, c := range chats {
		c.Send(fmt.Sprintf("hello from %d", i+1))
	}
	for i, c := range chats {
		for j := range chats {
			if i != j {
				rig.Eventually(t, 10*time.Second, func() error {
					if n := c.Count(fmt.Sprintf("hello from %d", j+1)); n != 1 {
						return fmt.Errorf("chat%d has read %d's line %d times", i+1, j+1, n)
					}
					return nil
				})
			}
		}
	}
	deaf.RefuseLine("hello", 2*time.Second)

	// A container in two weft networks: one route for groups, and both addresses.
	e[0].Must("network", "connect", "other", "c1")
	if out := e[0].Must("exec", "c1", "ip", "-4", "route"); strings.Count(out, "224.0.0.0/4") != 1 {
		t.Errorf("routes of a container in two networks:\n%s", out)
	}
	e[0].Must("network", "disconnect", "party", "c1")
	e[0].Must("network", "connect", "party", "c1")
	e[1].pings(t, "c2", e[0].addr("c1", "party", "IPAddress"))

	// --ip, which Docker has only where the user said the subnet: one address of the whole cluster.
	for i, x := range e[:2] {
		x.Must("network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=fixed", "--subnet", "10.91.0.0/24", "fixed")
		x.sleeper(fmt.Sprintf("fixed%d", i+1), "--network", "fixed", "--ip", fmt.Sprintf("10.91.0.%d", 50+i))
	}
	e[0].pings(t, "fixed1", "10.91.0.51")
	if r := e[1].Docker.Run("run", "--rm", "--network", "fixed", "--ip", "10.91.0.50", rig.DockerImage, "sleep", "0"); r.Code == 0 || !strings.Contains(r.Stderr, "address 10.91.0.50: address in use") {
		t.Errorf("an address twice in the cluster: %d %s", r.Code, r.Stderr)
	}

	// The host's own attachments, and programs of weft run, are in the same network.
	a := startAgent(t, e[2].Host, "plain-program", "--network", "party")
	e[0].pings(t, "c1", a.ip4())
	a.Kill9()
	gone(t, "plain-program", e[2].Host)

	for _, x := range e {
		ids := strings.Fields(x.Must("ps", "-aq"))
		x.Must(append([]string{"rm", "-f"}, ids...)...)
		x.Must("network", "rm", "party")
	}
	e[0].Must("network", "rm", "other", "fixed")
	e[1].Must("network", "rm", "fixed")
	for _, x := range e {
		x.clean(t)
	}
}
