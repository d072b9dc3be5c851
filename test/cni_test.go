package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// pod is a container on a network by CNI, with an agent in it.
type pod struct {
	*agent
	at     *rig.Container
	v4, v6 string
	bits   int // prefix length of v4
}

// runPod plugs a container in and starts an agent in it.
func runPod(t *testing.T, h *rig.Host, c *rig.CNI, name string, vars ...string) *pod {
	t.Helper()
	at := h.Container(name)
	r := c.Tool("add", "weft", at, vars...).Result(t)
	p := &pod{at: at, v4: r.IP(t, "eth0", false), v6: r.IP(t, "eth0", true)}
	for _, ip := range r.IPs {
		if ip.Address.Addr().Is4() {
			p.bits = ip.Address.Bits()
		}
	}
	p.start(t, h)
	return p
}

func (p *pod) start(t *testing.T, h *rig.Host) {
	t.Helper()
	proc := p.at.Start(python, script(t, "agent.py"), agentPort)
	proc.ExpectLine("^ready$", 10*time.Second)
	p.agent = &agent{Process: proc, t: t, host: h, name: p.at.ID}
}

// reaches waits until a pod's ping is answered.
func (p *pod) reaches(to string) {
	p.t.Helper()
	rig.Eventually(p.t, 10*time.Second, func() error {
		if n, out := p.ping(to, 1, 56); n == 0 {
			return fmt.Errorf("%s to %s: %s", p.name, to, out)
		}
		return nil
	})
}

// cniFails says that a call of the plugin fails with a code and words.
func cniFails(t *testing.T, r rig.Result, code int, words ...string) {
	t.Helper()
	var e struct {
		Version string `json:"cniVersion"`
		Code    int
		Msg     string
		Details string
	}
	if err := json.Unmarshal([]byte(r.Stdout), &e); err != nil || r.Code == 0 || e.Code != code {
		t.Errorf("exit %d, want code %d: %s%s", r.Code, code, r.Stdout, r.Stderr)
	}
	for _, w := range words {
		if !strings.Contains(e.Msg+e.Details, w) {
			t.Errorf("the error does not say %q: %s", w, r.Stdout)
		}
	}
}

// nothingLeft waits until a host has no interface of an attachment and the cluster shows none there.
func nothingLeft(t *testing.T, h *rig.Host) {
	t.Helper()
	rig.Eventually(t, 10*time.Second, func() error {
		if n := ports(h); n != 0 {
			return fmt.Errorf("%s: %d interfaces of attachments left", h.Name, n)
		}
		all, err := h.Attachments()
		for _, a := range all {
			if a.Host == h.Name {
				return fmt.Errorf("%s still shows attachment %s", h.Name, a.Name)
			}
		}
		return err
	})
}

const cniConfig = `{"cniVersion": "1.1.0", "name": "weft", "type": "weft"`

// config is a configuration for direct calls, with further keys.
func config(h *rig.Host, keys string) string {
	return cniConfig + `, "runDir": "` + h.RunDir() + `"` + keys + `}`
}

// TestCNI: containers on three hosts by the reference runtime's tool, in a cloud that drops multicast: they reach each other in both
// families, hear each other's groups and know each other's names; CHECK, DEL and GC; what a runtime does when weft is away.
func TestCNI(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 3)
	var cni []*rig.CNI
	var pods []*pod
	var agents []*agent
	for i, x := range h {
		cni = append(cni, x.CNI())
		if r := cni[i].Tool("status", "weft", x.Container("status")); r.Code != 0 {
			t.Fatalf("status: %s", r.Stderr)
		}
		pods = append(pods, runPod(t, x, cni[i], fmt.Sprintf("pod%d", i+1), "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID=7"))
		agents = append(agents, pods[i].agent)
	}
	for i, p := range pods {
		to := pods[(i+1)%3]
		p.reaches(to.v4)
		p.reaches(to.v6)
	}
	converse(t, "239.1.2.3", agents...)
	converse(t, "ff15::cafe", agents...)
	rig.Eventually(t, 5*time.Second, func() error {
		if r := h[1].Weft("name", "lookup", "web.prod"); r.Code != 0 || !strings.Contains(r.Stdout, pods[0].v4) || !strings.Contains(r.Stdout, pods[2].v6) {
			return fmt.Errorf("web.prod is %s%s", r.Stdout, r.Stderr)
		}
		return nil
	})

	// CHECK: well, damaged, and gone.
	check := func(p *pod, i int, want string) {
		t.Helper()
		rig.Eventually(t, 5*time.Second, func() error {
			r := cni[i].Tool("check", "weft", p.at)
			if (r.Code == 0) != (want == "") || !strings.Contains(r.Stderr, want) {
				return fmt.Errorf("check of %s: exit %d, want %q: %s", p.name, r.Code, want, r.Stderr)
			}
			return nil
		})
	}
	check(pods[0], 0, "")
	pods[0].at.Must("ip", "address", "del", fmt.Sprintf("%s/%d", pods[0].v4, pods[0].bits), "dev", "eth0")
	check(pods[0], 0, "it has lost the address "+pods[0].v4)
	pods[0].at.Must("ip", "link", "del", "eth0")
	check(pods[0], 0, "its attachment to network weft is gone; add the container again")

	for i, p := range pods {
		for range 2 { // what is gone is gone
			if r := cni[i].Tool("del", "weft", p.at); r.Code != 0 {
				t.Errorf("del: %s", r.Stderr)
			}
		}
		nothingLeft(t, h[i])
		if out := p.at.Must("ip", "-o", "link"); strings.Contains(out, "eth0") {
			t.Errorf("%s still has its interface:\n%s", p.name, out)
		}
	}

	// GC: what the runtime does not name is removed; another CNI network's is not.
	a, b, stranger := h[0].Container("a"), h[0].Container("b"), h[0].Container("stranger")
	cni[0].Tool("add", "weft", a).Result(t)
	valid := cni[0].Call("ADD", config(h[0], ""), b).Result(t)
	others := strings.Replace(config(h[0], ""), `"name": "weft"`, `"name": "other"`, 1)
	cni[0].Call("ADD", others, stranger).Result(t)
	if r := cni[0].Call("GC", config(h[0], `, "cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]`), nil); r.Code != 0 || r.Stdout != "" {
		t.Errorf("GC: exit %d %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if n := ports(h[0]); n != 2 {
		t.Errorf("%d attachments after GC, want that of b and that of another CNI network", n)
	}
	if again := cni[0].Call("ADD", config(h[0], ""), b).Result(t); fmt.Sprint(again) != fmt.Sprint(valid) {
		t.Errorf("ADD repeated: %+v, at first %+v", again, valid)
	}
	if r := cni[0].Tool("gc", "weft", b); r.Code != 0 {
		t.Errorf("gc: %s", r.Stderr)
	}
	if r := cni[0].Call("DEL", others, stranger); r.Code != 0 {
		t.Errorf("DEL: %s", r.Stdout)
	}
	nothingLeft(t, h[0])

	// A container made anew under the same id and path gets an interface in the new namespace.
	first := cni[0].Tool("add", "weft", a).Result(t)
	a.Renew()
	second := cni[0].Tool("add", "weft", a).Result(t)
	if out := a.Must("ip", "-o", "address", "show", "eth0"); !strings.Contains(out, second.IP(t, "eth0", false)) {
		t.Errorf("the new namespace, after %+v, has\n%s", first, out)
	}
	if n := ports(h[0]); n != 1 {
		t.Errorf("%d attachments, want one", n)
	}

	// An interface of that name that is not weft's.
	b.Must("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
	cniFails(t, cni[0].Call("ADD", config(h[0], ""), b), 102, "eth0")
	cniFails(t, cni[0].Call("ADD", config(h[0], `, "network": "ghost"`), b), 101, "ghost", "weft network create ghost")
	cniFails(t, cni[0].Call("ADD", config(h[0], ""), &rig.Container{ID: "x", Path: "/run/netns/no-such"}), 3, "/run/netns/no-such")

	// In a network of two subnets containers of one reach those of the other, both ways.
	h[0].MustWeft("network", "create", "two", "--subnet", "10.61.0.0/24", "--subnet", "10.62.0.0/24")
	two := func(ip string) string { return `, "network": "two", "runtimeConfig": {"ips": ["` + ip + `"]}` }
	one, other := h[0].Container("one"), h[1].Container("other")
	cni[0].Call("ADD", config(h[0], two("10.61.0.9/24")), one).Result(t)
	var there rig.Result
	rig.Eventually(t, 5*time.Second, func() error { // it has heard of the network
		if there = cni[1].Call("ADD", config(h[1], two("10.62.0.9/24")), other); there.Code != 0 {
			return errors.New(there.Stdout)
		}
		return nil
	})
	for _, ip := range []string{"10.62.0.9", there.Result(t).IP(t, "eth0", true)} {
		one.Must("ping", "-c", "20", "-i", "0.1", "-W", "1", ip) // one is enough
	}
	other.Must("ping", "-c", "20", "-i", "0.1", "-W", "1", "10.61.0.9")
	for i, c := range []*rig.Container{one, other} {
		if r := cni[i].Call("DEL", config(h[i], `, "network": "two"`), c); r.Code != 0 {
			t.Errorf("DEL: %s", r.Stdout)
		}
	}
	nothingLeft(t, h[1])

	// Weft away: what needs it says so, DEL does without.
	h[0].Kill9()
	cniFails(t, cni[0].Call("STATUS", config(h[0], ""), nil), 51, "weft up")
	cniFails(t, cni[0].Call("ADD", config(h[0], ""), h[0].Container("late")), 11, "weft up")
	if r := cni[0].Tool("status", "weft", a); r.Code == 0 || !strings.Contains(r.Stderr, "weft up") {
		t.Errorf("status without a daemon: %s", r.Stderr)
	}
	if r := cni[0].Tool("del", "weft", a); r.Code != 0 {
		t.Errorf("del without a daemon: %s", r.Stderr)
	}
	if n := ports(h[0]); n != 0 {
		t.Errorf("%d interfaces left after DEL without a daemon", n)
	}
	h[0].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	nothingLeft(t, h[0])
	ip := second.IP(t, "eth0", false)
	r := cni[0].Tool("add", "weft", a, `CAP_ARGS={"ips": ["`+ip+`/20"], "aliases": ["again"]}`).Result(t)
	if got := r.IP(t, "eth0", false); got != ip {
		t.Errorf("address %s, asked for %s, which was given back", got, ip)
	}
}

// TestCNIChained: weft as the second plugin of a list gives containers of another network a further interface, for multicast.
func TestCNIChained(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	var pods []*pod
	for i, x := range h {
		c := x.CNI("--no-conf")
		// A plugin as any other: an interface with an address and the default route.
		plugin := `#!/bin/sh
case $CNI_COMMAND in
ADD) nsenter --net="$CNI_NETNS" sh -c "ip link add $CNI_IFNAME type veth peer name other && ip link set other up && ip addr add 10.77.0.5/24 dev $CNI_IFNAME && ip link set $CNI_IFNAME up && ip route add default via 10.77.0.1" &&
echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}], "ips": [{"address": "10.77.0.5/24", "gateway": "10.77.0.1", "interface": 0}], "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.96.0.10"]}}' ;;
DEL) nsenter --net="$CNI_NETNS" ip link del "$CNI_IFNAME" ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
esac
`
		list := `{"cniVersion": "1.0.0", "name": "main", "plugins": [{"type": "primary"}, {"type": "weft", "runDir": "` + x.RunDir() + `"}]}`
		for path, text := range map[string]string{filepath.Join(c.BinDir, "primary"): plugin, filepath.Join(c.ConfDir, "10-main.conflist"): list} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		at := x.Container(fmt.Sprintf("pod%d", i+1))
		r := c.Tool("add", "main", at).Result(t)
		if r.IP(t, "eth0", false) != "10.77.0.5" || len(r.DNS.Nameservers) != 1 || r.DNS.Nameservers[0] != "10.96.0.10" {
			t.Errorf("what the first plugin answered is not passed on: %+v", r)
		}
		p := &pod{at: at, v4: r.IP(t, "weft0", false), v6: r.IP(t, "weft0", true)}
		p.start(t, x)
		pods = append(pods, p)
		if r := c.Tool("check", "main", at); r.Code != 0 {
			t.Errorf("check: %s", r.Stderr)
		}
		defer func() {
			if r := c.Tool("del", "main", at); r.Code != 0 {
				t.Errorf("del: %s", r.Stderr)
			}
			nothingLeft(t, x)
		}()
	}
	pods[0].reaches(pods[1].v4)
	pods[1].reaches(pods[0].v6)
	converse(t, "239.1.2.3", pods[0].agent, pods[1].agent)
}

// TestCNISmoke is Weave's smoke test 830 as far as it is about what both have: configurations of old versions and of none, addresses
// that are nobody else's, those of containers that ended without DEL, and a restart after which all have theirs. Weave's plugin was a
// way out too, with hairpin mode and a default route; a weft network is none.
func TestCNISmoke(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	h := w.Cloud().Host("h1")
	h.Up()
	c := h.CNI("--no-conf")
	h.MustWeft("expose")
	run := ` "runDir": "` + h.RunDir() + `"}`
	taken := map[string]string{}
	all, err := h.Attachments()
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	exposed, _, _ := strings.Cut(all[0].IPs[0], "/")
	taken[exposed] = "the host"
	add := func(name, config string) *pod {
		t.Helper()
		at := h.Container(name)
		r := c.Call("ADD", config, at)
		var old struct{ IP4, IP6 struct{ IP string } }
		if err := json.Unmarshal([]byte(r.Stdout), &old); err != nil || r.Code != 0 {
			t.Fatalf("%s: exit %d: %s", name, r.Code, r.Stdout)
		}
		p := &pod{at: at}
		if p.v4, _, _ = strings.Cut(old.IP4.IP, "/"); p.v4 == "" {
			p.v4 = r.Result(t).IP(t, "eth0", false)
		}
		if who := taken[p.v4]; who != "" {
			t.Errorf("%s has the address of %s, %s", name, who, p.v4)
		}
		taken[p.v4] = name
		p.start(t, h)
		return p
	}
	add("c0", `{"name": "weave", "type": "weft", "ipam": {"type": "weft"},`+run)
	c1 := add("c1", `{"name": "weave", "type": "weft",`+run)
	c2 := add("c2", `{"cniVersion": "0.3.0", "name": "weave", "type": "weft",`+run)
	c1.reaches(c2.v4)
	c2.reaches(c1.v4)
	if r := h.Exec("ping", "-c", "1", "-W", "2", c2.v4); r.Code != 0 { // not the other way: the host answers no containers
		t.Errorf("the host to c2: %s%s", r.Stdout, r.Stderr)
	}
	c2.Kill9()
	c2.at.Remove()
	delete(taken, c2.v4) // of no use to anybody without its namespace: weft gives it to others then
	rig.Eventually(t, 10*time.Second, func() error {
		if n := ports(h); n != 3 {
			return fmt.Errorf("%d interfaces of attachments, want those of the host, c0 and c1", n)
		}
		return nil
	})
	c3 := add("c3", `{"name": "weave", "type": "weft",`+run)
	c1.reaches(c3.v4)
	h.Kill9()
	h.Restart()
	c1.reaches(c3.v4)
	add("c4", `{"name": "weave", "type": "weft",`+run).reaches(c1.v4)
}
