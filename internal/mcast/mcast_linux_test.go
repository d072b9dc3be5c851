package mcast

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests run in a network namespace of their own, which goes with the process: a pair of
// interfaces, so that multicast leaves one and arrives at the other.
const inNamespace = "WEFT_MCAST_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		// A fuzzer's workers are children and find the interfaces there.
		if _, err := net.InterfaceByName("mca"); err != nil {
			if err := plumb(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	// In place, so that the fuzzer's files stay open.
	runtime.LockOSThread()
	err := syscall.Unshare(syscall.CLONE_NEWNET)
	if err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inNamespace+"=1"))
	}
	fmt.Fprintln(os.Stderr, "these tests make a network namespace and need root:", err)
	os.Exit(1)
}

func plumb() error {
	for _, line := range []string{
		"link set lo up",
		"link add mca type veth peer name mcb",
		"addr add 10.99.0.1/24 dev mca",
		"addr add fd99::1/64 dev mca nodad",
		"link set mcb up",
		"link set mca up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	// The kernel adds the link-local address and the multicast route when the carrier is there and
	// nobody has objected to the address: up to two seconds, with no event that tells of both.
	group := netip.MustParseAddr("ff02::1")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for range 250 {
		if err = try(group); err == nil {
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("mca is not usable for IPv6: %w", err)
}

func try(group netip.Addr) error {
	ifi, err := net.InterfaceByName("mca")
	if err != nil {
		return err
	}
	from, err := address(*ifi, group)
	if err != nil {
		return err
	}
	if !from.IsLinkLocalUnicast() {
		return fmt.Errorf("no link-local address but %s", from)
	}
	s, err := NewSender(context.Background(), Target{Group: group, Port: 9}, "mca", 1)
	if err != nil {
		return err
	}
	return errors.Join(s.Send(nil), s.Close())
}

func target(t *testing.T, s string) Target {
	t.Helper()
	v, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func listen(t *testing.T, s, iface string) *Receiver {
	t.Helper()
	r, err := Listen(t.Context(), target(t, s), iface)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func sender(t *testing.T, s, iface string) *Sender {
	t.Helper()
	v, err := NewSender(t.Context(), target(t, s), iface, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

const within = 3 * time.Second // no test waits for it unless something is lost

func TestSendAndReceive(t *testing.T) {
	for name, test := range map[string]struct{ target, iface string }{
		"ipv4":                   {"239.9.9.1:5001", "mca"},
		"ipv4 local group":       {"224.0.0.199:5002", "mca"},
		"ipv4, interface chosen": {"239.9.9.2:5003", ""},
		"ipv6":                   {"[ff15::9]:5004", "mca"},
		"ipv6 link-local":        {"[ff02::99]:5005", "mca"},
		"ipv6, interface chosen": {"[ff15::a]:5006", ""},
		"loopback":               {"239.9.9.3:5007", "lo"},
	} {
		t.Run(name, func(t *testing.T) {
			r, other := listen(t, test.target, test.iface), listen(t, test.target, test.iface)
			in := strings.NewReader("one\n\ntwo \x1b\r\nlast")
			if err := SendLines(t.Context(), in, sender(t, test.target, test.iface)); err != nil {
				t.Fatal(err)
			}
			for _, r := range []*Receiver{r, other} {
				var out bytes.Buffer
				if err := Recv(t.Context(), r, &out, RecvOptions{Count: 4, Timeout: within}); err != nil {
					t.Fatal(err)
				}
				if got := out.String(); got != "one\n\ntwo \x1b\r\nlast\n" {
					t.Errorf("received %q", got)
				}
			}
		})
	}
}

// The largest datagram passes whole; one byte more is refused by name.
func TestLargestDatagram(t *testing.T) {
	const group = "239.9.9.4:5010"
	r, s := listen(t, group, "lo"), sender(t, group, "lo")
	line := strings.Repeat("x", MaxDatagram)
	if err := SendLines(t.Context(), strings.NewReader(line+"\n"), s); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Recv(t.Context(), r, &out, RecvOptions{Count: 1, Timeout: within}); err != nil {
		t.Fatal(err)
	}
	if out.String() != line+"\n" {
		t.Errorf("received %d bytes", out.Len())
	}
	for _, extra := range []string{"x", strings.Repeat("x", 200000)} {
		if err := SendLines(t.Context(), strings.NewReader(line+extra+"\n"), s); err == nil || !strings.Contains(err.Error(), "65507") {
			t.Errorf("too long: %v", err)
		}
	}
}

// The port is shared by several groups, sources and unicast: only what was asked for is shown.
func TestOnlyWhatWasAskedFor(t *testing.T) {
	r := listen(t, "239.9.9.5:5020", "mca")
	ssm := listen(t, "232.9.9.5,10.99.0.1:5020", "mca")
	wrong := listen(t, "232.9.9.5,10.99.0.77:5020", "mca")
	listen(t, "239.9.9.6:5020", "mca")
	listen(t, "239.9.9.5:5020", "lo")
	for _, to := range []struct{ target, iface string }{{"239.9.9.6:5020", "mca"}, {"239.9.9.5:5020", "lo"}, {"232.9.9.5:5020", "mca"}, {"239.9.9.5:5020", "mca"}} {
		if err := sender(t, to.target, to.iface).Send([]byte(to.target + " " + to.iface)); err != nil {
			t.Fatal(err)
		}
	}
	unicast := sender(t, "239.9.9.5:5020", "mca")
	unicast.to.IP = netip.MustParseAddr("10.99.0.1").AsSlice()
	if err := unicast.Send([]byte("unicast")); err != nil {
		t.Fatal(err)
	}
	if err := sender(t, "239.9.9.5:5020", "mca").Send([]byte("end")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Recv(t.Context(), r, &out, RecvOptions{Count: 2, Timeout: within}); err != nil {
		t.Error(err)
	}
	if got := out.String(); got != "239.9.9.5:5020 mca\nend\n" {
		t.Errorf("received %q", got)
	}
	out.Reset()
	if err := Recv(t.Context(), ssm, &out, RecvOptions{Count: 1, Timeout: within}); err != nil || out.String() != "232.9.9.5:5020 mca\n" {
		t.Errorf("source 10.99.0.1: %q, %v", out.String(), err)
	}
	out.Reset()
	err := Recv(t.Context(), wrong, &out, RecvOptions{Count: 1, Timeout: 100 * time.Millisecond})
	if !errors.Is(err, ErrTimeout) || out.Len() > 0 {
		t.Errorf("source 10.99.0.77: %q, %v", out.String(), err)
	}
}

func TestRecvEnds(t *testing.T) {
	r := listen(t, "239.9.9.7:5030", "mca")
	if err := Recv(t.Context(), r, io.Discard, RecvOptions{Timeout: 50 * time.Millisecond}); err != nil {
		t.Errorf("time-out without a count: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r = listen(t, "239.9.9.7:5030", "mca")
	if err := Recv(ctx, r, io.Discard, RecvOptions{Count: 1, Timeout: time.Hour}); err != nil {
		t.Errorf("ended context: %v", err)
	}
}

func TestNoSuchInterface(t *testing.T) {
	for _, iface := range []string{"nope", "../x"} {
		if _, err := Listen(t.Context(), target(t, "239.9.9.8:5040"), iface); err == nil || !strings.Contains(err.Error(), iface) {
			t.Errorf("listen on %s: %v", iface, err)
		}
	}
	if _, err := NewSender(t.Context(), target(t, "239.9.9.8:5040"), "mcb", 1); err == nil || !strings.Contains(err.Error(), "mcb has no IPv4 address") {
		t.Errorf("send on mcb: %v", err)
	}
	if _, err := NewSender(t.Context(), target(t, "232.9.9.8,10.99.0.1:5040"), "mca", 1); err == nil {
		t.Error("a sender took a source")
	}
}

// chatter is a chat whose lines can be typed and whose screen can be read.
type chatter struct {
	typed  *io.PipeWriter
	screen *bufio.Reader
	ended  chan error
	stop   context.CancelFunc
}

func chat(t *testing.T, group, iface string) *chatter {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	c := &chatter{typed: inW, screen: bufio.NewReader(outR), ended: make(chan error, 1), stop: cancel}
	r, s := listen(t, group, iface), sender(t, group, iface)
	go func() { c.ended <- Chat(ctx, r, s, ChatOptions{In: inR, Out: outW}) }()
	t.Cleanup(func() { cancel(); _ = inW.Close(); _ = outR.Close() })
	return c
}

func (c *chatter) say(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c.typed, s); err != nil {
		t.Fatal(err)
	}
}

func (c *chatter) hears(t *testing.T, want string) {
	t.Helper()
	got, err := c.screen.ReadString('\n')
	if err != nil || got != want {
		t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

// Two chats of one host, and of one address: each shows the other and never itself, and empty
// lines never travel.
func TestChat(t *testing.T) {
	for name, group := range map[string]string{"ipv4": "239.9.9.10:5050", "ipv6": "[ff15::b]:5051"} {
		t.Run(name, func(t *testing.T) {
			from := "10.99.0.1: "
			if name == "ipv6" {
				from = "fd99::1: "
			}
			anna, ben := chat(t, group, "mca"), chat(t, group, "mca")
			anna.say(t, "hello\n\n\r\nI am \x1b[31mred\n")
			ben.hears(t, from+"hello\n")
			ben.hears(t, from+`I am \x1b[31mred`+"\n")
			// Anna's input ends; she still listens.
			_ = anna.typed.Close()
			ben.say(t, "bye\n")
			anna.hears(t, from+"bye\n")
			// Programs that send a newline, too, and empty datagrams.
			s := sender(t, group, "mca")
			for _, d := range []string{"", "\n", "from nc\n"} {
				if err := s.Send([]byte(d)); err != nil {
					t.Fatal(err)
				}
			}
			anna.hears(t, from+"from nc\n")
			ben.hears(t, from+"from nc\n")
			for _, c := range []*chatter{anna, ben} {
				c.stop()
				if err := <-c.ended; err != nil {
					t.Errorf("ended with %v", err)
				}
			}
		})
	}
}

func TestChatEndsWhenSendingFails(t *testing.T) {
	c := chat(t, "239.9.9.11:5060", "mca")
	go func() { _, _ = io.WriteString(c.typed, strings.Repeat("x", MaxDatagram+9)+"\n") }()
	if err := <-c.ended; err == nil || !strings.Contains(err.Error(), "longer than a datagram") {
		t.Errorf("ended with %v", err)
	}
}
