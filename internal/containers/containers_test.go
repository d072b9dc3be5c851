package containers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/dockerapi/dockerapitest"
	"github.com/weft-net/weft/internal/names"
)

// host is what the watcher tells.
type host struct {
	mu    sync.Mutex
	names map[string][]string // by attachment; one without names is there
	fails error
	said  string
	told  int
}

func (h *host) Attachment(endpoint string) (network, name string, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name = "docker-" + endpoint
	_, ok = h.names[name]
	return "party", name, ok
}

func (h *host) SetNames(network, attachment string, all []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told++
	if network != "party" {
		return fmt.Errorf("network %s", network)
	}
	if h.fails == nil {
		h.names[attachment] = all
	}
	return h.fails
}

func (h *host) trouble(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = text
}

func (h *host) tries() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told
}

// watch follows an engine until what it returns is called.
func (h *host) watch(t *testing.T, e Engine) (end func()) {
	w := New(e, h, h.trouble)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	return func() { cancel(); <-done }
}

// wait waits until the names of an attachment are those.
func (h *host) wait(t *testing.T, attachment string, want ...string) {
	t.Helper()
	h.until(t, func() error {
		if got := h.names[attachment]; !slices.Equal(got, want) {
			return fmt.Errorf("%s is called %q, want %q", attachment, got, want)
		}
		return nil
	})
}

func (h *host) until(t *testing.T, f func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		h.mu.Lock()
		err := f()
		h.mu.Unlock()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func container(id, name, endpoint string, aliases ...string) dockerapi.Container {
	var c dockerapi.Container
	c.ID, c.Name, c.Config.Hostname = id, "/"+name, id
	c.NetworkSettings.Networks = map[string]dockerapi.Endpoint{"party": {EndpointID: endpoint, Aliases: aliases}, "bridge": {EndpointID: "other"}}
	return c
}

// TestWatcher: containers are called as Docker calls them, from the start and as that changes; what did not change is not asked again.
func TestWatcher(t *testing.T) {
	e := dockerapitest.New(t)
	h := &host{names: map[string][]string{"docker-e1": nil, "docker-e2": nil, "docker-e3": nil}}
	e.SetContainer(container("c1", "web", "e1", "shop", "c1"))
	e.SetContainer(container("c9", "elsewhere", "none-of-weft"))
	defer h.watch(t, dockerapi.New(e.Socket))()

	h.wait(t, "docker-e1", "web", "shop", "c1")
	task := container("c2", "talk.1.abc", "e2")
	task.Config.Labels = map[string]string{labelService: "talk", labelTask: "talk.1.abc"}
	e.SetContainer(task)
	h.wait(t, "docker-e2", "talk.1.abc", "talk", "tasks.talk", "c2")
	e.SetContainer(container("c1", "shop2", "e1", "shop")) // another name
	h.wait(t, "docker-e1", "shop2", "shop", "c1")
	e.SetContainer(container("c1", "shop2", "e3", "store")) // another place, by another alias
	h.wait(t, "docker-e3", "shop2", "store", "c1")
	if got := e.Inspected(); !slices.Equal(got, []string{"c1", "c2", "c1", "c1"}) {
		t.Errorf("asked about %q", got)
	}
	e.EndContainer("c1")
	e.SetContainer(container("c1", "back", "e1")) // the same id: it was stopped and started
	h.wait(t, "docker-e1", "back", "c1")
	if changes := e.Changes(); len(changes) > 0 {
		t.Errorf("changed in Docker: %q", changes)
	}
}

// engine is Docker as a test has it: it follows until it is told to end.
type engine struct {
	end  chan error
	tell chan struct{}

	mu        sync.Mutex
	container dockerapi.Container
	fails     error
}

func (e *engine) set(c dockerapi.Container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.container = c
}

func (e *engine) get() dockerapi.Container {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.container
}

func (e *engine) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fails = err
}

func (e *engine) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fails
}

func (e *engine) Follow(ctx context.Context, changed func()) error {
	if err := e.failure(); err != nil {
		return err
	}
	for {
		changed()
		select {
		case <-e.tell:
		case err := <-e.end:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *engine) Containers(context.Context) ([]dockerapi.Container, error) {
	return []dockerapi.Container{e.get()}, e.failure()
}

func (e *engine) Container(context.Context, string) (dockerapi.Container, bool, error) {
	return e.get(), true, e.failure()
}

// TestTroubles: what fails is tried again, ever more slowly, and told when it lasts: weft starts before Docker, refuses, or Docker ends.
func TestTroubles(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		e := &engine{container: container("c1", "web", "e1"), end: make(chan error)}
		e.fail(errors.New("no Docker"))
		h := &host{names: map[string][]string{"docker-e1": nil}}
		defer h.watch(t, e)()
		after := func(d time.Duration, said string, names ...string) {
			t.Helper()
			time.Sleep(d) // fake time
			synctest.Wait()
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.said != said && (said == "" || !strings.HasSuffix(h.said, said)) || !slices.Equal(h.names["docker-e1"], names) {
				t.Errorf("said %q, want %q; names %q, want %q", h.said, said, h.names["docker-e1"], names)
			}
		}
		after(patience-time.Second, "")
		after(retryMost, "no Docker")
		e.fail(nil)
		after(retryMost, "", "web", "c1")

		e.end <- errors.New("it ended")
		after(2*retryFirst, "", "web", "c1")
		h.mu.Lock()
		h.fails, h.names["docker-e1"] = errors.New("not ready"), nil
		h.mu.Unlock()
		e.end <- errors.New("it ended")
		after(patience+retryMost, "not ready")
		before := h.tries()
		after(10*retryMost, "not ready")
		if n := h.tries() - before; n < 9 || n > 11 {
			t.Errorf("tried %d times in %v, want each %v", n, 10*retryMost, retryMost)
		}
		h.mu.Lock()
		h.fails = nil
		h.mu.Unlock()
		after(retryMost, "", "web", "c1")
	})
}

// TestToldEarly: Docker tells of a change before its list has it.
func TestToldEarly(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		c := container("c1", "web", "e1")
		c.Names = []string{"/web"}
		e := &engine{container: c, tell: make(chan struct{})}
		h := &host{names: map[string][]string{"docker-e1": nil}}
		defer h.watch(t, e)()
		time.Sleep(time.Minute) // fake time
		e.tell <- struct{}{}
		synctest.Wait()
		c.Name, c.Names = "/store", []string{"/store"}
		e.set(c)
		time.Sleep(2 * settle) // fake time
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if got := h.names["docker-e1"]; !slices.Equal(got, []string{"store", "c1"}) || h.told != 2 {
			t.Errorf("called %q after %d words, want store after 2", got, h.told)
		}
	})
}

// TestNames: what cannot be a name in DNS, or is one too many, is left out and counted.
func TestNames(t *testing.T) {
	c := container("C1", "My_App", "e1")
	c.Config.Hostname = "web.example"
	got, refused := Names(c, dockerapi.Endpoint{Aliases: []string{"my_app", "a b", "-x", "localhost", "_http._tcp"}, DNSNames: []string{"my_app", "c1"}})
	if want := []string{"my_app", "c1", "web.example"}; !slices.Equal(got, want) || refused != 4 {
		t.Errorf("%q and %d refused, want %q and 4", got, refused, want)
	}
	var many []string
	for i := range 2 * names.MaxAliases {
		many = append(many, fmt.Sprintf("n%d", i))
	}
	got, refused = Names(c, dockerapi.Endpoint{Aliases: many})
	if err := (names.Aliases{Names: got}).Check(); err != nil || len(got) != names.MaxAliases || refused != names.MaxAliases+2 {
		t.Errorf("%d names, %d refused, %v", len(got), refused, err)
	}
}
