package discover

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/ident"
)

// write makes a file with a text, and returns its path.
func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, text string) Source {
	t.Helper()
	s, err := New(text, Environment{Port: 6783})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func hostOf(url string) string { _, h, _ := strings.Cut(url, "://"); return h }

// fakeEtcd is what etcd's JSON gateway answers, as far as it is called.
type fakeEtcd struct {
	mu       sync.Mutex
	keys     map[string]string // value, in base64, by key, too
	leases   map[string]string // keys of a lease
	puts     int
	password string
	token    string
}

func (f *fakeEtcd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var q map[string]string
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != http.MethodPost {
		http.Error(w, `{"error":"invalid character","code":3}`, http.StatusBadRequest)
		return
	}
	const header = `"header":{"cluster_id":"1","member_id":"2","revision":"3","raft_term":"4"}`
	if r.URL.Path == "/v3/auth/authenticate" {
		if q["name"] != "weft" || q["password"] != f.password {
			http.Error(w, `{"error":"etcdserver: authentication failed, invalid user ID or password","code":3}`, http.StatusBadRequest)
			return
		}
		f.token = fmt.Sprintf("token%d", time.Now().UnixNano())
		fmt.Fprintf(w, `{%s,"token":%q}`, header, f.token)
		return
	}
	if f.password != "" && r.Header.Get("Authorization") != f.token {
		http.Error(w, `{"error":"etcdserver: invalid auth token","code":16}`, http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/v3/kv/range":
		var kvs []string
		for k, v := range f.keys {
			raw, _ := base64.StdEncoding.DecodeString(k)
			from, _ := base64.StdEncoding.DecodeString(q["key"])
			to, _ := base64.StdEncoding.DecodeString(q["range_end"])
			if string(raw) >= string(from) && string(raw) < string(to) {
				kvs = append(kvs, fmt.Sprintf(`{"key":%q,"value":%q,"create_revision":"2","lease":"7"}`, k, v))
			}
		}
		if kvs == nil {
			fmt.Fprintf(w, `{%s}`, header)
			return
		}
		fmt.Fprintf(w, `{%s,"kvs":[%s],"count":"%d"}`, header, strings.Join(kvs, ","), len(kvs))
	case "/v3/kv/put":
		if _, ok := f.leases[q["lease"]]; !ok {
			http.Error(w, `{"error":"etcdserver: requested lease not found","code":5}`, http.StatusNotFound)
			return
		}
		f.puts++
		f.keys[q["key"]] = q["value"]
		f.leases[q["lease"]] = q["key"]
		fmt.Fprintf(w, `{%s}`, header)
	case "/v3/lease/grant":
		id := fmt.Sprint(time.Now().UnixNano())
		f.leases[id] = ""
		fmt.Fprintf(w, `{%s,"ID":%q,"TTL":%q}`, header, id, q["TTL"])
	case "/v3/lease/keepalive":
		if _, ok := f.leases[q["ID"]]; !ok {
			fmt.Fprintf(w, `{"result":{%s,"ID":%q}}`, header, q["ID"])
			return
		}
		fmt.Fprintf(w, `{"result":{%s,"ID":%q,"TTL":"75"}}`, header, q["ID"])
	case "/v3/lease/revoke":
		delete(f.keys, f.leases[q["ID"]])
		delete(f.leases, q["ID"])
		fmt.Fprintf(w, `{%s}`, header)
	default:
		http.NotFound(w, r)
	}
}

func newFakeEtcd() *fakeEtcd {
	return &fakeEtcd{keys: map[string]string{}, leases: map[string]string{}}
}

func self(n byte, addrs ...string) Self {
	return Self{ID: ident.HostID{n}, Addrs: aps(addrs...), Port: 6783}
}

// round is what the service does.
func round(t *testing.T, s Source, me Self) (Found, error) {
	t.Helper()
	found, err := s.Find(t.Context())
	if err == nil {
		err = s.Register(t.Context(), me)
	}
	return found, err
}

func want(t *testing.T, s Source, me Self, addrs ...string) {
	t.Helper()
	found, err := round(t, s, me)
	if err != nil || fmt.Sprint(found.Addrs) != fmt.Sprint(aps(addrs...)) || !found.Alive {
		t.Helper()
		t.Errorf("%+v, %v; want %v", found, err, addrs)
	}
}

// TestEtcd: two hosts register and find each other by a store of which the first server is down; nothing is written while nothing changes;
// a lease that ended, and a key that somebody removed, are made anew.
func TestEtcd(t *testing.T) {
	f := newFakeEtcd()
	srv := httptest.NewServer(f)
	defer srv.Close()
	dead := httptest.NewServer(nil)
	dead.Close()
	url := "etcd://" + hostOf(dead.URL) + "," + hostOf(srv.URL) + "/weft"
	one, two := open(t, url), open(t, url)
	a, b := self(1, "10.0.0.5:6783", "[fd00::5]:6783"), self(2, "10.0.0.6:7777")
	want(t, one, a)
	want(t, two, b, "10.0.0.5:6783", "[fd00::5]:6783")
	for range 3 {
		want(t, one, a, "10.0.0.5:6783", "10.0.0.6:7777", "[fd00::5]:6783")
	}
	if f.puts != 2 {
		t.Errorf("%d writes, want one of each host", f.puts)
	}
	a.Addrs = aps("10.0.0.9:6783")
	want(t, one, a, "10.0.0.5:6783", "10.0.0.6:7777", "[fd00::5]:6783")
	want(t, one, a, "10.0.0.6:7777", "10.0.0.9:6783")
	f.mu.Lock()
	clear(f.leases) // it lost everything
	clear(f.keys)
	f.mu.Unlock()
	want(t, one, a)
	want(t, one, a, "10.0.0.9:6783")
	f.mu.Lock()
	clear(f.keys)
	f.mu.Unlock()
	want(t, one, a)
	want(t, one, a, "10.0.0.9:6783")
	if err := one.Withdraw(t.Context()); err != nil || len(f.keys) != 0 {
		t.Errorf("withdrawn: %v, %v", f.keys, err)
	}
}

// TestEtcdLogsIn: by a password in a file; tokens end, and passwords change.
func TestEtcdLogsIn(t *testing.T) {
	f := newFakeEtcd()
	f.password = "s3cret"
	srv := httptest.NewServer(f)
	defer srv.Close()
	file := write(t, "s3cret\n", 0o600)
	s := open(t, "etcd://"+hostOf(srv.URL)+"/weft?user=weft&password-file="+file)
	me := self(1, "10.0.0.5:6783")
	want(t, s, me)
	f.mu.Lock()
	f.token = "another"
	f.mu.Unlock()
	want(t, s, me, "10.0.0.5:6783")
	f.mu.Lock()
	f.token, f.password = "third", "other"
	f.mu.Unlock()
	if _, err := round(t, s, me); err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := round(t, open(t, "etcd://"+hostOf(srv.URL)+"/weft"), me); err == nil || !strings.Contains(hintOf(err), "password-file=") {
		t.Errorf("no password: %v (%s)", err, hintOf(err))
	}
	if _, err := round(t, open(t, "etcd://"+hostOf(srv.URL)+"/weft?user=weft&password-file=/nowhere/at/all"), me); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("no file: %v", err)
	}
}

// TestGarbage: what is no answer is one sentence with a hint, shown safely, whichever call it answers.
func TestGarbage(t *testing.T) {
	big := strings.Repeat("[", maxAnswer+1)
	for name, h := range map[string]http.HandlerFunc{
		"a page":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>\x1b[2J login\n") },
		"nothing":  func(http.ResponseWriter, *http.Request) {},
		"null":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `"weft"`) },
		"too much": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, big) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		},
		"an error": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no leader\x1b", http.StatusInternalServerError)
		},
		"denied": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) },
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{")
		},
	} {
		srv := httptest.NewServer(h)
		for _, kind := range []string{"etcd", "consul"} {
			_, err := round(t, open(t, kind+"://"+hostOf(srv.URL)+"/weft"), self(1, "10.0.0.5:6783"))
			if err == nil || hintOf(err) == "" || len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%s, %s: %v (hint %s)", kind, name, err, hintOf(err))
			}
		}
		srv.Close()
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"header":{},"kvs":[{"key":"YQ==","value":%q}]}`, base64.StdEncoding.EncodeToString([]byte("hello\n224.0.0.1\n")))
	}))
	defer srv.Close()
	if _, err := round(t, open(t, "etcd://"+hostOf(srv.URL)+"/weft"), self(1, "10.0.0.5:6783")); err == nil || !strings.Contains(err.Error(), `has no usable address: "hello" is neither`) {
		t.Errorf("values that are no addresses: %v", err)
	}
}

// TestTLS: a store's certificate is checked, by an authority in a file.
func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(newFakeEtcd())
	defer srv.Close()
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})), 0o644)
	me := self(1, "10.0.0.5:6783")
	want(t, open(t, "etcd+https://"+hostOf(srv.URL)+"/weft?ca="+ca), me)
	if _, err := round(t, open(t, "etcd+https://"+hostOf(srv.URL)+"/weft"), me); err == nil || !strings.Contains(hintOf(err), "ca=FILE") {
		t.Errorf("an unknown authority: %v (%s)", err, hintOf(err))
	}
	if _, err := New("etcd+https://h/weft?ca="+write(t, "no certificate", 0o644), Environment{}); err == nil {
		t.Error("an authority without a certificate is taken")
	}
}

// TestLost: a store that is not there is said in one sentence.
func TestLost(t *testing.T) {
	srv := httptest.NewServer(nil)
	srv.Close()
	_, err := open(t, "consul://"+hostOf(srv.URL)+"/weft").Find(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is not reached") || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "/v1/") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, "etcd://"+hostOf(srv.URL)+"/weft").Find(ctx); err == nil {
		t.Error("no error although the context has ended")
	}
}

func FuzzEtcd(f *testing.F) {
	f.Add([]byte(`{"header":{"revision":"1"},"kvs":[{"key":"d2VmdC8x","value":"MTAuMC4wLjU="}]}`))
	f.Add([]byte(`{"result":{"ID":"5","TTL":"7"},"ID":"5","token":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, _, err := parseEtcdKeys(b, "weft/1", 6783); err == nil {
			sound(t, g.Found)
		}
		_, _ = parseEtcdKeepAlive(b)
		if id, err := parseEtcdLease(b); err == nil && id == "" {
			t.Fatal("a lease without a number")
		}
		if token, err := parseEtcdToken(b); err == nil && strings.ContainsAny(token, "\r\n ") {
			t.Fatalf("token %q", token)
		}
	})
}

func FuzzConsul(f *testing.F) {
	f.Add([]byte(`[{"Key":"weft/1","Value":"MTAuMC4wLjU=","Session":"s","Flags":0}]`))
	f.Add([]byte(`{"ID":"01234567-89ab-cdef-0123-456789abcdef"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, _, err := parseConsulKeys(b, "weft/1", 6783); err == nil {
			sound(t, g.Found)
		}
		if id, err := parseConsulSession(b); err == nil && (len(id) != 36 || strings.ContainsAny(id, "/?#")) {
			t.Fatalf("session %q", id)
		}
		_, _ = parseConsulTruth(b)
	})
}

// fakeDNS answers with what it has.
type fakeDNS struct {
	srv   map[string][]string // "host port"
	addrs map[string][]netip.Addr
	err   error
}

var errNoDNS = errors.New("cannot unmarshal DNS message\n\x1b")
