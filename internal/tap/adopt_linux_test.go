package tap

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/gso"
)

// TestAdoptedTAP: the interface outlives the Device that made it when another has taken it over, and frames that came
// while nobody read are read there, in order.
func TestAdoptedTAP(t *testing.T) {
	ns, old := open(t)
	send := sender(t, ns)
	space, frames := buffers(8)
	ended := make(chan error, 1)
	go func() {
		_, err := old.Read(make([]byte, gso.MaxFrame), make([][]byte, 1))
		ended <- err
	}()
	old.Halt()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("halted: %v", err)
	}
	send(frame(1))
	if _, err := old.Read(space, frames); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a halted TAP reads: %v", err)
	}
	old.Resume()
	if n, err := old.Read(space, frames); n != 1 || err != nil || !bytes.Equal(frames[0][gso.HeaderLen:], frame(1)) {
		t.Fatalf("resumed: %d, %v", n, err)
	}

	old.Halt()
	for i := range byte(5) {
		send(frame(10 + i))
	}
	f, err := File(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt("wu000002", f); err == nil || !strings.Contains(err.Error(), "wu000001") {
		t.Errorf("under another name: %v", err)
	}
	next, err := Adopt("wu000001", f)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	send(frame(15)) // the interface is there
	for got := 0; got < 6; {
		n, err := next.Read(space, frames)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if want := frame(byte(10 + got)); !bytes.Equal(frames[i][gso.HeaderLen:], want) {
				t.Errorf("frame %d: % x", got, frames[i])
			}
			got++
		}
	}
	if taken, err := next.Write([][]byte{headed(frame(1))}); !taken || err != nil {
		t.Errorf("write: %v, %v", taken, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Adopt("wu000001", null); err == nil {
		t.Error("a TAP was made of /dev/null")
	}
}
