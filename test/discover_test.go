package test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/discover/discovertest"
	"github.com/weft-net/weft/test/rig"
)

// TestDiscover: hosts that know nothing of each other but where to look meet, and lose nothing when that is lost.
func TestDiscover(t *testing.T) {
	t.Parallel()
	t.Run("etcd", discoverEtcd)
	t.Run("consul", discoverConsul)
	t.Run("dns", discoverDNS)
	t.Run("lan", discoverLAN)
	t.Run("exec", discoverExec)
	t.Run("swarm", discoverSwarm)
	t.Run("founding", discoverFounding)
	t.Run("garbage", discoverGarbage)
}

// storeVariable makes this test binary a server of the kind it names.
const storeVariable = "WEFT_TEST_STORE"

// storeProgram is a server on the address that is its argument: Consul's API, or one that says the same whatever it is asked.
func storeProgram() bool {
	kind := os.Getenv(storeVariable)
	if kind == "" {
		return false
	}
	var h http.Handler = &discovertest.Consul{}
	network := "tcp"
	if kind != "consul" {
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := os.ReadFile(filepath.Join(kind, strings.ReplaceAll(strings.Trim(r.URL.Path, "/"), "/", "-")))
			if err != nil {
				b, err = os.ReadFile(filepath.Join(kind, "all"))
			}
			if err != nil || r.Method != http.MethodGet && kind == "swarm" {
				http.Error(w, "no such page", http.StatusNotFound)
				return
			}
			_, _ = w.Write(b)
		})
	}
	if strings.HasPrefix(os.Args[1], "/") {
		network = "unix"
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), network, os.Args[1])
	if err == nil {
		fmt.Println("ready")
		err = http.Serve(l, h)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
	return true
}

// serve starts a store on a host. pages is a folder of answers by path, or "consul".
func serve(t *testing.T, h *rig.Host, pages, at string) *rig.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := h.Start("env", storeVariable+"="+pages, self, at)
	p.ExpectLine("^ready$", 10*time.Second)
	return p
}

// pages makes a folder of answers.
func pages(t *testing.T, answers map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range answers {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// etcd starts Debian's etcd with a folder for its data.
func etcd(t *testing.T, h *rig.Host, data string) *rig.Process {
	t.Helper()
	url := "http://" + netip.AddrPortFrom(h.IP, 2379).String()
	p := h.Start("etcd", "--data-dir", data, "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380", "--initial-cluster", "default=http://127.0.0.1:2380",
		"--unsafe-no-fsync")
	rig.Eventually(t, 20*time.Second, func() error {
		if !strings.Contains(strings.Join(p.Errors(), "\n"), "serving insecure client requests") {
			return fmt.Errorf("etcd does not serve yet: %v", p.Errors())
		}
		return nil
	})
	return p
}

// source is how h fares with its only source.
func source(h *rig.Host) (client.Discovery, error) {
	st, err := h.Status()
	if err != nil {
		return client.Discovery{}, err
	}
	if len(st.Discovery) != 1 {
		return client.Discovery{}, fmt.Errorf("%s has sources %v, want one", h.Name, st.Discovery)
	}
	return st.Discovery[0], nil
}

// awaitSource waits until a host's only source fares so.
func awaitSource(t *testing.T, d time.Duration, h *rig.Host, what string, so func(client.Discovery) bool) client.Discovery {
	t.Helper()
	var got client.Discovery
	rig.Eventually(t, d, func() error {
		x, err := source(h)
		if err == nil && !so(x) {
			err = fmt.Errorf("%s: %+v, want %s", h.Name, x, what)
		}
		got = x
		return err
	})
	return got
}

func registered(x client.Discovery) bool { return x.State == "ok" && x.Registered }
func failing(x client.Discovery) bool    { return x.State == "failing" && x.Error != "" && x.Hint != "" }

// meet founds a cluster on the first host and has the others join by the source, all at the same moment.
func meet(t *testing.T, w *rig.World, by string, h ...*rig.Host) {
	t.Helper()
	p := h[0].Launch("--discover", by)
	w.SetToken(p.ExpectLine(`^weft1[a-z2-7]+$`, 20*time.Second)) // it has asked who is there before
	h[0].AwaitUp(15 * time.Second)
	for _, o := range h[1:] {
		o.Setenv("WEFT_TOKEN=" + w.Token())
		o.Launch("--discover", by)
	}
	for _, o := range h[1:] {
		o.AwaitUp(15 * time.Second)
	}
	rig.AllKnowAll(t, 20*time.Second, h...)
}

// lose shows that the loss of a store changes nothing: traffic goes on, and a host that is restarted comes back.
func lose(t *testing.T, store *rig.Process, agents []*agent, h ...*rig.Host) {
	t.Helper()
	store.Kill9()
	for _, o := range h {
		awaitSource(t, 60*time.Second, o, "failing, with a hint", failing)
	}
	converse(t, "239.5.5.5", agents...)
	h[2].Kill9()
	h[2].Restart()
	rig.AllKnowAll(t, 20*time.Second, h...)
	converse(t, "239.5.5.6", agents...)
	if out := h[0].MustWeft("status"); !strings.Contains(out, "discover ") || !strings.Contains(out, "is not reached") || !strings.Contains(out, "fix: ") {
		t.Errorf("weft status does not say that the store is lost, and what to do:\n%s", out)
	}
}

// again shows that hosts register with a store that has returned with nothing in it, by another one that they do not know.
func again(t *testing.T, w *rig.World, by string, late *rig.Host, h ...*rig.Host) {
	t.Helper()
	for _, o := range h {
		awaitSource(t, 60*time.Second, o, "registered again", registered)
	}
	late.Setenv("WEFT_TOKEN=" + w.Token())
	late.Launch("--discover", by)
	late.AwaitUp(15 * time.Second)
	rig.AllKnowAll(t, 20*time.Second, append(h, late)...)
}

// stop is weft down, and the end of the daemon.
func stop(t *testing.T, h *rig.Host) {
	t.Helper()
	h.MustWeft("down")
	if code := h.Daemon().Wait(10 * time.Second); code != 0 {
		t.Errorf("%s ended with code %d when told to stop", h.Name, code)
	}
}

// stored takes a store through what may happen to it.
func stored(t *testing.T, by func(store *rig.Host) string, start func(store *rig.Host, round string) *rig.Process) {
	t.Helper()
	w := rig.New(t)
	u := w.Cloud()
	store, late := u.Host("store"), u.Host("late")
	h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
	rig.MulticastProbe(t, h[0], h[1])
	p := start(store, "first")
	url := by(store)
	meet(t, w, url, h...)
	for _, o := range h {
		if x := awaitSource(t, 60*time.Second, o, "registered, with all three", func(x client.Discovery) bool { return registered(x) && x.Addresses >= 3 }); x.Source != url {
			t.Errorf("the source is %q, want %q", x.Source, url)
		}
	}
	agents := []*agent{startAgent(t, h[0], "a"), startAgent(t, h[1], "b"), startAgent(t, h[2], "c")}
	converse(t, "239.5.5.4", agents...)
	lose(t, p, agents, h...)
	start(store, "second")
	again(t, w, url, late, h...)

	// It goes on without being told again, and out of the store when it is told to stop.
	stop(t, h[1])
	awaitSource(t, 60*time.Second, h[0], "without the host that stopped", func(x client.Discovery) bool { return registered(x) && len(x.Unanswered) == 0 })
	h[1].Launch()
	h[1].AwaitUp(15 * time.Second)
	awaitSource(t, 30*time.Second, h[1], "registered by what it was told once", registered)
	rig.AllKnowAll(t, 20*time.Second, append(h, late)...)
}

func discoverEtcd(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	stored(t, func(s *rig.Host) string { return "etcd://10.77.200.2:2379," + s.IP.String() + "/weft" }, func(s *rig.Host, round string) *rig.Process {
		return etcd(t, s, filepath.Join(data, round))
	})
}

func discoverConsul(t *testing.T) {
	t.Parallel()
	stored(t, func(s *rig.Host) string { return "consul://" + s.IP.String() + ":8500/prod/weft" }, func(s *rig.Host, _ string) *rig.Process {
		return serve(t, s, "consul", netip.AddrPortFrom(s.IP, 8500).String())
	})
}

// discoverDNS: SRV records lead to hosts and ports, and when all hosts behind a name have changed a host that was away finds the new ones.
func discoverDNS(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	dns := u.Host("dns")
	h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
	dns.NameServer(h, "--srv-host=_weft._udp.fleet.example,one.fleet.example,7777", "--srv-host=_weft._udp.fleet.example,two.fleet.example,6783",
		"--address=/one.fleet.example/"+h[0].IP.String(), "--address=/two.fleet.example/"+h[1].IP.String())
	h[0].Up("--port", "7777", "--discover", "dns+srv://fleet.example") // the other one is listed, and not there: no cluster yet
	for _, o := range h[1:] {
		o.Setenv("WEFT_TOKEN=" + w.Token())
		o.Launch("--discover", "dns+srv://_weft._udp.fleet.example")
	}
	for _, o := range h[1:] {
		o.AwaitUp(15 * time.Second)
	}
	rig.AllKnowAll(t, 20*time.Second, h...)
	if x := awaitSource(t, 30*time.Second, h[2], "two addresses", func(x client.Discovery) bool { return x.Addresses == 2 }); !x.ReadOnly || x.Registered || x.State != "ok" {
		t.Errorf("%+v, want a source at which nothing is registered", x)
	}
}

// discoverLAN: hosts of one segment find each other by beacons, by broadcast where multicast is dropped, and a stranger hears nothing of it.
func discoverLAN(t *testing.T) {
	t.Parallel()
	for _, o := range []rig.LANOptions{{}, {DropMulticast: true}} {
		t.Run(fmt.Sprintf("multicast dropped %v", o.DropMulticast), func(t *testing.T) {
			t.Parallel()
			w := rig.New(t)
			u := w.LAN(o)
			h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
			meet(t, w, "lan", h...)
			h[1].Upgrade(h[1].WeftPath(), "--replace") // both daemons have the socket of beacons for a moment
			rig.AllKnowAll(t, 20*time.Second, h...)
			awaitSource(t, 20*time.Second, h[1], "heard and heard of", func(x client.Discovery) bool { return registered(x) && x.Addresses >= 2 })
			stranger := u.Host("stranger")
			stranger.Up() // a cluster of its own
			stop(t, stranger)
			stranger.Launch("--discover", "lan")
			stranger.AwaitUp(15 * time.Second)
			rig.Eventually(t, 30*time.Second, func() error {
				st, err := stranger.Status()
				if err != nil {
					return err
				}
				for _, d := range st.Drops {
					if d.Reason == "discover_lan_stranger" && d.Count >= 5 {
						return nil
					}
				}
				return fmt.Errorf("the stranger counts no beacons of strangers: %v", st.Drops)
			})
			if x := awaitSource(t, 10*time.Second, stranger, "nothing found", func(x client.Discovery) bool { return x.State == "ok" }); x.Addresses != 0 {
				t.Errorf("the stranger found %+v", x)
			}
			if x, err := source(h[0]); err != nil || x.Addresses != 2*len(h[1:]) && x.Addresses != len(h[1:]) {
				t.Errorf("%+v (%v), want the two others only", x, err)
			}
			late := u.Host("late")
			if r := late.Weft("up", "--name", "late", "--discover", "lan"); r.Code != 1 || !strings.Contains(r.Stderr, "other hosts of weft are heard on this segment") {
				t.Errorf("a host without token: %d, %s", r.Code, r.Stderr)
			}
			refused(t, late.Weft("up", "--name", "late", "--discover", "lan", "--detach"), 1, "no cluster is founded", "other hosts of weft are heard on this segment")
		})
	}
}

// discoverExec: a program says who is there; one that does not end is killed, and both are said.
func discoverExec(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h := []*rig.Host{u.Host("h1"), u.Host("h2")}
	program := filepath.Join(t.TempDir(), "hosts")
	write := func(text string) {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h[0].Up()
	write("echo no cloud today >&2; exit 3\n")
	h[1].Setenv("WEFT_TOKEN=" + w.Token())
	h[1].Launch("--discover", "exec:"+program+" --all")
	h[1].AwaitUp(15 * time.Second)
	x := awaitSource(t, 15*time.Second, h[1], "failing", failing)
	if !strings.Contains(x.Error, "exit status 3: no cloud today") {
		t.Errorf("error %q", x.Error)
	}
	st, err := h[1].Status()
	if err != nil || st.State != api.StateJoining || !strings.Contains(st.Reason, "no cloud today") {
		t.Errorf("state %s, %s (%v); want joining, and why not yet", st.State, st.Reason, err)
	}
	write("[ \"$1\" = --all ] && [ -z \"$WEFT_TOKEN$WEFT_STATE_DIR\" ] && echo '# the fleet' && echo " + h[0].IP.String() + "\n")
	rig.AllKnowAll(t, 30*time.Second, h...)
}

// discoverSwarm: Docker on each machine knows the others; it is asked, and nothing more.
func discoverSwarm(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
	manager := pages(t, map[string]string{
		"info":  fmt.Sprintf(`{"Swarm":{"NodeID":"m","NodeAddr":%q,"LocalNodeState":"active","ControlAvailable":true,"RemoteManagers":[{"NodeID":"m","Addr":"%s:2377"}]}}`, h[0].IP, h[0].IP),
		"nodes": fmt.Sprintf(`[{"ID":"m","Status":{"State":"ready","Addr":"0.0.0.0"},"ManagerStatus":{"Leader":true,"Addr":"%s:2377"}},{"ID":"w","Status":{"State":"ready","Addr":%q}}]`, h[0].IP, h[1].IP),
	})
	worker := pages(t, map[string]string{
		"info": fmt.Sprintf(`{"Swarm":{"NodeID":"w","NodeAddr":%q,"LocalNodeState":"active","ControlAvailable":false,"RemoteManagers":[{"NodeID":"m","Addr":"%s:2377"}]}}`, h[1].IP, h[0].IP),
	})
	sockets := make([]string, len(h))
	for i, dir := range []string{manager, worker, worker} {
		sockets[i] = filepath.Join(h[i].RunDir(), "docker.sock")
		serve(t, h[i], dir, sockets[i])
	}
	h[0].Up("--discover", "swarm://"+sockets[0])
	for i, o := range h[1:] {
		o.Setenv("WEFT_TOKEN=" + w.Token())
		o.Launch("--discover", "swarm://"+sockets[i+1])
	}
	for _, o := range h[1:] {
		o.AwaitUp(15 * time.Second)
	}
	rig.AllKnowAll(t, 20*time.Second, h...)
}

// discoverFounding: without a token a host founds no cluster where there is one, nor where it cannot tell; with one it waits for others and says so.
func discoverFounding(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	store := u.Host("store")
	h := []*rig.Host{u.Host("h1"), u.Host("h2"), u.Host("h3")}
	by := "consul://" + store.IP.String() + "/weft"
	if r := u.Host("none").Weft("up", "--discover", by, "--name", "none"); r.Code != 1 || !strings.Contains(r.Stderr, "cannot tell whether there is a cluster already") || strings.Contains(r.Stdout, "weft1") {
		t.Errorf("no store: %d, %s", r.Code, r.Stderr)
	}
	serve(t, store, "consul", netip.AddrPortFrom(store.IP, 8500).String())
	h[0].Up("--discover", by)
	awaitSource(t, 10*time.Second, h[0], "registered", registered)
	if r := h[1].Weft("up", "--name", "h2", "--discover", by); r.Code != 1 || !strings.Contains(r.Stderr, "has a host already") || !strings.Contains(r.Stderr, "token") || strings.Contains(r.Stdout, "weft1") {
		t.Errorf("a store with a host: %d, %s", r.Code, r.Stderr)
	}
	stop(t, h[0])
	for _, o := range h[1:] { // both have the token, nobody else is there: they meet when one of them is known to the store
		o.Setenv("WEFT_TOKEN=" + w.Token())
		o.Launch("--discover", by)
	}
	h[1].AwaitUp(15 * time.Second)
	rig.Eventually(t, 20*time.Second, func() error {
		st, err := h[1].Status()
		if err == nil && !(st.HostsAlive == 2 || st.State == api.StateJoining && strings.Contains(st.Reason, by)) {
			err = fmt.Errorf("state %s, %s, %d hosts; want that it waits, or has met the other", st.State, st.Reason, st.HostsAlive)
		}
		return err
	})
	h[0].Launch()
	h[0].AwaitUp(15 * time.Second)
	rig.AllKnowAll(t, 30*time.Second, h...)

	// Two clusters in one place, founded at the same moment or by hand: both are told.
	other := u.Host("other")
	other.Up()
	stop(t, other)
	other.Launch("--discover", by)
	other.AwaitUp(15 * time.Second)
	for _, o := range []*rig.Host{h[0], other} {
		rig.Eventually(t, 60*time.Second, func() error {
			if out := o.MustWeft("status"); !strings.Contains(out, "no host of this cluster answers there") || !strings.Contains(out, "of another cluster") {
				return fmt.Errorf("%s does not tell of the other cluster:\n%s", o.Name, out)
			}
			return nil
		})
	}
}

// discoverGarbage: what is no answer of a store's is one sentence in status, and nothing breaks.
func discoverGarbage(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	store, h1, h2 := u.Host("store"), u.Host("h1"), u.Host("h2")
	all := pages(t, map[string]string{"all": "<html>\x1b[2J Router login\n" + strings.Repeat("x", 300), "v1-kv-weft": `[{"Key":"weft/1","Value":"//8=","Session":"a"},{"Key":"weft/2","Value":"MjI0LjAuMC4x","Session":"b"}]`})
	at := store.IP.String()
	serve(t, store, all, at+":80")
	program := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nhead -c 100000 /dev/urandom\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(h2.RunDir(), "docker.sock")
	serve(t, h2, all, socket)
	h1.Up()
	sources := []string{"etcd://" + at + ":80/weft", "consul://" + at + ":80/x", "consul://" + at + ":80/weft", "exec:" + program, "swarm://" + socket, "dns+srv://_weft._udp.example.org"}
	args := []string{h1.Endpoint()}
	for _, s := range sources {
		args = append(args, "--discover", s)
	}
	h2.Up(args...)
	rig.AllKnowAll(t, 20*time.Second, h1, h2)
	rig.Eventually(t, 30*time.Second, func() error {
		st, err := h2.Status()
		if err == nil && len(st.Discovery) != len(sources) {
			err = fmt.Errorf("sources %v", st.Discovery)
		}
		if err != nil {
			return err
		}
		for i, x := range st.Discovery {
			if x.Source != sources[i] || !failing(x) || len(x.Error) > 400 || strings.ContainsAny(x.Error, "\n\x1b") {
				return fmt.Errorf("%+v, want one clear sentence", x)
			}
		}
		return nil
	})
	for line := range strings.SplitSeq(h2.MustWeft("status"), "\n") {
		if strings.ContainsRune(line, 0x1b) {
			t.Errorf("a terminal would obey %q", line)
		}
	}
	rig.AllKnowAll(t, 20*time.Second, h1, h2)
}
