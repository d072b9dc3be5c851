package discovertest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Consul answers as Consul's HTTP API does where discovery calls it: sessions with a TTL and the behaviour delete, and keys that a session
// holds (developer.hashicorp.com/consul/api-docs/session, /kv). What it does not know it refuses, as that does.
type Consul struct {
	// Token is what X-Consul-Token must be; empty: anything.
	Token string
	// Now is the time; nil: the clock's.
	Now func() time.Time

	mu       sync.Mutex
	sessions map[string]*consulSession
	keys     map[string]*consulKey
	writes   int
}

type consulSession struct {
	ttl time.Duration
	end time.Time
}

type consulKey struct {
	Key         string
	Value       []byte
	Flags       uint64
	Session     string `json:",omitempty"`
	LockIndex   int
	CreateIndex int
	ModifyIndex int
}

// Writes returns how often a key was written.
func (c *Consul) Writes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

// Keys lists the keys that there are.
func (c *Consul) Keys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	var out []string
	for k := range c.keys {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (c *Consul) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// expire ends sessions that were not renewed, and the keys they held. Consul takes up to twice the TTL for it.
func (c *Consul) expire() {
	for id, s := range c.sessions {
		if c.now().After(s.end) {
			c.destroy(id)
		}
	}
}

func (c *Consul) destroy(id string) {
	delete(c.sessions, id)
	for k, v := range c.keys {
		if v.Session == id {
			delete(c.keys, k)
		}
	}
}

// ServeHTTP answers a call.
func (c *Consul) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions == nil {
		c.sessions, c.keys = map[string]*consulSession{}, map[string]*consulKey{}
	}
	c.expire()
	if c.Token != "" && r.Header.Get("X-Consul-Token") != c.Token {
		http.Error(w, "Permission denied: token with AccessorID '00000000-0000-0000-0000-000000000002' lacks permission", http.StatusForbidden)
		return
	}
	if r.Method == http.MethodPut && r.URL.Path == "/v1/session/create" {
		c.create(w, r)
		return
	}
	for _, call := range []struct {
		method, prefix string
		do             func(http.ResponseWriter, *http.Request, string)
	}{
		{http.MethodPut, "/v1/session/renew/", c.renew},
		{http.MethodPut, "/v1/session/destroy/", c.end},
		{http.MethodGet, "/v1/kv/", c.get},
		{http.MethodPut, "/v1/kv/", c.put},
	} {
		if arg, ok := strings.CutPrefix(r.URL.Path, call.prefix); ok && r.Method == call.method {
			call.do(w, r, arg)
			return
		}
	}
	http.Error(w, "Invalid URL path: not a recognized HTTP API endpoint", http.StatusNotFound)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (c *Consul) create(w http.ResponseWriter, r *http.Request) {
	var s struct{ Name, TTL, Behavior, LockDelay string }
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		http.Error(w, "Request decode failed: "+err.Error(), http.StatusBadRequest)
		return
	}
	ttl, err := time.ParseDuration(s.TTL)
	if err != nil || ttl < 10*time.Second || ttl > 24*time.Hour {
		http.Error(w, fmt.Sprintf("Invalid Session TTL '%s', must be between [10s=24h0m0s]", s.TTL), http.StatusInternalServerError)
		return
	}
	if s.Behavior != "delete" {
		http.Error(w, fmt.Sprintf("Invalid Behavior setting '%s'", s.Behavior), http.StatusBadRequest)
		return
	}
	var b [16]byte
	_, _ = rand.Read(b[:])
	id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	c.sessions[id] = &consulSession{ttl: ttl, end: c.now().Add(ttl)}
	answer(w, map[string]string{"ID": id})
}

func (c *Consul) renew(w http.ResponseWriter, _ *http.Request, id string) {
	s := c.sessions[id]
	if s == nil {
		http.Error(w, fmt.Sprintf("Session id '%s' not found", id), http.StatusNotFound)
		return
	}
	s.end = c.now().Add(s.ttl)
	answer(w, []map[string]string{{"ID": id, "TTL": s.ttl.String()}})
}

func (c *Consul) end(w http.ResponseWriter, _ *http.Request, id string) {
	c.destroy(id)
	answer(w, true)
}

func (c *Consul) get(w http.ResponseWriter, r *http.Request, key string) {
	out := []consulKey{}
	for k, v := range c.keys {
		if k == key || r.URL.Query().Has("recurse") && strings.HasPrefix(k, key) {
			out = append(out, *v)
		}
	}
	if len(out) == 0 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	slices.SortFunc(out, func(a, b consulKey) int { return strings.Compare(a.Key, b.Key) })
	answer(w, out)
}

func (c *Consul) put(w http.ResponseWriter, r *http.Request, key string) {
	b, err := io.ReadAll(io.LimitReader(r.Body, 512<<10))
	if err != nil || key == "" {
		http.Error(w, "Missing key name", http.StatusBadRequest)
		return
	}
	k := c.keys[key]
	if id := r.URL.Query().Get("acquire"); id != "" {
		if c.sessions[id] == nil {
			http.Error(w, fmt.Sprintf("rpc error making call: invalid session %q", id), http.StatusInternalServerError)
			return
		}
		if k != nil && k.Session != "" && k.Session != id {
			answer(w, false)
			return
		}
		if k == nil {
			k = &consulKey{Key: key}
			c.keys[key] = k
		}
		k.Session = id
	}
	if k == nil {
		k = &consulKey{Key: key}
		c.keys[key] = k
	}
	c.writes++
	k.Value, k.ModifyIndex = b, c.writes
	answer(w, true)
}
