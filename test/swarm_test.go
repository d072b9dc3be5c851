package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/test/rig"
)

// nodes makes n hosts of one cluster in a cloud that drops multicast, each with Docker and the plugin for Swarm; the first is the Swarm's manager.
func nodes(t *testing.T, n int) []engine {
	t.Helper()
	w := rig.New(t)
	u := w.Cloud()
	var out []engine
	var hosts []*rig.Host
	for i := range n {
		h := u.Host(fmt.Sprintf("h%d", i+1))
		out, hosts = append(out, engine{Host: h}), append(hosts, h)
	}
	rig.MulticastProbe(t, hosts[0], hosts[1])
	for i, h := range hosts {
		options := append(h.DockerPlugin(), h.DockerNames()...)
		if i > 0 {
			options = append([]string{hosts[0].Endpoint()}, options...)
		}
		h.Up(options...)
	}
	rig.AllKnowAll(t, 15*time.Second, hosts...)
	for i, h := range hosts {
		h.ForSwarm()
		// A task is not to ask a registry, that does not answer, for an image that is here.
		const here = "DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1"
		h.Setenv(here)
		out[i].Docker = h.Docker()
		h.Setenv(here, "DOCKER_HOST="+out[i].Where())
		for _, did := range []string{"made and enabled", "is enabled already"} {
			if said := h.MustWeft(append([]string{"docker", "setup", "--swarm"}, h.DockerPlugin()...)...); !strings.Contains(said, did) {
				t.Errorf("setup on %s: %s, want %s", h.Name, said, did)
			}
		}
	}
	out[0].Must("swarm", "init", "--advertise-addr", hosts[0].IP.String(), "--task-history-limit", "1")
	t.Cleanup(out[0].leaveSwarm)
	token := out[0].Must("swarm", "join-token", "-q", "worker")
	for _, x := range out[1:] {
		x.Must("swarm", "join", "--token", token, "--advertise-addr", x.IP.String(), hosts[0].IP.String()+":2377")
		t.Cleanup(x.leaveSwarm)
	}
	return out
}

// leaveSwarm lets containers be removed without being started again.
func (e engine) leaveSwarm() { e.Docker.Run("swarm", "leave", "--force") }

// id is the engine's as a node.
func (e engine) id() string { return e.Must("info", "-f", "{{.Swarm.NodeID}}") }

// task is a container of a service that runs.
type task struct {
	on  engine
	ID  string // as in its hostname
	Pid int
	ip4 string
	ip6 string
}

// tasks lists the containers of a service that run on an engine, and have their addresses.
func (e engine) tasks(service, network string) ([]task, error) {
	ids := e.Docker.Run("ps", "-q", "--filter", "label=com.docker.swarm.service.name="+service)
	if ids.Code != 0 {
		return nil, fmt.Errorf("%s: %s", e.Name, ids.Stderr)
	}
	id := strings.Fields(ids.Stdout)
	if len(id) == 0 {
		return nil, nil
	}
	r := e.Docker.Run(append([]string{"inspect"}, id...)...)
	var all []struct {
		State           struct{ Pid int }
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress, GlobalIPv6Address string }
		}
	}
	if r.Code != 0 || json.Unmarshal([]byte(r.Stdout), &all) != nil || len(all) != len(id) {
		return nil, fmt.Errorf("%s: docker inspect: %s", e.Name, r.Stderr) // one has ended meanwhile
	}
	var out []task
	for i, c := range all {
		if n := c.NetworkSettings.Networks[network]; n.IPAddress != "" && c.State.Pid != 0 {
			out = append(out, task{e, id[i], c.State.Pid, n.IPAddress, n.GlobalIPv6Address})
		}
	}
	return out, nil
}

// listening waits until a service has that many tasks on some engines and each of them has lately heard each other; no two may
// have one address at any moment.
func listening(t *testing.T, service, network string, replicas int, on ...engine) []task {
	t.Helper()
	began := time.Now()
	var all []task
	rig.Eventually(t, 60*time.Second, func() error {
		all = nil
		holders := map[string]string{}
		for _, x := range on {
			here, err := x.tasks(service, network)
			if err != nil {
				return err
			}
			for _, k := range here {
				for _, ip := range []string{k.ip4, k.ip6} {
					if o := holders[ip]; o != "" {
						return fmt.Errorf("%w: %s and %s both have %s", rig.ErrHopeless, o, k.ID, ip)
					}
					holders[ip] = k.ID
				}
			}
			all = append(all, here...)
		}
		if len(all) != replicas {
			return fmt.Errorf("%d tasks, want %d\n%s", len(all), replicas, on[0].Docker.Run("service", "ps", "--no-trunc", service).Stdout)
		}
		for _, k := range all {
			log := k.on.Docker.Run("logs", "--since", "4s", k.ID)
			for _, o := range all {
				if !strings.Contains(log.Stdout, "from "+o.ID) {
					return fmt.Errorf("%s on %s has not heard %s on %s: %s", k.ID, k.on.Name, o.ID, o.on.Name, log.Stderr)
				}
			}
		}
		return nil
	})
	t.Logf("%d tasks on %d nodes hear each other after %v", replicas, len(on), time.Since(began).Round(time.Second))
	return all
}

// answers waits until a service's name, and that of its tasks, stands for all tasks, and each task's for itself, wherever one asks.
func answers(t *testing.T, service string, all []task) {
	t.Helper()
	began := time.Now()
	var ips []string
	for _, k := range all {
		ips = append(ips, k.ip4)
	}
	for _, k := range all {
		resolves(t, k.on, k.ID, service, ips...)
		resolves(t, k.on, k.ID, "tasks."+service, ips...)
		name := k.on.Must("inspect", "-f", `{{index .Config.Labels "com.docker.swarm.task.name"}}`, k.ID)
		resolves(t, all[0].on, all[0].ID, name, k.ip4)
	}
	t.Logf("names of %d tasks answered after %v", len(all), time.Since(began).Round(time.Second))
}

// among counts the tasks on an engine.
func (e engine) among(all []task) (n int) {
	for _, k := range all {
		if k.on.Host == e.Host {
			n++
		}
	}
	return n
}

// TestSwarm: a service of six replicas on three nodes in a cloud that drops multicast; all join one group and hear all. So they do when it is scaled
// up and down, when a node is drained, when one is killed, and when that comes back; no address is given twice, and nothing is left.
func TestSwarm(t *testing.T) {
	e := nodes(t, 3)
	refused(t, e[1].Weft("docker", "network", "create", "party"), 1, "weft has no network party", "on a manager of the Swarm first")
	var made struct {
		Subnet, Command string
		Made            bool
		Nodes           []struct {
			ID   string
			Done bool
		}
	}
	if err := e[0].JSON(&made, "docker", "network", "create", "party"); err != nil || !made.Made || len(made.Nodes) != 2 || !made.Nodes[0].Done || !made.Nodes[1].Done {
		t.Fatalf("on the manager: %+v, %v", made, err)
	}
	if said := e[0].MustWeft("docker", "network", "create", "party"); strings.Contains(said, made.Command) {
		t.Errorf("there is something left to do: %s", said)
	}
	// Where weft may not do it, what is to be typed is printed, and does there what the command does.
	e[1].MustWeft(append([]string{"docker", "setup", "--swarm", "--follow=false"}, e[1].DockerPlugin()...)...)
	e[1].Must("network", "rm", "party-weft")
	if said := e[0].MustWeft("docker", "network", "create", "party"); !strings.Contains(said, made.Command) {
		t.Errorf("not printed: %s", said)
	}
	e[1].MustExec("sh", "-c", made.Command)
	e[1].MustWeft("docker", "network", "create", "party")
	e[1].MustWeft(append([]string{"docker", "setup", "--swarm"}, e[1].DockerPlugin()...)...)

	const group = "239.1.2.3:5000"
	e[0].Must("service", "create", "--detach", "--name", "talk", "--replicas", "6", "--network", "party", "--dns", e[0].server(t, "party"), "--no-resolve-image", "--stop-grace-period", "1s",
		rig.DockerImage, "sh", "-c", "weft recv "+group+" & while true; do echo from $(hostname); sleep 1; done | weft send "+group)
	all := listening(t, "talk", "party", 6, e...)
	for _, x := range e {
		if x.among(all) != 2 {
			t.Errorf("%d of 6 tasks on %s", x.among(all), x.Name)
		}
	}
	answers(t, "talk", all)
	networks := map[string]bool{}
	for _, x := range e {
		networks[x.Must("network", "inspect", "-f", "{{.ID}} {{(index .IPAM.Config 0).Subnet}}", "party")] = true
	}
	if len(networks) != 1 {
		t.Errorf("networks on the nodes: %v", networks)
	}
	// Beside it, a container of one's own: the network is attachable.
	e[1].sleeper("mine", "--network", "party")
	e[1].pings(t, "mine", all[0].ip4)
	e[1].pings(t, "mine", all[0].ip6)
	e[1].Must("rm", "-f", "mine")

	// A network of two subnets: the configuration names the first, which has room for five, and tasks in both reach each other.
	e[0].MustWeft("docker", "network", "create", "two", "--subnet", "10.97.0.0/29", "--subnet", "10.98.0.0/24")
	e[0].Must("service", "create", "--detach", "--name", "pair", "--replicas", "6", "--network", "two", "--no-resolve-image", "--stop-grace-period", "1s",
		rig.DockerImage, "sh", "-c", "weft recv "+group+" & while true; do echo from $(hostname); sleep 1; done | weft send "+group)
	in := map[string]task{}
	for _, x := range listening(t, "pair", "two", 6, e...) {
		in[x.ip4[:len("10.97")]] = x
	}
	if x, y := in["10.97"], in["10.98"]; x.ID == "" || y.ID == "" {
		t.Errorf("a task in each subnet: %v", in)
	} else {
		x.on.pings(t, x.ID, y.ip4)
		x.on.pings(t, x.ID, y.ip6)
		y.on.pings(t, y.ID, x.ip4)
	}
	e[0].Must("service", "rm", "pair")
	rig.Eventually(t, 30*time.Second, func() error {
		if r := e[0].Weft("docker", "network", "rm", "two"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	e[0].MustWeft("network", "rm", "two")

	// More, while weft on one node is away: the plugin there waits for it.
	e[1].Host.Kill9()
	e[0].Must("service", "scale", "--detach", "talk=9")
	rig.Eventually(t, 20*time.Second, func() error {
		if s := e[0].Must("service", "ps", "talk", "-f", "desired-state=running", "-f", "node="+e[1].id(), "--format", "{{.CurrentState}}"); !strings.Contains(s, "Starting") {
			return fmt.Errorf("tasks on %s: %s", e[1].Name, s)
		}
		return nil
	})
	e[1].Restart()
	if all = listening(t, "talk", "party", 9, e...); e[1].among(all) != 3 {
		t.Errorf("%d of 9 tasks on %s", e[1].among(all), e[1].Name)
	}
	e[0].Must("service", "scale", "--detach", "talk=6")
	answers(t, "talk", listening(t, "talk", "party", 6, e...))

	e[0].Must("node", "update", "--availability", "drain", e[1].id())
	listening(t, "talk", "party", 6, e[0], e[2])
	if left := listening(t, "talk", "party", 6, e...); e[1].among(left) != 0 {
		t.Errorf("%d tasks on a node that is drained", e[1].among(left))
	}
	e[0].Must("node", "update", "--availability", "active", e[1].id())

	// A node dies: Docker, weft, and all containers with it.
	killed := e[2].id()
	e[2].Docker.Reset()
	answers(t, "talk", listening(t, "talk", "party", 6, e[:2]...))

	e[2].Restart()
	e[2].Begin()
	rig.Eventually(t, 60*time.Second, func() error {
		if s := e[0].Must("node", "inspect", "-f", "{{.Status.State}}", killed); s != "ready" {
			return fmt.Errorf("the node that was killed is %s", s)
		}
		return nil
	})
	e[0].Must("service", "scale", "--detach", "talk=9")
	if all = listening(t, "talk", "party", 9, e...); e[2].among(all) == 0 {
		t.Error("no task on the node that came back")
	}

	e[0].Must("service", "rm", "talk")
	for _, x := range e[:2] {
		rig.Eventually(t, 20*time.Second, x.unused)
	}
	refused(t, e[1].Weft("docker", "network", "rm", "party"), 1, "on a manager: weft docker network rm party")
	// What a node that was killed has forgotten comes back after minutes (sweep.go); Docker's own record of the configuration may count
	// the network that died as a user for ever.
	rig.Eventually(t, 15*time.Second, func() error {
		if r := e[0].Weft("docker", "network", "rm", "party"); r.Code != 0 {
			return fmt.Errorf("%s\n%s", r.Stderr, e[0].Docker.Run("network", "ls", "--no-trunc").Stdout)
		}
		return nil
	})
	for _, x := range e[:2] {
		rig.Eventually(t, 15*time.Second, func() error {
			if left := x.Must("network", "ls", "-f", "name=party", "--format", "{{.Name}}"); left != "" {
				return fmt.Errorf("%s has %s", x.Name, left)
			}
			return nil
		})
	}
	// What somebody makes by hand under the name that is gone is left alone, by the next daemon too.
	e[1].MustExec("sh", "-c", made.Command)
	e[1].Host.Kill9()
	e[1].Restart()
	rig.Eventually(t, 15*time.Second, func() error {
		s, err := e[1].Status()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(s.Limits, func(l api.Limit) bool { return l.Name == "swarm_networks" }); i < 0 || s.Limits[i].Used != 2 { // party and two
			return errors.New("the cluster's wishes have not been looked at yet")
		}
		return nil
	})
	e[1].Must("network", "rm", "party-weft") // it is there
	e[0].MustWeft("network", "rm", "party")
	for i, x := range e {
		rig.Eventually(t, 15*time.Second, func() error {
			out := x.MustExec("ip", "-o", "link", "show")
			ours := strings.Count(out, ": wv") - strings.Count(out, ": wvdns") + strings.Count(out, ": wi")
			if bridges := strings.Count(out, ": wb"); ours != 0 || bridges != 1 && i < 2 {
				return fmt.Errorf("%s has %d interfaces of containers and %d bridges:\n%s", x.Name, ours, bridges, out)
			}
			return nil
		})
	}
	for _, x := range e[:2] {
		s, err := x.Status()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range s.Limits {
			if strings.HasPrefix(l.Name, "docker_") && l.Used != 0 {
				t.Errorf("%s: %s is %d", x.Name, l.Name, l.Used)
			}
		}
	}
}

// unused says that Docker has given back all containers' places and addresses on a host.
func (e engine) unused() error {
	s, err := e.Status()
	if err != nil {
		return err
	}
	for _, l := range s.Limits {
		if (l.Name == "docker_containers" || l.Name == "docker_addresses") && l.Used != 0 {
			return fmt.Errorf("%s: %s is %d", e.Name, l.Name, l.Used)
		}
	}
	return nil
}
