package vnet_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/tap"
	"github.com/weft-net/weft/internal/vnet"
)

// world is a host in a network namespace without a name: nothing is left behind when a test dies.
type world struct {
	t     *testing.T
	host  netns.Namespace
	store memory
	v     *vnet.VNet
	stop  func()

	mu      sync.Mutex
	members map[uint32][]vnet.Membership
	changed chan struct{} // closed and replaced at each publication
	gone    []string
	frames  [][]byte // read from the uplink of spec
	dev     tap.Device
}

func newNS(t *testing.T) netns.Namespace {
	t.Helper()
	ns, err := netns.OS().New()
	if err != nil {
		t.Fatalf("these tests need root, to make network namespaces: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// newWorld starts a host with the network spec.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, host: newNS(t)}
	w.start()
	w.ensure()
	return w
}

// start begins a daemon's life: New, Reconcile, Run.
func (w *world) start() vnet.Report {
	w.t.Helper()
	w.members, w.changed = map[uint32][]vnet.Membership{}, make(chan struct{})
	v, err := vnet.New(vnet.Config{
		Host: w.host, NL: nl.OS(), Netns: netns.OS(), Store: &w.store,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		OnMembers: func(vni uint32, m []vnet.Membership) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.members[vni] = m
			close(w.changed)
			w.changed = make(chan struct{})
		},
		OnGone: func(a vnet.Attachment, reason string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.gone = append(w.gone, a.Name+": "+reason)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	report, err := v.Reconcile(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	w.v = v
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		if err := v.Down(); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
	return report
}

func (w *world) ensure() {
	w.t.Helper()
	dev, err := w.v.Ensure(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.dev, w.frames = dev, nil
	w.mu.Unlock()
	go func() {
		space, frames := make([]byte, 2*gso.MaxFrame), make([][]byte, 16)
		for {
			n, err := dev.Read(space, frames)
			if err != nil {
				return
			}
			w.mu.Lock()
			for i := range n {
				w.frames = append(w.frames, slices.Clone(frames[i][gso.HeaderLen:]))
			}
			w.mu.Unlock()
		}
	}()
}

// eventually polls a condition; it fails the test when the deadline passes.
func eventually(t *testing.T, within time.Duration, what string, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	deadline := time.After(within)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return time.Since(began)
		}
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v: %v", what, within, err)
		case <-tick.C:
		}
	}
}

// attach makes an attachment number n in a namespace of its own.
func (w *world) attach(name string, n byte) netns.Namespace {
	w.t.Helper()
	ns := newNS(w.t)
	if _, err := w.v.Attach(w.t.Context(), attachSpec(name, n, ns)); err != nil {
		w.t.Fatal(err)
	}
	return ns
}

func attachSpec(name string, n byte, ns netns.Namespace) vnet.AttachSpec {
	return vnet.AttachSpec{
		Network: spec.Name, Name: name, Kind: vnet.KindNetns, Netns: fmt.Sprintf("/proc/self/fd/%d", ns.FD()), MAC: mac(n),
		IPs:            []netip.Prefix{netip.PrefixFrom(ip4(n), 20), netip.PrefixFrom(ip6(n), 64)},
		MulticastRoute: true,
	}
}

// memberships returns what was published of spec as text: "name group any" or "name group S,S".
func (w *world) memberships() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, m := range w.members[spec.VNI] {
		var s strings.Builder
		s.WriteString(m.Attachment + " " + m.Group.String())
		if m.Exclude {
			s.WriteString(" any")
			if len(m.Sources) > 0 {
				s.WriteString(" but")
			}
		}
		for _, src := range m.Sources {
			s.WriteString(" " + src.String())
		}
		list = append(list, s.String())
	}
	return list
}

func (w *world) awaitMembers(within time.Duration, want ...string) time.Duration {
	w.t.Helper()
	return eventually(w.t, within, "memberships "+strings.Join(want, ", "), func() error {
		got := w.memberships()
		if !slices.Equal(got, want) {
			return fmt.Errorf("have %q", got)
		}
		return nil
	})
}

// count counts frames seen at the uplink that f accepts.
func (w *world) count(f func(frame []byte) bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, b := range w.frames {
		if len(b) >= 14 && f(b) {
			n++
		}
	}
	return n
}

// payload counts frames with this text in them.
func (w *world) payload(text string) int {
	return w.count(func(b []byte) bool { return strings.Contains(string(b), text) })
}

// socket opens a UDP socket in a namespace.
func socket(t *testing.T, ns netns.Namespace, network, addr string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := ns.Do(func() error {
		a, err := net.ResolveUDPAddr(network, addr)
		if err == nil {
			c, err = net.ListenUDP(network, a)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func send(t *testing.T, c *net.UDPConn, to, text string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort(to)); err != nil {
		t.Fatalf("send to %s: %v", to, err)
	}
}

// control runs f with the descriptor of a socket.
func control(t *testing.T, c *net.UDPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
		t.Fatal(errors.Join(err, inner))
	}
}

// join4 joins as most programs do: no interface named.
func join4(t *testing.T, c *net.UDPConn, group string) {
	t.Helper()
	control(t, c, func(fd int) error {
		return unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: netip.MustParseAddr(group).As4()})
	})
}

func join6(t *testing.T, c *net.UDPConn, group string) {
	t.Helper()
	control(t, c, func(fd int) error {
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: netip.MustParseAddr(group).As16()})
	})
}

// source4 joins or leaves (S,G): struct ip_mreq_source {multiaddr, interface, sourceaddr}.
func source4(t *testing.T, c *net.UDPConn, option int, group, source string) {
	t.Helper()
	g, s := netip.MustParseAddr(group).As4(), netip.MustParseAddr(source).As4()
	req := append(append(append([]byte{}, g[:]...), 0, 0, 0, 0), s[:]...)
	control(t, c, func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_IP, option, string(req)) })
}

// inside runs a command in a namespace and returns what it prints.
func inside(t *testing.T, ns netns.Namespace, argv ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() error {
		var err error
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// received waits for a text at a socket.
func received(t *testing.T, c *net.UDPConn, want string, within time.Duration) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("waiting for %q: %v", want, err)
		}
		if string(b[:n]) == want {
			return
		}
	}
}

// source6 joins or leaves (S,G): struct group_source_req {interface, group, source} (RFC 3678 section 5.1).
func source6(t *testing.T, c *net.UDPConn, option int, group, source string) {
	t.Helper()
	const storage = 128 // sizeof(struct sockaddr_storage)
	req := make([]byte, 8+2*storage)
	for i, a := range []string{group, source} {
		sa := req[8+i*storage:]
		binary.NativeEndian.PutUint16(sa, unix.AF_INET6)
		copy(sa[8:], netip.MustParseAddr(a).AsSlice())
	}
	control(t, c, func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, option, string(req)) })
}

// selective waits until the bridge selects by membership in both families: a frame of a
// group that nobody wants does not come out of the uplink, one sent after it for all hosts does.
func (w *world) selective(from netns.Namespace) {
	w.t.Helper()
	c4, c6 := socket(w.t, from, "udp4", "0.0.0.0:0"), socket(w.t, from, "udp6", "[::]:0")
	round := 0
	took := eventually(w.t, 5*time.Second, "bridge selects", func() error {
		round++
		u4, u6, end := fmt.Sprintf("unwanted4-%d.", round), fmt.Sprintf("unwanted6-%d.", round), fmt.Sprintf("end-%d.", round)
		send(w.t, c4, "239.9.9.9:9", u4)
		send(w.t, c6, "[ff15::9999]:9", u6)
		send(w.t, c4, "224.0.0.251:9", end)
		eventually(w.t, time.Second, "224.0.0.251 at the uplink", func() error {
			if w.payload(end) == 0 {
				return errors.New("nothing")
			}
			return nil
		})
		if w.payload(u4)+w.payload(u6) > 0 {
			return errors.New("still floods")
		}
		return nil
	})
	w.t.Logf("selective after %v", took)
}

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "vnet tests make bridges and network namespaces: run them as root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}
