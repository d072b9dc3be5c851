package docker_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/docker"
	"github.com/weft-net/weft/internal/docker/dockertest"
)

type memory struct {
	mu   sync.Mutex
	b    []byte
	fail error
}

func (m *memory) Load() ([]byte, error) { m.mu.Lock(); defer m.mu.Unlock(); return m.b, nil }
func (m *memory) Save(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.b = b
	return nil
}

// lab is a plugin on a host in memory, with something that speaks like dockerd.
type lab struct {
	*testing.T
	weft  *dockertest.Weft
	store memory
	p     *docker.Plugin
}

func newLab(t *testing.T) *lab {
	l := &lab{T: t, weft: dockertest.New()}
	l.restart()
	return l
}

// restart is a kill of the daemon and a new start.
func (l *lab) restart() {
	l.Helper()
	p, err := docker.New(docker.Config{Weft: l.weft, Store: &l.store})
	if err != nil {
		l.Fatal(err)
	}
	if err := p.Adopt(); err != nil {
		l.Fatal(err)
	}
	l.p = p
}

// post sends a call as dockerd does, and returns status and body.
func (l *lab) post(name, body string) (int, string) {
	l.Helper()
	r := httptest.NewRequestWithContext(l.Context(), http.MethodPost, "/"+name, strings.NewReader(body))
	w := httptest.NewRecorder()
	l.p.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

// ok makes a call that must succeed.
func (l *lab) ok(name, body string) map[string]any {
	l.Helper()
	code, answer := l.post(name, body)
	var v map[string]any
	if err := json.Unmarshal([]byte(answer), &v); err != nil || code != http.StatusOK {
		l.Fatalf("%s %s: %d %s", name, body, code, answer)
	}
	if v["Err"] != nil || v["Error"] != nil {
		l.Fatalf("%s %s: %s", name, body, answer)
	}
	return v
}

// refused makes a call that must fail with a text, in the field where Docker looks for it.
func (l *lab) refused(name, body, want string) {
	l.Helper()
	code, answer := l.post(name, body)
	var v map[string]string
	if err := json.Unmarshal([]byte(answer), &v); err != nil || code != http.StatusOK || len(v) != 1 {
		l.Fatalf("%s %s: %d %s", name, body, code, answer)
	}
	field := "Err"
	if strings.HasPrefix(name, "Ipam") {
		field = "Error"
	}
	if v[field] != want {
		l.Errorf("%s %s:\n %q in %s, want\n %q", name, body, v[field], field, want)
	}
}

// pool asks for addresses of a weft network and returns the pool's id.
func (l *lab) pool(network string) string {
	l.Helper()
	return l.ok("IpamDriver.RequestPool", `{"AddressSpace":"weft","Options":{"weft.network":"`+network+`"},"V6":false}`)["PoolID"].(string)
}

func (l *lab) network(id, subnet, options string) {
	l.Helper()
	l.ok("NetworkDriver.CreateNetwork", createCall(id, "weft", subnet, options))
}

func createCall(id, space, subnet, options string) string {
	return `{"NetworkID":"` + id + `","Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{` + options + `}},"IPv4Data":[{"AddressSpace":"` +
		space + `","Gateway":"10.32.16.1/20","Pool":"` + subnet + `"}],"IPv6Data":[]}`
}

func (l *lab) address(pool string) string {
	l.Helper()
	return l.ok("IpamDriver.RequestAddress", `{"PoolID":"`+pool+`","Address":"","Options":null}`)["Address"].(string)
}

func (l *lab) endpoint(network, id, address string) map[string]any {
	l.Helper()
	return l.ok("NetworkDriver.CreateEndpoint", endpointBody(network, id, address))["Interface"].(map[string]any)
}

func endpointBody(network, id, address string) string {
	return `{"NetworkID":"` + network + `","EndpointID":"` + id + `","Interface":{"Address":"` + address + `","AddressIPv6":"","MacAddress":""},"Options":{}}`
}

// join joins and, as Docker does, moves the interface; it returns the routes.
func (l *lab) join(network, id, sandbox string) []any {
	l.Helper()
	v := l.ok("NetworkDriver.Join", `{"NetworkID":"`+network+`","EndpointID":"`+id+`","SandboxKey":"`+sandbox+`","Options":{}}`)
	if err := l.weft.Move(v["InterfaceName"].(map[string]any)["SrcName"].(string), sandbox); err != nil {
		l.Fatal(err)
	}
	return v["StaticRoutes"].([]any)
}

// random hides what is drawn.
var random = regexp.MustCompile(`,[0-9a-f]{8}"`)
