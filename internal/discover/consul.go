package discover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// consul keeps hosts in Consul's key-value store (developer.hashicorp.com/consul/api-docs): key NAME/HOSTID, value EncodeAddresses, held by
// a session that ends when it is not renewed, and the key with it. It works with any agent, and with several that are asked in turn.
type consul struct {
	*caller
	name  string
	port  uint16
	file  string // with the ACL token
	own   string // key
	id    string // session
	kept  []byte // what the store had for own when last asked
	by    string // and the session that holds it
	saved []byte
}

func newConsul(s spec, e Environment, scheme string) (Source, error) {
	s, err := s.store("8500")
	if err != nil {
		return nil, err
	}
	if err := s.only("token-file", "ca", "cert", "key"); err != nil {
		return nil, err
	}
	c := &consul{name: s.name, port: e.Port, file: s.query.Get("token-file")}
	if c.caller, err = newCaller(scheme, s); err != nil {
		return nil, err
	}
	return c, nil
}

type (
	consulKey struct {
		Key     string
		Value   []byte
		Session string
	}
	consulSession struct {
		ID        string `json:",omitempty"`
		Name      string `json:",omitempty"`
		TTL       string `json:",omitempty"`
		Behavior  string `json:",omitempty"`
		LockDelay string `json:",omitempty"`
	}
)

// parseConsulKeys reads all keys below a name: the addresses of hosts, and what there is of the key own.
func parseConsulKeys(b []byte, own string, port uint16) (g gather, mine consulKey, err error) {
	var keys []consulKey
	if err := decode("Consul", b, &keys); err != nil {
		return g, mine, err
	}
	g.Alive = true
	for _, k := range keys {
		if k.Key == own {
			mine = k
		}
		if k.Session == "" {
			continue // left behind by nobody who is there
		}
		g.text(k.Value, port)
	}
	return g, mine, nil
}

func (c *consul) Find(ctx context.Context) (Found, error) {
	b, err := c.ask(ctx, http.MethodGet, "/v1/kv/"+c.name+"/?recurse=true", nil)
	var status *errStatus
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		b, err = []byte("[]"), nil // no such key: that is how Consul says so
	}
	if err != nil {
		return Found{}, consulMeans(err)
	}
	g, mine, err := parseConsulKeys(b, c.own, c.port)
	if err != nil {
		return Found{}, err
	}
	c.kept, c.by = mine.Value, mine.Session
	return g.all("Consul under " + c.name + "/")
}

func (c *consul) Register(ctx context.Context, self Self) error {
	c.own = c.name + "/" + self.ID.String()
	value := EncodeAddresses(self.Addrs)
	if len(value) == 0 {
		return nil
	}
	if err := c.renew(ctx, self); err != nil {
		return consulMeans(err)
	}
	if c.by == c.id && bytes.Equal(value, c.kept) && bytes.Equal(value, c.saved) {
		return nil
	}
	for again := false; ; again = true {
		b, err := c.ask(ctx, http.MethodPut, "/v1/kv/"+c.own+"?acquire="+c.id, value)
		if err != nil {
			return consulMeans(err)
		}
		held, err := parseConsulTruth(b)
		switch {
		case err != nil:
			return err
		case held:
			c.saved, c.kept, c.by = value, value, c.id
			return nil
		case again:
			return fault("a session of Consul's ends after a minute or two, and its key with it; tried again", "key %s is held by another session", c.own)
		}
		// By the session of this host's last run, most likely: nobody else has its HostID.
		if _, err := c.Find(ctx); err != nil {
			return err
		}
		if len(c.by) == 36 && strings.Trim(c.by, "0123456789abcdefABCDEF-") == "" && c.by != c.id {
			if _, err := c.ask(ctx, http.MethodPut, "/v1/session/destroy/"+c.by, nil); err != nil {
				return consulMeans(err)
			}
		}
	}
}

// renew renews the session, or makes a new one.
func (c *consul) renew(ctx context.Context, self Self) error {
	if c.id != "" {
		_, err := c.ask(ctx, http.MethodPut, "/v1/session/renew/"+c.id, nil)
		var status *errStatus
		if err == nil || !errors.As(err, &status) || status.code != http.StatusNotFound {
			return err
		}
		c.id = ""
	}
	body, err := json.Marshal(consulSession{
		Name: "weft " + self.ID.Short(), TTL: strconv.Itoa(int(Lease/time.Second)) + "s", Behavior: "delete", LockDelay: "0s",
	})
	if err != nil {
		return err
	}
	b, err := c.ask(ctx, http.MethodPut, "/v1/session/create", body)
	if err != nil {
		return err
	}
	c.id, err = parseConsulSession(b)
	return err
}

// parseConsulSession returns the name of a session that was made: a UUID.
func parseConsulSession(b []byte) (string, error) {
	var s consulSession
	if err := decode("Consul", b, &s); err != nil {
		return "", err
	}
	if len(s.ID) != 36 || strings.Trim(s.ID, "0123456789abcdefABCDEF-") != "" {
		return "", fault("is it Consul that listens there?", "Consul makes a session without a name: %s", shown(string(b[:min(len(b), 60)])))
	}
	return s.ID, nil
}

// parseConsulTruth reads what Consul says to a lock: true or false.
func parseConsulTruth(b []byte) (bool, error) {
	var yes bool
	err := decode("Consul", b, &yes)
	return yes, err
}

func (c *consul) Withdraw(ctx context.Context) error {
	if c.id == "" {
		return nil
	}
	_, err := c.ask(ctx, http.MethodPut, "/v1/session/destroy/"+c.id, nil)
	c.id, c.saved = "", nil
	return consulMeans(err)
}

// ask calls Consul; the token is read anew each time, since such tokens change.
func (c *consul) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	header := http.Header{}
	if c.file != "" {
		token, err := secret(c.file)
		if err != nil {
			return nil, err
		}
		header.Set("X-Consul-Token", token)
	}
	return c.call(ctx, method, path, header, body)
}

// consulMeans turns a status into a sentence with a hint.
func consulMeans(err error) error {
	var status *errStatus
	if !errors.As(err, &status) {
		return err
	}
	text := fmt.Sprintf("Consul refuses: status %d, %s", status.code, status.text)
	switch status.code {
	case http.StatusForbidden, http.StatusUnauthorized:
		return fault("token-file=FILE with a token that may write keys under the name, and sessions", "%s", text)
	case http.StatusNotFound:
		return fault("is it Consul's HTTP API that listens there?", "%s", text)
	}
	return fault("the log of Consul says more", "%s", text)
}
