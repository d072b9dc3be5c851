package apiserver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/apiserver/apiservertest"
)

// TestAdoptedListener: a request that comes while nobody accepts waits, and is answered by whoever has the listener then.
func TestAdoptedListener(t *testing.T) {
	dir, err := os.MkdirTemp("", "weft") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	old, err := apiserver.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(l *apiserver.Listener, name string) (stop func()) {
		b := apiservertest.New()
		b.Edit(func(s *api.Status) { s.Host = name })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- apiserver.New(b, apiserver.Options{}).Serve(ctx, l) }()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	ask := func() (string, error) {
		c := client.Dial(client.SocketPath(dir)) // a connection of its own
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s, err := c.Status(ctx)
		return s.Host, err
	}
	later := func() chan string {
		answer := make(chan string, 1)
		go func() {
			name, err := ask()
			answer <- name + errText(err)
		}()
		return answer
	}
	stop := serve(old, "old")
	if name, err := ask(); name != "old" || err != nil {
		t.Fatal(name, err)
	}
	old.Halt()
	old.Halt()
	waiting := later()
	old.Resume()
	old.Resume()
	if name := <-waiting; name != "old" {
		t.Fatal("resumed:", name)
	}

	old.Halt()
	waiting = later()
	f, err := old.File()
	if err != nil {
		t.Fatal(err)
	}
	next, err := apiserver.Adopt(dir, f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	old.Give()
	stop()
	stop = serve(next, "next")
	if name := <-waiting; name != "next" {
		t.Fatal("handed over:", name)
	}
	if name, err := ask(); name != "next" || err != nil {
		t.Fatal(name, err)
	}
	next.Give()
	next.Keep()
	stop()
	if _, err := os.Lstat(filepath.Join(dir, apiserver.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return " " + err.Error()
}

// TestQuiet: what may change something is refused and, when it is under way, waited for; looking is always allowed.
func TestQuiet(t *testing.T) {
	b := apiservertest.New()
	begun, finish := make(chan struct{}), make(chan struct{})
	b.OnDown = func(api.Down) { close(begun); <-finish }
	s := apiserver.New(b, apiserver.Options{})
	request := func(method, path, body string) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		s.Handler().ServeHTTP(w, r)
		return w.Code
	}
	ended := make(chan int, 1)
	go func() { ended <- request(http.MethodPost, "/v1/down", "{}") }()
	<-begun
	over, cancel := context.WithCancel(t.Context())
	cancel()
	s.Quiet(over) // does not wait longer than it may
	if code := request(http.MethodPost, "/v1/down", "{}"); code != http.StatusServiceUnavailable {
		t.Errorf("while quiet: %d", code)
	}
	if code := request(http.MethodGet, "/v1/status", ""); code != http.StatusOK {
		t.Errorf("looking while quiet: %d", code)
	}
	quiet := make(chan struct{})
	go func() { s.Quiet(t.Context()); close(quiet) }()
	close(finish)
	if code := <-ended; code != http.StatusOK {
		t.Errorf("what was under way: %d", code)
	}
	<-quiet
	s.Loud()
	b.OnDown = func(api.Down) {}
	if code := request(http.MethodPost, "/v1/down", "{}"); code != http.StatusOK {
		t.Errorf("loud again: %d", code)
	}
}
