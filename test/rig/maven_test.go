package rig

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A jar is fetched once, must be what the list says, and what cannot be had is an error that names it.
func TestJar(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path != "/a.jar" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte("a jar"))
	}))
	defer s.Close()
	local := filepath.Join(t.TempDir(), "deep", "a.jar")
	sum := hexSum([]byte("a jar"))
	for range 2 {
		if err := jar(s.URL+"/a.jar", local, sum); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(local); err != nil || string(b) != "a jar" || asked != 1 {
		t.Errorf("%q, %v, asked %d times", b, err, asked)
	}
	if err := os.WriteFile(local, []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := jar(s.URL+"/a.jar", local, sum); err != nil || asked != 2 {
		t.Errorf("what is damaged in the cache: %v, asked %d times", err, asked)
	}
	for url, want := range map[string]string{
		s.URL + "/b.jar":           "404",
		s.URL + "/a.jar":           "want another",
		"http://127.0.0.1:1/a.jar": "refused",
	} {
		err := jar(url, local, "another")
		if err == nil || !strings.Contains(err.Error(), url) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want the address and %q", url, err, want)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(local)); err != nil || len(left) != 1 {
		t.Errorf("in the cache: %v, %v", left, err)
	}
}
