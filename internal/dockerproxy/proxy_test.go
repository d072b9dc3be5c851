package dockerproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/dockerapi/dockerapitest"
)

// engine is as much of dockerd as the proxy needs: it writes down what it is asked.
type engine struct {
	mu     sync.Mutex
	asked  []string
	bodies map[string]string // by call
	fails  map[string]int
	driver string // of network weft; empty: there is none
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	defer e.mu.Unlock()
	call := r.Method + " " + r.URL.RequestURI()
	e.asked = append(e.asked, call)
	e.bodies[call] = string(b)
	if s := e.fails[call]; s != 0 {
		w.WriteHeader(s)
		fmt.Fprintf(w, `{"message":"no %s"}`, call)
		return
	}
	switch {
	case call == "GET /networks/weft" && e.driver == "":
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"no such network"}`)
	case call == "GET /networks/weft":
		fmt.Fprintf(w, `{"Name":"weft","Driver":%q}`, e.driver)
	case call == "POST /networks/create":
		e.driver = "weft"
		w.WriteHeader(http.StatusCreated)
	case strings.Contains(call, "/containers/create"):
		w.Header().Set("Api-Version", "1.41")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"Id":"c0ffee","Warnings":["w"]}`)
	default:
		fmt.Fprint(w, "{}")
	}
}

func start(t *testing.T, e *engine, names func(context.Context) (Names, error)) *httptest.Server {
	t.Helper()
	e.bodies = map[string]string{}
	if names == nil {
		names = func(context.Context) (Names, error) {
			return Names{[]string{"10.32.0.1"}, []string{"weft.weft.internal"}}, nil
		}
	}
	s := httptest.NewServer(New(Config{Socket: dockerapitest.Listen(t, e), Network: "weft", Names: names}))
	t.Cleanup(s.Close)
	return s
}

func post(t *testing.T, url, body string) (status int, answer string, h http.Header) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader(body)) //nolint:noctx // the test's own
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b), r.Header
}

// TestCreate: a container that is created is connected before its creator hears of it, and asks weft for names; Docker's answer is not changed.
func TestCreate(t *testing.T) {
	e := &engine{}
	s := start(t, e, nil)
	status, answer, h := post(t, s.URL+"/v1.41/containers/create?name=web", `{"Image":"x","Unknown":{"A":[1.50]},"HostConfig":{"Memory":12345678901234567890}}`)
	if status != http.StatusCreated || answer != `{"Id":"c0ffee","Warnings":["w"]}` || h.Get("Api-Version") != "1.41" {
		t.Errorf("%d %s %v", status, answer, h)
	}
	want := []string{
		"GET /networks/weft", "POST /networks/create", "POST /v1.41/containers/create?name=web", "POST /networks/weft/connect",
	}
	if !slices.Equal(e.asked, want) {
		t.Errorf("asked %q, want %q", e.asked, want)
	}
	if got := e.bodies["POST /networks/weft/connect"]; got != `{"Container":"c0ffee"}` {
		t.Errorf("connected: %s", got)
	}
	got := e.bodies["POST /v1.41/containers/create?name=web"]
	for _, part := range []string{`"Dns":["10.32.0.1"]`, `"DnsSearch":["weft.weft.internal"]`, `"Unknown":{"A":[1.50]}`, `"Memory":12345678901234567890`} {
		if !strings.Contains(got, part) {
			t.Errorf("no %s in %s", part, got)
		}
	}
	if got := e.bodies["POST /networks/create"]; !strings.Contains(got, `"weft.network":"weft"`) || !strings.Contains(got, `"Driver":"weft"`) {
		t.Errorf("made: %s", got)
	}
}

// TestLeftAlone: what is not to be attached, or not to be understood, reaches Docker as it came.
func TestLeftAlone(t *testing.T) {
	for _, body := range []string{
		`{"HostConfig":{"NetworkMode":"host"}}`, `{"hostconfig":{"networkMode":"none"}}`, `{"HostConfig":{"NetworkMode":"container:x"}}`,
		`{"HostConfig":{"NetworkMode":7}}`, `{"HostConfig":[]}`, `null`, `[]`, ``, `{`,
	} {
		e := &engine{driver: "weft"}
		s := start(t, e, nil)
		post(t, s.URL+"/containers/create", body)
		if want := []string{"POST /containers/create"}; !slices.Equal(e.asked, want) || e.bodies[want[0]] != body {
			t.Errorf("%s: asked %q with %q", body, e.asked, e.bodies)
		}
	}
	// Its own name servers stay, and it is not connected twice.
	e := &engine{driver: "weft:latest"}
	s := start(t, e, nil)
	for _, body := range []string{`{"HostConfig":{"NetworkMode":"weft","Dns":["192.0.2.1"]}}`, `{"HostConfig":{"dns":["192.0.2.1"],"NetworkMode":"weft"}}`} {
		post(t, s.URL+"/containers/create", body)
		got := e.bodies["POST /containers/create"]
		if strings.Contains(got, "10.32.0.1") || strings.Contains(got, "weft.internal") || !strings.Contains(got, "192.0.2.1") {
			t.Errorf("%s became %s", body, got)
		}
	}
	if slices.Contains(e.asked, "POST /networks/weft/connect") {
		t.Errorf("connected twice: %q", e.asked)
	}
	// Everything else.
	e.asked = nil
	post(t, s.URL+"/v1.41/containers/c0ffee/start", "")
	post(t, s.URL+"/containers/create/x", "{}")
	if want := []string{"POST /v1.41/containers/c0ffee/start", "POST /containers/create/x"}; !slices.Equal(e.asked, want) {
		t.Errorf("asked %q, want %q", e.asked, want)
	}
}

// TestRefused: one sentence as Docker's, and no container that is not attached.
func TestRefused(t *testing.T) {
	for name, x := range map[string]struct {
		engine *engine
		names  error
		want   string
		last   string
	}{
		"not connected":      {&engine{driver: "weft", fails: map[string]int{"POST /networks/weft/connect": 500}}, nil, "cannot be attached to network weft: docker: no POST", "DELETE /containers/c0ffee?force=1"},
		"not made":           {&engine{fails: map[string]int{"POST /networks/create": 500}}, nil, "make network weft: docker: no POST", "GET /networks/weft"},
		"another's":          {&engine{driver: "bridge"}, nil, "docker's network weft is not weft's (driver bridge)", "GET /networks/weft"},
		"weft is not up":     {&engine{driver: "weft"}, errors.New("no weft daemon"), "weft's proxy: no weft daemon", "GET /networks/weft"},
		"refused by dockerd": {&engine{driver: "weft", fails: map[string]int{"POST /containers/create": 404}}, nil, "no POST /containers/create", "POST /containers/create"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, x.engine, func(context.Context) (Names, error) { return Names{}, x.names })
			status, answer, _ := post(t, s.URL+"/containers/create", "{}")
			var said struct{ Message string }
			if err := json.Unmarshal([]byte(answer), &said); err != nil || status < 400 || !strings.Contains(said.Message, x.want) {
				t.Errorf("%d %s, want %s", status, answer, x.want)
			}
			if last := x.engine.asked[len(x.engine.asked)-1]; last != x.last {
				t.Errorf("asked last %s, want %s", last, x.last)
			}
		})
	}
	s := httptest.NewServer(New(Config{Socket: "/nowhere/docker.sock", Network: "weft"}))
	defer s.Close()
	for _, path := range []string{"/containers/create", "/version"} {
		if status, answer, _ := post(t, s.URL+path, "{}"); status < 500 || !strings.Contains(answer, "/nowhere/docker.sock") {
			t.Errorf("%s without Docker: %d %s", path, status, answer)
		}
	}
	e := &engine{}
	s = start(t, e, nil)
	if status, _, _ := post(t, s.URL+"/containers/create", `{"Image":"`+strings.Repeat("x", maxCreate)+`"}`); status != http.StatusBadRequest || len(e.asked) > 0 {
		t.Errorf("a request without end: %d, asked %q", status, e.asked)
	}
}

// FuzzRequest: whatever a client sends, what reaches Docker is JSON that says the same but for the name servers, or what came.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"Image":"x","HostConfig":{"NetworkMode":"default","Dns":null}}`))
	f.Add([]byte(`{"hostconfig":{"dns":[1]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parse(b)
		if err != nil {
			return
		}
		_ = apart(r.mode())
		before := r.mode()
		out, err := r.withNames(Names{[]string{"10.32.0.1"}, []string{"weft.internal"}})
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(out)
		if err != nil || again.mode() != before {
			t.Fatalf("%s became %s: %v", b, out, err)
		}
	})
}
