package rig

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestCloudCarriesUnicastOnly(t *testing.T) {
	t.Parallel()
	w := New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	for _, to := range []netip.Addr{h2.IP, h2.IP6} {
		if n := Reached(t, h1, h2, to, 3, 100); n != 3 {
			t.Errorf("%d of 3 datagrams from h1 to %s answered", n, to)
		}
	}
	MulticastProbe(t, h1, h2)
	if u.Multicast() == 0 {
		t.Error("the cloud counted no multicast: the probe never reached it")
	}
	if out := h1.MustExec("getent", "hosts", "h2"); !strings.Contains(out, h2.IP.String()) && !strings.Contains(out, h2.IP6.String()) {
		t.Errorf("h1 resolves h2 to %q", out)
	}
}

func TestLANCarriesMulticastUnlessDropped(t *testing.T) {
	t.Parallel()
	group := netip.MustParseAddrPort("239.255.77.77:7777")
	w := New(t)
	u := w.LAN(LANOptions{})
	h1, h2 := u.Host("h1"), u.Host("h2")
	if !Heard(t, h1, h2, group) || !Heard(t, h1, h2, netip.MustParseAddrPort("[ff15::7777]:7777")) {
		t.Error("multicast does not cross a LAN that drops nothing: the probe proves nothing")
	}
	drop := w.lan("dry", "10.79.0", "fd79:", LANOptions{DropMulticast: true})
	d1, d2 := drop.Host("d1"), drop.Host("d2")
	if Reached(t, d1, d2, d2.IP, 3, 100) != 3 || Reached(t, d1, d2, d2.IP6, 3, 100) != 3 {
		t.Error("a LAN that drops multicast does not carry unicast")
	}
	MulticastProbe(t, d1, d2)
}

func TestNATLetsNothingIn(t *testing.T) {
	t.Parallel()
	w := New(t)
	u := w.Cloud()
	out := u.Host("h1")
	nat := u.NAT("n1", NATOptions{})
	in := nat.Host("h2")
	if n := Reached(t, in, out, out.IP, 3, 100); n != 3 {
		t.Errorf("%d of 3 datagrams answered from behind the NAT", n)
	}
	if n := Reached(t, out, in, nat.IP, 1, 100); n != 0 {
		t.Error("the NAT answers strangers")
	}
	first := sourcePort(t, in, out)
	nat.RebindNAT()
	if n := Reached(t, in, out, out.IP, 3, 100); n != 3 {
		t.Errorf("%d of 3 datagrams answered after the NAT was rebound", n)
	}
	if second := sourcePort(t, in, out); first == second || first < 20000 || second < 25000 {
		t.Errorf("outside ports %d, then %d: not rebound", first, second)
	}
}

// sourcePort is the port that one host, sending from 6783, seems to have to another.
func sourcePort(t *testing.T, from, at *Host) int {
	t.Helper()
	py := `import socket
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(("",9000)); s.settimeout(5); print("ready",flush=True); print("port",s.recvfrom(99)[1][1],flush=True)`
	p := at.Start("/usr/bin/python3", "-c", py)
	p.ExpectLine("ready", 5*time.Second)
	from.MustExec("/usr/bin/python3", "-c", fmt.Sprintf(`import socket
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(("",6783)); s.sendto(b"x",(%q,9000))`, at.IP))
	var port int
	if _, err := fmt.Sscanf(p.ExpectLine("^port ", 5*time.Second), "port %d", &port); err != nil {
		t.Fatal(err)
	}
	return port
}

func TestFaultsComeAndGo(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"cloud", "lan"} {
		t.Run(kind, func(t *testing.T) {
			w := New(t)
			var u *Underlay
			if kind == "cloud" {
				u = w.Cloud()
			} else {
				u = w.LAN(LANOptions{})
			}
			h1, h2, h3 := u.Host("h1"), u.Host("h2"), u.Host("h3")
			check := func(what string, from, to *Host, want bool) {
				t.Helper()
				if got := Reached(t, from, to, to.IP, 1, 100) == 1; got != want {
					t.Errorf("%s: %s reaches %s: %v, want %v", what, from.Name, to.Name, got, want)
				}
			}
			check("at first", h1, h2, true)
			u.Block(h1, h2)
			check("blocked", h1, h2, false)
			check("blocked", h1, h3, true)
			u.Unblock(h2, h1)
			check("unblocked", h1, h2, true)

			heal := u.Partition([]*Host{h1, h2}, []*Host{h3})
			check("partitioned", h1, h2, true)
			check("partitioned", h1, h3, false)
			heal()
			check("healed", h1, h3, true)

			replug := u.Cut(h3)
			check("cut", h1, h3, false)
			replug()
			check("plugged", h1, h3, true)

			stop := u.Loss(50)
			if n := Reached(t, h1, h2, h2.IP, 200, 100); n < 10 || n > 100 { // two packets each: 25 % are answered
				t.Errorf("half of all packets lost: %d of 200 datagrams answered", n)
			}
			stop()
			u.Pair(h1, h2)
			if n := Reached(t, h1, h2, h2.IP, 50, 100); n != 50 {
				t.Errorf("%d of 50 datagrams answered after the loss ended", n)
			}
			if n := u.Pair(h1, h2); n != 50 {
				t.Errorf("the underlay counted %d packets from h1 to h2, want 50", n)
			}

			hole := u.BlackHole(1000)
			if Reached(t, h1, h2, h2.IP, 1, 1200) != 0 {
				t.Error("a long packet crossed the black hole")
			}
			check("black hole", h1, h2, true)
			hole()

			u.Capture(h2).mustSee(t, func() {
				stop := u.Dup(100)
				Reached(t, h1, h2, h2.IP, 5, 100)
				stop()
			})
		})
	}
}

// mustSee checks that a capture at h2 saw requests of five datagrams twice.
func (c *Capture) mustSee(t *testing.T, act func()) {
	t.Helper()
	act()
	Eventually(t, 2*time.Second, func() error {
		if n := c.Count("udp dst port 7"); n < 6 {
			return fmt.Errorf("%d requests of 5 datagrams, all duplicated", n)
		}
		return nil
	})
	c.Stop()
}

func TestCorruptedDatagramsArrive(t *testing.T) {
	t.Parallel()
	w := New(t)
	u := w.LAN(LANOptions{})
	h1, h2 := u.Host("h1"), u.Host("h2")
	u.Corrupt(100)
	group := netip.MustParseAddrPort("239.255.77.77:7777")
	hearer := h2.rigProgram("hear", group.String(), "eth0")
	hearer.ExpectLine("^ready$", 5*time.Second)
	h1.w.batch(h1.NS, "route replace 224.0.0.0/4 dev eth0\n")
	h1.rigProgram("say", group.String(), "0123456789abcdefghij0123", "1").Wait(5 * time.Second)
	if line := hearer.ExpectLine("^got", 2*time.Second); line == "got 0123456789abcdefghij0123" || !strings.Contains(line, "A") {
		t.Errorf("%q was not changed", line)
	}
}

func TestCaptureFindsPayload(t *testing.T) {
	t.Parallel()
	w := New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	c := u.Capture(h2)
	Reached(t, h1, h2, h2.IP, 1, 100)
	Eventually(t, 2*time.Second, func() error {
		if n := c.Count("udp"); n != 2 {
			return fmt.Errorf("%d packets, want a question and an answer", n)
		}
		return nil
	})
	if c.Stop(); !c.Grep("weft rig asks") || c.Grep("never sent") {
		t.Error("the capture does not hold what was sent")
	}
	if left := h1.Leftovers(); left != "" {
		t.Errorf("a host without weft has leftovers:\n%s", left)
	}
	h1.MustExec("ip", "link", "add", "wb1", "type", "bridge")
	if left := h1.Leftovers(); !strings.Contains(left, "wb1") {
		t.Errorf("leftovers %q do not name wb1", left)
	}
}

func TestProcessLines(t *testing.T) {
	t.Parallel()
	w := New(t)
	h := w.Cloud().Host("h1")
	p := h.Start("sh", "-c", `while read -r l; do echo "got $l"; done; echo end; exit 3`)
	p.Send("one")
	p.ExpectLine("^got one$", 5*time.Second)
	if _, err := p.AwaitLine("^got one$", 100*time.Millisecond); err == nil {
		t.Error("one line was expected twice")
	}
	p.CloseStdin()
	p.ExpectLine("^end$", 5*time.Second)
	if code := p.Wait(5 * time.Second); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if r := h.Exec("sh", "-c", "echo out; echo err >&2; exit 4"); r != (Result{"out\n", "err\n", 4}) {
		t.Errorf("%+v", r)
	}
}

// TestSweeperOutlivesTheTest: a test process that dies, whatever of, leaves nothing.
func TestSweeperOutlivesTheTest(t *testing.T) {
	t.Parallel()
	sweptAfter(t, func(w *World) []int {
		h := w.Cloud().Host("h1")
		p := h.Start("unshare", "-n", "sh", "-c", "echo away; exec sleep 1000") // as weft run: in none of our namespaces
		p.ExpectLine("^away$", 5*time.Second)
		return []int{p.PID()}
	})
}

// TestSweeperEndsDocker: the same for an engine of Docker's, whose parts and containers are not children of the test's, or of each other.
func TestSweeperEndsDocker(t *testing.T) {
	t.Parallel()
	sweptAfter(t, func(w *World) []int {
		d := w.Cloud().Host("h1").Docker()
		d.Must("run", "-d", "--name", "c1", DockerImage, "sleep", "1000")
		d.Must("run", "-d", "--name", "c2", "--network", "none", DockerImage, "sleep", "1000")
		d.Kill9()
		d.Begin()
		pids, err := d.processes()
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) < 7 {
			t.Fatalf("%d processes, want two containers, a shim for each, dockerd, containerd, and who holds their place", len(pids))
		}
		return pids
	})
}

// sweptAfter has a child run act, which returns processes, and die by SIGKILL; then all that it made must go.
func sweptAfter(t *testing.T, act func(*World) []int) {
	t.Helper()
	const child = "WEFT_RIG_CHILD"
	if os.Getenv(child) != "" {
		w := New(t)
		pids := act(w)
		fmt.Println("made", w.Prefix(), w.Dir(), fmt.Sprint(pids))
		_ = signalSelf()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1", "WEFT_BIN="+Binary(t))
	out, err := cmd.Output()
	if err == nil {
		t.Fatal("the child survived SIGKILL")
	}
	var prefix, dir string
	var pids []int
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(line))
		if len(f) < 4 || f[0] != "made" {
			continue
		}
		prefix, dir = f[1], f[2]
		for _, text := range f[3:] {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			pids = append(pids, pid)
		}
	}
	if prefix == "" {
		t.Fatalf("the child made nothing: %q", out)
	}
	Eventually(t, 10*time.Second, func() error {
		left := leftovers(prefix, dir)
		for _, pid := range pids {
			if alive(pid) {
				left = append(left, fmt.Sprint("process ", pid))
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

// TestStormReachesAndTCPTells: the storm is sent as counted, holds replays of what was recorded, and the TCP program
// tells an answer from silence.
func TestStormReachesAndTCPTells(t *testing.T) {
	t.Parallel()
	w := New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	c := u.Capture(h2)
	Reached(t, h1, h2, h2.IP, 10, 100)
	Eventually(t, 2*time.Second, func() error {
		if n := len(c.Datagrams(100)); n != 20 {
			return fmt.Errorf("%d datagrams recorded, want 10 questions and 10 answers", n)
		}
		return nil
	})
	recorded := c.Datagrams(5)
	if len(recorded) != 5 || !strings.Contains(string(recorded[0]), "weft rig asks") {
		t.Fatalf("recorded %q", recorded)
	}
	Storm(t, h1, h2.IP.String()+":9999", 2000, 1, recorded)
	Eventually(t, 2*time.Second, func() error {
		if n := c.Count("udp and dst port 9999"); n < 1900 { // a capture may lose some
			return fmt.Errorf("%d datagrams of a storm of 2000 seen", n)
		}
		return nil
	})
	echo := h2.Start("/usr/bin/python3", "-c", `import socket
s=socket.create_server(("",9998)); print("ready",flush=True)
while True:
    c,_=s.accept(); c.send(c.recv(99)); c.close()`)
	echo.ExpectLine("ready", 5*time.Second)
	if n, ok := DialAndSend(t, h1, h2.IP.String()+":9998", []byte("12345")); n != 5 || !ok {
		t.Errorf("%d bytes came back, accepted %v; want 5", n, ok)
	}
	if n, ok := DialAndSend(t, h1, h2.IP.String()+":9997", nil); n != 0 || ok {
		t.Errorf("nobody listens, yet %d bytes came back, accepted %v", n, ok)
	}
}
