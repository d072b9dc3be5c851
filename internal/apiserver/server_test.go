package apiserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/apiserver/apiservertest"
)

func do(t *testing.T, h http.Handler, method, path, contentType, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// Whatever is wrong with a request, the answer is a 4xx problem with a code, and the backend never
// hears of it.
func TestBadRequestsAreProblems(t *testing.T) {
	const js = "application/json"
	long := strings.Repeat("x", 300)
	tests := map[string]struct {
		method, path, contentType, body string
		status                          int
	}{
		"unknown path":           {"GET", "/v1/nothing", "", "", 404},
		"root":                   {"GET", "/", "", "", 404},
		"wrong method":           {"PUT", "/v1/hosts", js, "{}", 405},
		"unknown field":          {"POST", "/v1/networks", js, `{"name":"a","colour":"red"}`, 422},
		"missing field":          {"POST", "/v1/networks", js, `{}`, 422},
		"empty name":             {"POST", "/v1/networks", js, `{"name":""}`, 422},
		"long name":              {"POST", "/v1/networks", js, `{"name":"` + long + `"}`, 422},
		"wrong type":             {"POST", "/v1/networks", js, `{"name":7}`, 422},
		"null":                   {"POST", "/v1/networks", js, `null`, 422},
		"list for object":        {"POST", "/v1/networks", js, `[]`, 422},
		"negative rate":          {"POST", "/v1/networks", js, `{"name":"a","rate":-1}`, 422},
		"not json":               {"POST", "/v1/networks", js, `{"name":`, 400},
		"not utf-8":              {"POST", "/v1/networks", js, "{\"name\":\xff\xfe}", 400},
		"no body":                {"POST", "/v1/networks", js, ``, 400},
		"two values":             {"POST", "/v1/networks", js, `{"name":"a"} {"name":"b"}`, 400},
		"form":                   {"POST", "/v1/networks", "application/x-www-form-urlencoded", `name=a`, 415},
		"too big":                {"POST", "/v1/networks", js, `{"name":"` + strings.Repeat("x", api.MaxBody) + `"}`, 413},
		"deep":                   {"POST", "/v1/networks", js, strings.Repeat(`{"a":`, 20000), 400},
		"unknown kind":           {"POST", "/v1/attachments", js, `{"kind":"ship"}`, 422},
		"pid too large":          {"POST", "/v1/attachments", js, `{"kind":"process","pid":99999999999}`, 422},
		"pid fraction":           {"POST", "/v1/attachments", js, `{"kind":"process","pid":1.5}`, 422},
		"negative start":         {"POST", "/v1/attachments", js, `{"kind":"process","start_time":-1}`, 422},
		"too many addresses":     {"POST", "/v1/attachments", js, `{"kind":"host","ips":["a","a","a","a","a","a","a","a","a"]}`, 422},
		"no endpoints":           {"POST", "/v1/connect", js, `{"endpoints":[]}`, 422},
		"null endpoints":         {"POST", "/v1/forget", js, `{}`, 422},
		"probe too big":          {"POST", "/v1/hosts/two/probe", js, `{"size_bytes":65508}`, 422},
		"probe too long":         {"POST", "/v1/hosts/two/probe", js, `{"timeout_ms":60001}`, 422},
		"force not bool":         {"DELETE", "/v1/hosts/two?force=maybe", "", "", 422},
		"unknown query":          {"DELETE", "/v1/hosts/two?farce=true", "", "", 422},
		"host name too long":     {"DELETE", "/v1/hosts/" + long, "", "", 422},
		"bench too long":         {"POST", "/v1/bench/net", js, `{"duration_ms":60001}`, 422},
		"bench too fast":         {"POST", "/v1/bench/net", js, `{"rate":1000001}`, 422},
		"bench of bus":           {"POST", "/v1/bench/bus", js, `{"tests":["tcp"]}`, 422},
		"bench of what":          {"POST", "/v1/bench/net", js, `{"tests":["speed"]}`, 422},
		"bench of too many":      {"POST", "/v1/bench/net", js, `{"hosts":["` + strings.Repeat(`a","`, 16) + `a"]}`, 422},
		"down with a wrong type": {"POST", "/v1/down", js, `{"leave":"yes"}`, 422},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := apiservertest.New()
			w := do(t, apiserver.New(b, apiserver.Options{}).Handler(), test.method, test.path, test.contentType, test.body)
			if w.Code != test.status {
				t.Errorf("status %d, want %d: %.300s", w.Code, test.status, w.Body)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
			var p api.Error
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatalf("%v in %.300s", err, w.Body)
			}
			if p.Status != w.Code || p.Title == "" || p.Code == "" || p.Code == api.CodeInternal || p.Detail == "" {
				t.Errorf("problem %+v", p)
			}
			if calls := b.Calls(); len(calls) > 0 {
				t.Errorf("the backend was asked: %q", calls)
			}
		})
	}
}

// No bytes a caller can send make the server fail on its own side.
func FuzzBody(f *testing.F) {
	for _, s := range []string{`{}`, `{"kind":"host"}`, `null`, `[[[`, "\x00", `{"kind":"process","pid":1e400}`, `{"kind":{}}`, `{"ips":[null],"kind":"host"}`} {
		f.Add(s)
	}
	paths := []string{"/v1/attachments", "/v1/networks", "/v1/down", "/v1/connect", "/v1/hosts/two/probe", "/v1/bench/net"}
	h := apiserver.New(apiservertest.New(), apiserver.Options{Report: func(err error) { f.Error(err) }}).Handler()
	f.Fuzz(func(t *testing.T, body string) {
		for _, p := range paths {
			if w := do(t, h, http.MethodPost, p, "application/json", body); w.Code >= 500 && w.Code != http.StatusGatewayTimeout {
				t.Errorf("%s: %d %s", p, w.Code, w.Body)
			}
		}
	})
}

func TestBackendErrors(t *testing.T) {
	tests := map[string]struct {
		err    error
		status int
		code   api.Code
		told   bool
	}{
		"typed":    {api.Errorf(api.CodeConflict, "network a is here already").WithHint("pick another name"), 409, api.CodeConflict, false},
		"wrapped":  {fmt.Errorf("create: %w", api.Errorf(api.CodeUnavailable, "no majority")), 503, api.CodeUnavailable, false},
		"deadline": {context.DeadlineExceeded, 504, api.CodeTimeout, false},
		"untyped":  {errors.New("disk full"), 500, api.CodeInternal, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b, told := apiservertest.New(), false
			b.Fail(test.err)
			s := apiserver.New(b, apiserver.Options{Report: func(error) { told = true }})
			w := do(t, s.Handler(), http.MethodGet, "/v1/hosts", "", "")
			var p api.Error
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if w.Code != test.status || p.Code != test.code || told != test.told {
				t.Errorf("%d %+v, reported %v", w.Code, p, told)
			}
		})
	}
}

type panicking struct{ *apiservertest.Backend }

func (panicking) Links(context.Context) (api.Links, error) { panic("boom") }

func TestPanicIsAnInternalError(t *testing.T) {
	var told error
	s := apiserver.New(panicking{apiservertest.New()}, apiserver.Options{Report: func(err error) { told = err }})
	w := do(t, s.Handler(), http.MethodGet, "/v1/links", "", "")
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "boom") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if told == nil || !strings.Contains(told.Error(), "boom") {
		t.Errorf("reported %v", told)
	}
}

func TestWebPagesAreRefused(t *testing.T) {
	h := apiserver.New(apiservertest.New(), apiserver.Options{}).Handler()
	for _, path := range []string{"/v1/token", "/metrics", "/healthz", "/nothing"} {
		if w := do(t, h, http.MethodGet, path, "", "", "Origin", "null"); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// Lists are lists: [] and never null, so that jq '.hosts[]' works on an empty cluster.
func TestNoNullLists(t *testing.T) {
	h := apiserver.New(empty{apiservertest.New()}, apiserver.Options{}).Handler()
	for _, path := range []string{"/v1/status", "/v1/hosts", "/v1/links", "/v1/networks", "/v1/attachments", "/v1/groups", "/v1/ipam", "/v1/buses", "/v1/names", "/v1/services", "/v1/lookup?name=a"} {
		w := do(t, h, http.MethodGet, path, "", "")
		if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "null") || strings.Contains(w.Body.String(), "$schema") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

type empty struct{ *apiservertest.Backend }

func (empty) Status(context.Context) (api.Status, error)           { return api.Status{}, nil }
func (empty) Hosts(context.Context) (api.Hosts, error)             { return api.Hosts{}, nil }
func (empty) Links(context.Context) (api.Links, error)             { return api.Links{}, nil }
func (empty) Attachments(context.Context) (api.Attachments, error) { return api.Attachments{}, nil }
func (empty) IPAM(context.Context) (api.IPAM, error)               { return api.IPAM{}, nil }
func (empty) Lookup(context.Context, string, string) (api.Lookup, error) {
	return api.Lookup{}, nil
}

func (empty) Names(context.Context, string) (api.Names, error) {
	return api.Names{Names: []api.Name{{}}}, nil
}

func (empty) Services(context.Context, string) (api.Services, error) {
	return api.Services{Services: []api.Service{{}}}, nil
}

func (empty) Networks(context.Context) (api.Networks, error) {
	return api.Networks{Networks: []api.Network{{}}}, nil
}

func (empty) Bus(context.Context, string) (api.Bus, error)              { return api.Bus{}, nil }
func (empty) CreateBus(context.Context, api.BusCreate) (api.Bus, error) { return api.Bus{}, nil }
func (empty) RemoveBus(context.Context, string) error                   { return nil }
func (empty) Buses(context.Context) (api.Buses, error) {
	return api.Buses{Buses: []api.Bus{{}}}, nil
}

func (empty) Groups(context.Context) (api.Groups, error) {
	return api.Groups{Groups: []api.Group{{}}}, nil
}

const linesOf = `"application/x-ndjson":{"schema":{"$ref":"#/components/schemas/BenchEvent"}}`

func TestHealthReadyMetricsOpenAPI(t *testing.T) {
	b := apiservertest.New()
	h := apiserver.New(b, apiserver.Options{Version: "v1"}).Handler()
	for path, want := range map[string]string{
		"/healthz":      `{"done":true}`,
		"/readyz":       `{"done":true}`,
		"/metrics":      `weft_link_bytes_out_total{host="two",path="direct"} 12`,
		"/metrics?":     "\ngo_gc_heap_live_bytes ",
		"/openapi.json": `"/v1/attachments/{network}/{name}"`,
	} {
		if w := do(t, h, http.MethodGet, path, "", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d, no %s in %.400s", path, w.Code, want, w.Body)
		}
	}
	if w := do(t, h, http.MethodGet, "/openapi.json", "", ""); !strings.Contains(w.Body.String(), `"/v1/bench/net"`) || !strings.Contains(w.Body.String(), linesOf) {
		t.Error("the api does not tell of measurements")
	}
	b.Fail(errors.New("no address range yet"))
	w := do(t, h, http.MethodGet, "/readyz", "", "")
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "no address range yet") {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	if w := do(t, h, http.MethodGet, "/healthz", "", ""); w.Code != http.StatusOK {
		t.Errorf("healthz: %d", w.Code)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, apiserver.SocketName)
	// A socket that nobody answers at, as a killed daemon leaves it.
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := apiserver.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Type() != os.ModeSocket || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, err := apiserver.Listen(dir); !errors.Is(err, apiserver.ErrRunning) {
		t.Errorf("second listen: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := apiserver.Listen(filepath.Join(dir, strings.Repeat("d", 120))); err == nil || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("long path: %v", err)
	}
}

// TestBench: lines while it goes; an error before the first is a problem, later the last line; who hangs up ends it.
func TestBench(t *testing.T) {
	b := apiservertest.New()
	c := client.Dial(client.SocketPath(apiservertest.Serve(t, b)))
	defer c.Close()
	var told []string
	progress := func(p client.BenchProgress) { told = append(told, p.Test) }
	out, err := c.BenchNet(t.Context(), client.BenchRequest{Hosts: []string{"two"}, Tests: []string{"rtt"}, DurationMS: 500}, progress)
	if err != nil || len(out.Bench) != 3 || out.Bench[0].Receivers == nil || fmt.Sprint(told) != "[prepare rtt mcast]" {
		t.Errorf("%+v, %v, told %v", out, err, told)
	}
	if calls := b.Calls(); calls[0] != "bench net  [two] [rtt] 500 0 0" {
		t.Errorf("%q", calls)
	}
	var p *client.Error
	if _, err := c.BenchNet(t.Context(), client.BenchRequest{Network: "broken"}, nil); !errors.As(err, &p) || p.Code != client.CodeUnavailable || p.Hint != "weft hosts" {
		t.Errorf("an error after progress: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if _, err := c.BenchNet(ctx, client.BenchRequest{Network: "endless"}, func(client.BenchProgress) {
		if n++; n == 3 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	b.Fail(api.Errorf(api.CodeConflict, "host one began one"))
	h := apiserver.New(b, apiserver.Options{}).Handler()
	if w := do(t, h, http.MethodPost, "/v1/bench/net", "application/json", "{}"); w.Code != http.StatusConflict || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("an error before progress: %d %s", w.Code, w.Body)
	}
	if _, err := c.BenchNet(t.Context(), client.BenchRequest{}, nil); !client.IsCode(err, client.CodeConflict) {
		t.Errorf("an error before progress: %v", err)
	}
}

// TestSubscribe: lines as they come; an error before the first is a problem; who has enough hangs up.
func TestSubscribe(t *testing.T) {
	b := apiservertest.New()
	c := client.Dial(client.SocketPath(apiservertest.Serve(t, b)))
	defer c.Close()
	enough := errors.New("enough")
	var got []string
	err := c.Subscribe(t.Context(), client.ClusterBus, "news.>", "w", func(e client.BusEvent) error {
		if e.Message != nil {
			got = append(got, e.Message.Subject+" "+e.Message.Payload+string(e.Message.PayloadBase64))
		}
		if len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || fmt.Sprintf("%q", got) != `["news.a first" "news.b second\x1b[31m" "news.a \xff\x00"]` {
		t.Errorf("%v %q", err, got)
	}
	if calls := b.Calls(); calls[0] != "subscribe weft news.> w" {
		t.Errorf("%q", calls)
	}
	if err := c.Subscribe(t.Context(), "ghost", "a", "", nil); !client.IsCode(err, client.CodeNotFound) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Subscribe(ctx, client.ClusterBus, "a", "", func(client.BusEvent) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	out, err := c.Publish(t.Context(), client.ClusterBus, client.BusMessage{Subject: "news.a", PayloadBase64: []byte{0xff}}, client.BusMessage{Subject: "b"})
	if err != nil || out.Published != 2 || out.Wanted != 1 {
		t.Errorf("%+v %v", out, err)
	}
	long := client.BusMessage{Subject: "news.a", Payload: strings.Repeat("x", api.MaxBusPayload)}
	if _, err := c.Publish(t.Context(), client.ClusterBus, long); err != nil {
		t.Errorf("the longest message: %v", err)
	}
	if m, err := c.Request(t.Context(), client.ClusterBus, client.BusRequest{BusMessage: client.BusMessage{Subject: "echo", Payload: "x"}}); err != nil || m.Payload != "x" {
		t.Errorf("%+v %v", m, err)
	}
}

// Subscriptions leave room for other requests.
func TestManySubscribers(t *testing.T) {
	b := apiservertest.New()
	c := client.Dial(client.SocketPath(apiservertest.Serve(t, b)))
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error)
	const most = 128
	for range most {
		go func() {
			done <- c.Subscribe(ctx, client.ClusterBus, "a", "", func(e client.BusEvent) error {
				if e.Ready {
					ready <- struct{}{}
				}
				return nil
			})
		}()
	}
	for range most {
		<-ready
	}
	if err := c.Subscribe(ctx, client.ClusterBus, "a", "", nil); !client.IsCode(err, client.CodeUnavailable) {
		t.Errorf("one more: %v", err)
	}
	if _, err := c.Status(ctx); err != nil {
		t.Error(err)
	}
	cancel()
	for range most {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// The client and the server agree on every resource, over a real socket.
func TestClientRoundTrips(t *testing.T) {
	b := apiservertest.New()
	c := client.Dial(client.SocketPath(apiservertest.Serve(t, b)))
	defer c.Close()
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	s, err := c.Status(ctx)
	check("status", err)
	if s.Host != "one" || s.LinksUp() != 1 || s.Degraded() {
		t.Errorf("status %+v", s)
	}
	hosts, err := c.Hosts(ctx)
	check("hosts", err)
	if len(hosts.Hosts) != 2 || hosts.Strangers[0].BadSecret != 2 {
		t.Errorf("hosts %+v", hosts)
	}
	_, err = c.Links(ctx)
	check("links", err)
	_, err = c.Networks(ctx)
	check("networks", err)
	n, err := c.CreateNetwork(ctx, client.NetworkCreate{Name: "films", Plain: true, Subnet: "10.9.0.0/24"})
	check("create", err)
	if n.Engine != api.EnginePlain || n.Subnets[0] != "10.9.0.0/24" {
		t.Errorf("created %+v", n)
	}
	_, err = c.Network(ctx, "films")
	check("network", err)
	check("rm network", c.RemoveNetwork(ctx, "films"))
	if _, err = c.Network(ctx, "films"); !client.IsCode(err, client.CodeNotFound) {
		t.Errorf("removed network: %v", err)
	}
	a, err := c.Attach(ctx, client.Attach{Kind: client.KindHost, Name: "a b/c"})
	check("attach", err)
	check("detach", c.Detach(ctx, a.Network, a.Name))
	_, err = c.Attachments(ctx)
	check("attachments", err)
	_, err = c.Groups(ctx)
	check("groups", err)
	_, err = c.IPAM(ctx)
	check("ipam", err)
	name, err := c.AddName(ctx, client.NameAdd{Name: "printer", Addresses: []string{"192.0.2.7"}})
	check("add name", err)
	if name.FQDN != "printer.weft.weft.internal" {
		t.Errorf("name %+v", name)
	}
	list, err := c.Names(ctx, "weft")
	check("names", err)
	if len(list) != 2 || list[1].Name != "printer" {
		t.Errorf("names %+v", list)
	}
	found, err := c.Lookup(ctx, "", "printer")
	check("lookup", err)
	if found.Addresses[0] != "192.0.2.7" {
		t.Errorf("found %+v", found)
	}
	check("rm name", c.RemoveName(ctx, "weft", "printer", "192.0.2.7", "192.0.2.8"))
	check("aliases", c.SetAliases(ctx, "weft", "chat", "talk", "irc"))
	check("no aliases", c.SetAliases(ctx, "weft", "chat"))
	_, err = c.AddService(ctx, client.ServiceAdd{Service: "_ipp._tcp", Name: "printer", Port: 631})
	check("add service", err)
	services, err := c.Services(ctx, "")
	check("services", err)
	if len(services) != 2 || services[1].Service != "_ipp._tcp" {
		t.Errorf("services %+v", services)
	}
	check("rm service", c.RemoveService(ctx, "weft", "_ipp._tcp", "printer"))
	for _, want := range []string{"rm name weft/printer [192.0.2.7 192.0.2.8]", "aliases weft/chat [talk irc]", "aliases weft/chat []"} {
		if !slices.Contains(b.Calls(), want) {
			t.Errorf("no %q in %q", want, b.Calls())
		}
	}
	tok, err := c.Token(ctx)
	check("token", err)
	if tok != apiservertest.Token {
		t.Errorf("token %q", tok)
	}
	tok, err = c.RotateToken(ctx)
	check("rotate", err)
	if tok != apiservertest.RotatedToken {
		t.Errorf("token %q", tok)
	}
	check("connect", c.Connect(ctx, "10.0.0.9"))
	check("forget", c.Forget(ctx, "10.0.0.9"))
	_, err = c.Probe(ctx, "two", client.Probe{SizeBytes: 100})
	check("probe", err)
	if _, err = c.RemoveHost(ctx, "two", false); !client.IsCode(err, client.CodeRefused) {
		t.Errorf("rm host: %v", err)
	}
	_, err = c.RemoveHost(ctx, "two", true)
	check("rm host", err)
	check("down", c.Down(ctx, client.Down{Leave: true}))
	if got := b.Calls(); got[len(got)-1] != "down leave=true clean=false" {
		t.Errorf("calls %q", got)
	}
}

func TestNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weft.sock")
	_, err := client.Dial(path).Status(t.Context())
	if !errors.Is(err, client.ErrNoDaemon) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "weft up") {
		t.Errorf("%v", err)
	}
}
