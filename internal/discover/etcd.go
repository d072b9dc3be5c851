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

// etcd is a store that speaks etcd's version 3 as JSON (etcd.io/docs/v3.5/dev-guide/api_grpc_gateway): keys and values are base64, which
// encoding/json makes of []byte, and numbers are texts. A host's key is NAME/HOSTID, its value EncodeAddresses, and it goes when its lease ends.
type etcd struct {
	*caller
	name       string
	port       uint16
	user, file string // file has the password

	token string // of the present log-in
	lease string // number of this host's
	own   string // key
	kept  []byte // what the store had for it when last asked; nil: nothing
	saved []byte // what this host put under the present lease
}

func newEtcd(s spec, e Environment, scheme string) (Source, error) {
	s, err := s.store("2379")
	if err != nil {
		return nil, err
	}
	if err := s.only("user", "password-file", "ca", "cert", "key"); err != nil {
		return nil, err
	}
	d := &etcd{name: s.name, port: e.Port, user: s.query.Get("user"), file: s.query.Get("password-file")}
	if (d.user == "") != (d.file == "") {
		return nil, errors.New("a user needs both: user=NAME and password-file=FILE")
	}
	if d.caller, err = newCaller(scheme, s); err != nil {
		return nil, err
	}
	return d, nil
}

type (
	etcdRange struct {
		Key      []byte `json:"key"`
		RangeEnd []byte `json:"range_end"`
		Limit    string `json:"limit"`
	}
	etcdPut struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
		Lease string `json:"lease"`
	}
	etcdHeader struct {
		Revision string `json:"revision"`
	}
	etcdKeys struct {
		Header *etcdHeader `json:"header"`
		KVs    []struct {
			Key   []byte `json:"key"`
			Value []byte `json:"value"`
		} `json:"kvs"`
	}
	etcdLease struct {
		ID  string `json:"ID"`
		TTL string `json:"TTL"`
	}
	etcdKeepAlive struct {
		Result *etcdLease `json:"result"`
	}
)

// parseEtcdKeys reads the answer to a range: the addresses of all hosts, and the value of the key own, nil when there is none.
func parseEtcdKeys(b []byte, own string, port uint16) (g gather, kept []byte, err error) {
	var answer etcdKeys
	if err := decode("etcd", b, &answer); err != nil {
		return g, nil, err
	}
	if answer.Header == nil { // each answer of etcd's has one
		return g, nil, fault("is it etcd that listens there?", "what answers is not etcd: %s", shown(string(b[:min(len(b), 60)])))
	}
	g.Alive = true
	for _, kv := range answer.KVs {
		if string(kv.Key) == own {
			kept = kv.Value
		}
		g.text(kv.Value, port)
	}
	return g, kept, nil
}

func (d *etcd) Find(ctx context.Context) (Found, error) {
	from, to := []byte(d.name+"/"), []byte(d.name+"0") // "0" follows "/"
	b, err := d.ask(ctx, "/v3/kv/range", etcdRange{Key: from, RangeEnd: to, Limit: strconv.Itoa(MaxFound)})
	if err != nil {
		return Found{}, err
	}
	g, kept, err := parseEtcdKeys(b, d.own, d.port)
	if err != nil {
		return Found{}, err
	}
	d.kept = kept
	return g.all("etcd under " + d.name + "/")
}

func (d *etcd) Register(ctx context.Context, self Self) error {
	d.own = d.name + "/" + self.ID.String()
	value := EncodeAddresses(self.Addrs)
	if len(value) == 0 {
		return nil // nothing to say yet
	}
	fresh, err := d.renew(ctx)
	if err != nil {
		return err
	}
	if !fresh && bytes.Equal(value, d.kept) && bytes.Equal(value, d.saved) {
		return nil
	}
	if _, err := d.ask(ctx, "/v3/kv/put", etcdPut{Key: []byte(d.own), Value: value, Lease: d.lease}); err != nil {
		return err
	}
	d.saved, d.kept = value, value
	return nil
}

// renew keeps the lease alive, or takes a new one.
func (d *etcd) renew(ctx context.Context) (fresh bool, err error) {
	if d.lease != "" {
		b, err := d.ask(ctx, "/v3/lease/keepalive", etcdLease{ID: d.lease})
		if err != nil {
			return false, err
		}
		alive, err := parseEtcdKeepAlive(b)
		if err != nil || alive {
			return false, err
		}
	}
	b, err := d.ask(ctx, "/v3/lease/grant", etcdLease{TTL: strconv.Itoa(int(Lease / time.Second)), ID: "0"})
	if err != nil {
		return false, err
	}
	if d.lease, err = parseEtcdLease(b); err != nil {
		return false, err
	}
	return true, nil
}

// parseEtcdKeepAlive tells whether a lease lives: of one that has ended the TTL is 0, which JSON leaves out.
func parseEtcdKeepAlive(b []byte) (bool, error) {
	var answer etcdKeepAlive
	if err := decode("etcd", b, &answer); err != nil {
		return false, err
	}
	if answer.Result == nil {
		return false, fault("is it etcd that listens there?", "what answers is not etcd: %s", shown(string(b[:min(len(b), 60)])))
	}
	ttl, err := strconv.Atoi(answer.Result.TTL)
	return err == nil && ttl > 0, nil
}

// parseEtcdLease returns the number of a lease that was granted.
func parseEtcdLease(b []byte) (string, error) {
	var answer etcdLease
	if err := decode("etcd", b, &answer); err != nil {
		return "", err
	}
	if id, err := strconv.ParseInt(answer.ID, 10, 64); err != nil || id == 0 {
		return "", fault("is it etcd that listens there?", "etcd grants a lease without a number: %s", shown(string(b[:min(len(b), 60)])))
	}
	return answer.ID, nil
}

func (d *etcd) Withdraw(ctx context.Context) error {
	if d.lease == "" {
		return nil
	}
	_, err := d.ask(ctx, "/v3/lease/revoke", etcdLease{ID: d.lease})
	d.lease, d.saved = "", nil
	return err
}

// ask calls etcd, logs in where it must, and says what its errors mean.
func (d *etcd) ask(ctx context.Context, path string, request any) ([]byte, error) {
	for again := false; ; again = true {
		if d.user != "" && d.token == "" {
			if err := d.login(ctx); err != nil {
				return nil, err
			}
		}
		b, err := d.post(ctx, path, request)
		var status *errStatus
		if errors.As(err, &status) && d.token != "" && !again && (status.code == http.StatusUnauthorized || strings.Contains(status.text, "invalid auth token")) {
			d.token = "" // they end
			continue
		}
		return b, etcdMeans(err)
	}
}

func (d *etcd) post(ctx context.Context, path string, request any) ([]byte, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if d.token != "" {
		header.Set("Authorization", d.token)
	}
	return d.call(ctx, http.MethodPost, path, header, body)
}

// login exchanges the password, read anew each time, for a token.
func (d *etcd) login(ctx context.Context) error {
	password, err := secret(d.file)
	if err != nil {
		return err
	}
	b, err := d.post(ctx, "/v3/auth/authenticate", map[string]string{"name": d.user, "password": password})
	if err != nil {
		return etcdMeans(err)
	}
	d.token, err = parseEtcdToken(b)
	return err
}

func parseEtcdToken(b []byte) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	if err := decode("etcd", b, &answer); err != nil {
		return "", err
	}
	if answer.Token == "" || len(answer.Token) > maxSecret || strings.ContainsFunc(answer.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fault("is it etcd that listens there?", "etcd logs in without a token")
	}
	return answer.Token, nil
}

// etcdMeans turns a status into a sentence with a hint.
func etcdMeans(err error) error {
	var status *errStatus
	if !errors.As(err, &status) {
		return err
	}
	text := fmt.Sprintf("etcd refuses: status %d, %s", status.code, status.text)
	switch {
	case status.code == http.StatusNotFound:
		return fault("etcd 3.4 or later, with its gRPC gateway on (enable-grpc-gateway)", "no etcd API v3 there: status 404")
	case strings.Contains(status.text, "user name is empty"), status.code == http.StatusUnauthorized:
		return fault("give user=NAME and password-file=FILE", "%s", text)
	case strings.Contains(status.text, "permission denied"), status.code == http.StatusForbidden:
		return fault("let that user read and write keys under the name", "%s", text)
	}
	return fault("the log of etcd says more", "%s", text)
}
