package edge

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unsent returns what the kernel has taken of an edge and not sent, and what it has sent and is not confirmed, in bytes.
func unsent(t testing.TB, c *conn) (waits, flies int) {
	t.Helper()
	raw, err := c.sealed.Conn.(*buffered).Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) {
		if waits, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD); err == nil {
			flies, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		}
	}); cerr != nil {
		t.Fatal(cerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return waits, flies - waits
}

// TestUnsent: of a connection whose other end reads slowly the kernel holds little: the rest waits where it is counted.
func TestUnsent(t *testing.T) {
	a, b := pair(t)
	b.hold = make(chan struct{})
	c := a.edges[2][0]
	reading := time.NewTicker(10 * time.Millisecond) // and each time a record or two: some 3 MB a second
	defer reading.Stop()
	train := make([]byte, 60*1000)
	most, flying := 0, 0
	for began := time.Now(); time.Since(began) < 3*time.Second; {
		a.Send(2, train, 1000)
		if a.Counters()[DropQueue] > 0 { // nothing more fits in anywhere
			waits, flies := unsent(t, c)
			most, flying = max(most, waits), max(flying, flies)
			<-reading.C
			select {
			case b.hold <- struct{}{}:
			default:
			}
		}
	}
	close(b.hold)
	t.Logf("the kernel had %d bytes that it had not sent, and %d on their way", most, flying)
	if most == 0 || most > maxUnsent+4<<16 { // it takes what is written at once as a whole, or to the end of a buffer
		t.Errorf("the kernel had %d bytes that it had not sent, %d are wanted", most, maxUnsent)
	}
}
