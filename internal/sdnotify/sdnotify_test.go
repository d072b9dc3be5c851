package sdnotify

import (
	"net"
	"path/filepath"
	"testing"
)

func TestSend(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Send(Ready); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := Send(Ready, Status("2 hosts")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	for _, want := range []string{"READY=1", "STATUS=2 hosts"} {
		n, err := l.Read(b)
		if err != nil || string(b[:n]) != want {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
	t.Setenv("NOTIFY_SOCKET", path+"gone")
	if Send(Ready) == nil {
		t.Error("no error for a socket that is not there")
	}
}
