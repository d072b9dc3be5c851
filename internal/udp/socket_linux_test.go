package udp

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns a socket and the other end of it. They are of a family that makes the sender wait for the reader.
func pair(t *testing.T) (s *socket, other int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = newSocket(fds[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[1]) })
	return s, fds[1]
}

// TestWaitsForRoom: who finds the buffer full goes on when there is room, each time.
func TestWaitsForRoom(t *testing.T) {
	s, other := pair(t)
	defer s.close()
	const all = 2000 // the kernel holds some ten
	sent := make(chan error, 1)
	go func() {
		for i := range all {
			var err error
			werr := s.out.raw.Read(func(ep uintptr) bool {
				if err = unix.Send(s.fd, []byte{byte(i)}, unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
					return true
				}
				err = rearm(int(ep), s.fd, unix.EPOLLOUT)
				return err != nil
			})
			if err = errors.Join(err, werr); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	b := make([]byte, 10)
	for i := range all {
		ready := []unix.PollFd{{Fd: int32(other), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 5000); n != 1 || err != nil {
			t.Fatalf("after %d of %d: %d, %v", i, all, n, err)
		}
		if n, err := unix.Read(other, b); n != 1 || err != nil || b[0] != byte(i) {
			t.Fatalf("datagram %d: %d bytes, %v", i, n, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestSendingWakesNoReader: that the kernel has room again is nothing to the watch for reading.
func TestSendingWakesNoReader(t *testing.T) {
	s, other := pair(t)
	defer s.close()
	calls := 0
	s.readUntil(time.Now().Add(200 * time.Millisecond))
	read := make(chan error, 1)
	go func() {
		read <- s.in.raw.Read(func(uintptr) bool { calls++; return false })
	}()
	b := make([]byte, 10)
	for range 1000 { // fill and drain, so that room comes back each time
		if err := unix.Send(s.fd, b, unix.MSG_DONTWAIT); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Read(other, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if calls != 1 {
		t.Errorf("the reader was called %d times, want once", calls)
	}
}

// TestClosedSocket: nothing can be done with it, and whoever waits is woken.
func TestClosedSocket(t *testing.T) {
	s, _ := pair(t)
	waits := make(chan error, 1)
	begun := make(chan struct{}, 1)
	go func() {
		waits <- s.in.raw.Read(func(uintptr) bool {
			begun <- struct{}{}
			return false
		})
	}()
	<-begun
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if err := <-waits; err == nil {
		t.Error("a read of a closed socket ends without an error")
	}
	if err := s.control(func(int) error { return nil }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("control: %v", err)
	}
	if _, err := s.dup(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dup: %v", err)
	}
}
