package discover

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/netmon"
)

// Environment is what sources need of the host.
type Environment struct {
	// Port is where hosts listen whose port a source does not tell.
	Port uint16
	// Interfaces are the addresses of this host on the underlay.
	Interfaces func() []netmon.Addr
	// Key authenticates beacons on the local segment; nil: this host has no token yet, and hears strangers only.
	Key func() *Key
}

// spec is a source as people write it, taken apart.
type spec struct {
	text  string
	hosts []string // HOST:PORT
	name  string   // what follows the hosts, without slashes around it
	query url.Values
}

// kinds of sources by scheme; those that end in // are followed by hosts and a name.
var kinds = map[string]func(spec, Environment) (Source, error){
	"consul":       func(s spec, e Environment) (Source, error) { return newConsul(s, e, "http") },
	"consul+https": func(s spec, e Environment) (Source, error) { return newConsul(s, e, "https") },
	"etcd":         func(s spec, e Environment) (Source, error) { return newEtcd(s, e, "http") },
	"etcd+https":   func(s spec, e Environment) (Source, error) { return newEtcd(s, e, "https") },
	"dns":          func(s spec, e Environment) (Source, error) { return newDNS(s, e, false) },
	"dns+srv":      func(s spec, e Environment) (Source, error) { return newDNS(s, e, true) },
	"swarm":        newSwarm,
}

// forms are all ways to name a source.
const forms = "consul://HOST:8500/NAME, etcd://HOST:2379[,HOST...]/NAME, dns+srv://_weft._udp.NAME, dns://NAME, lan, exec:/PROGRAM, swarm"

// New makes a source of what a person wrote. It talks to nobody.
func New(text string, e Environment) (Source, error) {
	switch {
	case len(text) > 1024 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, fmt.Errorf("want one of %s", forms)
	case text == "lan":
		return newLAN(e), nil
	case text == "swarm":
		return newSwarm(spec{text: text}, e)
	}
	if cmd, ok := strings.CutPrefix(text, "exec:"); ok {
		return newExec(cmd, e)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	build, known := kinds[scheme]
	if !ok || !known {
		return nil, fmt.Errorf("want one of %s", forms)
	}
	s, err := parseSpec(text, rest)
	if err != nil {
		return nil, err
	}
	return build(s, e)
}

// parseSpec takes HOST:PORT,HOST:PORT/NAME?KEY=VALUE apart.
func parseSpec(text, rest string) (spec, error) {
	s := spec{text: text}
	rest, query, _ := strings.Cut(rest, "?")
	var err error
	if s.query, err = url.ParseQuery(query); err != nil {
		return s, fmt.Errorf("after the ?: %w", err)
	}
	for k, v := range s.query {
		if len(v) != 1 || v[0] == "" {
			return s, fmt.Errorf("want %s=VALUE once", k)
		}
	}
	hosts, name, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") {
		return s, fmt.Errorf("no user or password here, where everybody reads it: %s", "put it into a file, and name that")
	}
	s.name = strings.Trim(name, "/")
	if hosts != "" {
		s.hosts = strings.Split(hosts, ",")
	}
	return s, nil
}

// only refuses settings behind the ? that the source does not know. Those that name a file must be absolute: a daemon's directory may change.
func (s spec) only(names ...string) error {
	for k, v := range s.query {
		switch {
		case !slices.Contains(names, k):
			if len(names) == 0 {
				return fmt.Errorf("no setting %s= here", k)
			}
			return fmt.Errorf("no setting %s= here; there are %s", k, strings.Join(names, ", "))
		case fileSetting(k) && !path.IsAbs(v[0]):
			return fmt.Errorf("%s=%s: want an absolute path", k, v[0])
		}
	}
	return nil
}

func fileSetting(k string) bool { return k != "user" && k != "port" }

// store checks what names a store: hosts, each with a port, and a name under which the cluster's hosts are kept.
func (s spec) store(defaultPort string) (spec, error) {
	if len(s.hosts) == 0 || len(s.hosts) > 16 || s.name == "" {
		return s, fmt.Errorf("want HOST:PORT, several with commas (16 at most), and a name, as in //10.0.0.5:%s/weft", defaultPort)
	}
	if len(s.name) > 128 || strings.Contains(s.name, "//") || strings.Trim(s.name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") != "" || slices.Contains(strings.Split(s.name, "/"), "..") {
		return s, fmt.Errorf("name %q: use letters, digits, and - _ . /, 128 of them at most", s.name)
	}
	hosts := slices.Clone(s.hosts)
	for i, h := range hosts {
		var err error
		if hosts[i], err = withPort(h, defaultPort); err != nil {
			return s, err
		}
	}
	s.hosts = hosts
	return s, nil
}

// withPort completes HOST, HOST:PORT, or an IPv6 address with or without brackets.
func withPort(h, port string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(h, "[]")); err == nil {
		if a.Is6() {
			return "[" + a.String() + "]:" + port, nil
		}
		return a.String() + ":" + port, nil
	}
	if !strings.Contains(h, ":") {
		h += ":" + port
	}
	u, err := url.Parse("http://" + h + "/")
	if err != nil || u.Host != h || u.Hostname() == "" || u.Port() == "" {
		return "", fmt.Errorf("%q is no HOST:PORT", h)
	}
	return h, nil
}
