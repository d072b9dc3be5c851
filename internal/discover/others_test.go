package discover

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (f fakeDNS) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if f.err != nil || service+proto != "" {
		return "", nil, f.err
	}
	var out []*net.SRV
	for _, s := range f.srv[name] {
		r := &net.SRV{}
		_, _ = fmt.Sscan(s, &r.Target, &r.Port)
		out = append(out, r)
	}
	if out == nil {
		return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return name, out, nil
}

func (f fakeDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if f.err != nil {
		return nil, f.err
	}
	if f.addrs[host] == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return f.addrs[host], nil
}

// ask makes a source of DNS with a resolver.
func byDNS(t *testing.T, text string, f fakeDNS) (Found, error) {
	t.Helper()
	s := open(t, text)
	s.(*names).dns = f
	return s.Find(t.Context())
}

// TestDNS: SRV records say hosts and ports; one host that has no address is no reason to be without the others; of garbage one sentence is left.
func TestDNS(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::6")
	f := fakeDNS{
		srv:   map[string][]string{"_weft._udp.example.org": {"one.example.org. 7777", "gone.example.org. 1", "two.example.org. 6783", "local.example.org. 1"}},
		addrs: map[string][]netip.Addr{"one.example.org": {a}, "two.example.org": {b, a}, "local.example.org": {netip.MustParseAddr("127.0.1.1")}, "weft.example.org": {b, a}},
	}
	for text, want := range map[string]string{
		"dns+srv://_weft._udp.example.org": "[10.0.0.5:6783 10.0.0.5:7777 [fd00::6]:6783]",
		"dns+srv://example.org":            "[10.0.0.5:6783 10.0.0.5:7777 [fd00::6]:6783]",
		"dns://weft.example.org":           "[10.0.0.5:6783 [fd00::6]:6783]",
		"dns://weft.example.org:7777":      "[10.0.0.5:7777 [fd00::6]:7777]",
	} {
		got, err := byDNS(t, text, f)
		if err != nil || fmt.Sprint(got.Addrs) != want || got.Alive || (got.Refused == 1) != strings.Contains(text, "srv") {
			t.Errorf("%s: %+v, %v; want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"dns://local.example.org": "every host's own address", "dns://nowhere.example.org": "no such name", "dns+srv://nowhere.example.org": "no such name"} {
		if _, err := byDNS(t, text, f); err == nil || !strings.Contains(err.Error(), want) || hintOf(err) == "" {
			t.Errorf("%s: %v", text, err)
		}
	}
	f.srv["_weft._udp.example.org"] = []string{"gone.example.org. 1"}
	if _, err := byDNS(t, "dns+srv://example.org", f); err == nil || !strings.Contains(err.Error(), "gone.example.org") {
		t.Errorf("no host has an address: %v", err)
	}
	for _, text := range []string{"dns://x.example.org", "dns+srv://x.example.org"} {
		for _, f := range []fakeDNS{{err: errNoDNS}, {err: &net.DNSError{Err: "server misbehaving\n", Name: "x"}}, {err: &net.DNSError{Err: "timeout", IsTimeout: true}}} {
			if _, err := byDNS(t, text, f); err == nil || hintOf(err) == "" || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%s: %v (%s)", text, err, hintOf(err))
			}
		}
	}
}

func script(t *testing.T, text string) *program {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, "exec:"+path+" one *")
	return s.(*program)
}

// TestExec: a program prints addresses, gets its words as they are and none of our environment; one that fails, prints garbage or does not end
// is one sentence.
func TestExec(t *testing.T) {
	t.Setenv("WEFT_TOKEN", "s3cret")
	got, err := script(t, `[ "$#" = 2 ] && [ "$2" = '*' ] && [ -z "$WEFT_TOKEN" ] && [ "$PWD" = / ] && ! read x && printf '10.0.0.5\n[fd00::5]:7\n'`).Find(t.Context())
	if err != nil || fmt.Sprint(got.Addrs) != "[10.0.0.5:6783 [fd00::5]:7]" || got.Alive {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"echo first >&2; printf 'no\033cloud' >&2; exit 3": "exit status 3: no?cloud",
		"exit 1":                        "exit status 1",
		"echo 10.0.0.5; kill -9 $$":     "killed",
		"echo hello":                    `"hello" is neither`,
		"yes 10.0.0.5 | head -c 200000": "prints more than",
	} {
		if _, err := script(t, text).Find(t.Context()); err == nil || !strings.Contains(err.Error(), want) || hintOf(err) == "" {
			t.Errorf("%s: %v (%s), want %q", text, err, hintOf(err), want)
		}
	}
	if got, err := script(t, "").Find(t.Context()); err != nil || len(got.Addrs) != 0 {
		t.Errorf("nothing printed: %+v, %v", got, err)
	}
	p := script(t, "sleep 1000 & sleep 1000")
	p.time = 300 * time.Millisecond
	began := time.Now()
	if _, err := p.Find(t.Context()); err == nil || !strings.Contains(err.Error(), "was killed") || time.Since(began) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if _, err := open(t, "exec:/nowhere/at/all").Find(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("%v", err)
	}
}

// engine is Docker's API on a unix socket.
func engine(t *testing.T, answers map[string]string) Source {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.URL.Path]
		if !ok || r.Method != http.MethodGet {
			t.Errorf("%s %s was called", r.Method, r.URL)
			http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
			return
		}
		fmt.Fprint(w, text)
	})}}
	srv.Start()
	t.Cleanup(func() { srv.Close(); _ = os.RemoveAll(dir) })
	return open(t, "swarm://"+l.Addr().String())
}

// TestSwarm: a manager tells all nodes that are not down, a worker the managers; the ports are Docker's own.
func TestSwarm(t *testing.T) {
	manager := engine(t, map[string]string{
		"/info": `{"Swarm":{"NodeAddr":"10.0.0.5","LocalNodeState":"active","ControlAvailable":true,"RemoteManagers":[{"NodeID":"a","Addr":"10.0.0.5:2377"}]},"Plugins":{}}`,
		"/nodes": `[{"Status":{"State":"ready","Addr":"0.0.0.0"},"ManagerStatus":{"Leader":true,"Addr":"10.0.0.5:2377"}},{"Status":{"State":"ready","Addr":"10.0.0.6"}},
			{"Status":{"State":"down","Addr":"10.0.0.7"}},{"Status":{"State":"unknown","Addr":"fd00::8"}}]`,
	})
	if got, err := manager.Find(t.Context()); err != nil || fmt.Sprint(got.Addrs) != "[10.0.0.5:6783 10.0.0.6:6783 [fd00::8]:6783]" || got.Refused != 0 || got.Alive {
		t.Errorf("a manager: %+v, %v", got, err)
	}
	worker := engine(t, map[string]string{"/info": `{"Swarm":{"LocalNodeState":"active","RemoteManagers":[{"Addr":"10.0.0.5:2377"},{"Addr":"[fd00::8]:2377"}]}}`})
	if got, err := worker.Find(t.Context()); err != nil || fmt.Sprint(got.Addrs) != "[10.0.0.5:6783 [fd00::8]:6783]" {
		t.Errorf("a worker: %+v, %v", got, err)
	}
	for text, want := range map[string]string{
		`{"Swarm":{"LocalNodeState":"inactive"}}`: "in no swarm (inactive)",
		`{}`:     "says nothing of a swarm",
		`[]`:     "is not Docker",
		"\x1bPQ": "is not Docker",
		`{"Swarm":{"LocalNodeState":"active","RemoteManagers":[{"Addr":"x"}]}}`: "no usable address",
	} {
		if _, err := engine(t, map[string]string{"/info": text}).Find(t.Context()); err == nil || !strings.Contains(err.Error(), want) || hintOf(err) == "" {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := open(t, "swarm:///nowhere/docker.sock").Find(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere/docker.sock") || hintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func FuzzSwarm(f *testing.F) {
	f.Add([]byte(`{"Swarm":{"LocalNodeState":"active","ControlAvailable":true,"RemoteManagers":[{"Addr":"10.0.0.5:2377"}]}}`))
	f.Add([]byte(`[{"Status":{"State":"ready","Addr":"0.0.0.0"},"ManagerStatus":{"Addr":"10.0.0.5:2377"}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var g gather
		_, _ = g.swarmInfo(b, 6783)
		_ = g.swarmNodes(b, 6783)
		sound(t, g.Found)
	})
}
