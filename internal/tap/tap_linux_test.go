package tap

import (
	"bytes"
	"errors"
	"net"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/gso"
	"github.com/weft-net/weft/internal/netns"
)

// open makes a TAP that is up, in a network namespace of its own.
func open(t testing.TB) (netns.Namespace, Device) {
	t.Helper()
	ns, err := netns.OS().New()
	if err != nil {
		t.Fatalf("this test needs root, to make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	var d Device
	if err := ns.Do(func() error {
		var err error
		if d, err = Open("wu000001"); err != nil {
			return err
		}
		for _, argv := range [][]string{
			{"sysctl", "-qw", "net.ipv6.conf.wu000001.disable_ipv6=1"},
			{"ip", "link", "set", "wu000001", "up", "arp", "off"},
			{"ip", "addr", "add", "10.0.0.1/24", "dev", "wu000001"},
		} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				return errors.Join(err, errors.New(string(out)))
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return ns, d
}

func buffers(n int) ([]byte, [][]byte) { return make([]byte, 2*gso.MaxFrame), make([][]byte, n) }

// sender opens a packet socket, which puts frames on the wire as they are given.
func sender(t testing.TB, ns netns.Namespace) func(frame []byte) {
	t.Helper()
	var fd int
	to := &unix.SockaddrLinklayer{}
	if err := ns.Do(func() error {
		i, err := net.InterfaceByName("wu000001")
		if err != nil {
			return err
		}
		to.Ifindex = i.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func(frame []byte) {
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			t.Fatal(err)
		}
	}
}

// headed puts a virtio-net header that says nothing before a frame.
func headed(frame []byte) []byte { return append(make([]byte, gso.HeaderLen), frame...) }

func frame(n byte) []byte {
	return append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, bytes.Repeat([]byte{n}, 50)...)
}

func TestReadBatch(t *testing.T) {
	ns, d := open(t)
	send := sender(t, ns)
	for i := range byte(5) {
		send(frame(i))
	}
	space, frames := buffers(3)
	var got [][]byte
	for len(got) < 5 {
		n, err := d.Read(space, frames)
		if err != nil || n == 0 {
			t.Fatalf("read: %d, %v", n, err)
		}
		if len(got) == 0 && n != 3 {
			t.Errorf("first batch of %d frames, want 3", n)
		}
		for i := range n {
			got = append(got, bytes.Clone(frames[i][gso.HeaderLen:]))
		}
	}
	for i, b := range got {
		if !bytes.Equal(b, frame(byte(i))) {
			t.Errorf("frame %d: % x", i, b)
		}
	}
	if n, err := d.Read(space[1+gso.MaxFrame:], frames); n != 0 || err == nil {
		t.Errorf("too little space: %d, %v", n, err)
	}
}

func TestWrite(t *testing.T) {
	ns, d := open(t)
	var fd int
	if err := ns.Do(func() error {
		i, err := net.InterfaceByName("wu000001")
		if err != nil {
			return err
		}
		const all = 0x0300 // ETH_P_ALL, big-endian
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for i, c := range []struct {
		parts [][]byte
		taken bool
	}{
		{[][]byte{headed(frame(1))}, true},
		{[][]byte{headed([]byte{1, 2, 3})}, false},
		{[][]byte{headed(frame(2)[:20]), frame(2)[20:21], frame(2)[21:]}, true},
	} {
		if taken, err := d.Write(c.parts); taken != c.taken || err != nil {
			t.Errorf("frame %d: taken %v, %v", i, taken, err)
		}
	}
	if d.Refused() != 1 {
		t.Errorf("refused %d, want the short one", d.Refused())
	}
	if taken, err := d.Write(make([][]byte, MaxParts+1)); taken || err == nil {
		t.Errorf("a frame in too many parts: taken %v, %v", taken, err)
	}
	b := make([]byte, 2048)
	for i := range byte(2) {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil || !bytes.Equal(b[:n], frame(i+1)) {
			t.Fatalf("received % x, %v", b[:max(n, 0)], err)
		}
	}
}

// TestWritesAtOnce: several goroutines write, each is told what became of its own frames, until Close.
func TestWritesAtOnce(t *testing.T) {
	_, d := open(t)
	const writers, rounds = 4, 200
	var enough, all sync.WaitGroup
	enough.Add(writers)
	good, short := [][]byte{headed(frame(1))}, [][]byte{headed([]byte{1, 2, 3})}
	for range writers {
		all.Go(func() {
			for i := range rounds {
				if taken, err := d.Write(good); !taken || err != nil {
					t.Errorf("round %d: a frame: taken %v, %v", i, taken, err)
				}
				if taken, err := d.Write(short); taken || err != nil {
					t.Errorf("round %d: a short one: taken %v, %v", i, taken, err)
				}
			}
			enough.Done()
			for {
				if _, err := d.Write(good); errors.Is(err, net.ErrClosed) {
					return
				} else if err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	enough.Wait()
	if n := d.Refused(); n != writers*rounds {
		t.Errorf("%d refused, want %d", n, writers*rounds)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
}
