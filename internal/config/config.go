// Package config turns flags, environment and a YAML file into what `weft up` needs: flags win over
// WEFT_* variables, these over the file, the file over defaults. It reads no file itself.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/weft-net/weft/internal/ident"
)

// Up is the configuration of a host's daemon.
type Up struct {
	Seeds     []string // hosts to join by
	Token     string   // never printed
	TokenFile string
	Name      string // default: the host's own name, filled in by the caller
	Port      int    // UDP and TCP
	Advertise string // IP or IP:PORT
	Range     netip.Prefix
	Ephemeral bool
	Force     bool
	Replace   bool   // take the place of a running daemon of the same version, too
	API       string // TCP address of the API; empty: the unix socket only
	// NATS is where NATS clients connect: ADDRESS:PORT or unix:PATH; empty: nowhere.
	NATS          string
	NATSTokenFile string // clients must show what is in it
	NATSCert      string // TLS: file with the certificate, and those of its issuers
	NATSKey       string // and with its private key
	NATSOpen      bool   // other machines may connect although no token or no TLS is asked for
	MTU           int
	Domain        string // of names in a new cluster; empty: weft.internal
	// Groups are the underlay groups of a new cluster, one of a family at most; empty: they follow from the cluster's id.
	Groups       []netip.Addr
	NoMulticast  bool   // a new cluster's hosts use no native multicast
	TTL          int    // of native multicast on the underlay
	Fanout       int    // packets that leave this host for one frame for many
	DockerPlugin string // socket, "off", or empty: by the run directory
	DockerNames  string // socket of Docker's engine, to learn from what containers are called; empty: nothing is asked
	StateDir     string
	RunDir       string
	Discover     []string // sources of hosts (package discover), or only "off"
	Detach       bool
	BenchOff     bool   // take part in no measurement that another host begins, and begin none
	LogLevel     string // debug, info, warn, error
	LogFormat    string // logfmt, json
}

// Defaults.
const (
	DefaultPort     = 6783
	DefaultRange    = "10.32.0.0/12"
	DefaultMTU      = 1400
	DefaultTTL      = 1
	DefaultFanout   = 8
	DefaultStateDir = "/var/lib/weft"
	DefaultRunDir   = "/run/weft"
	// DefaultDockerPlugin is where Docker looks for a plugin named weft.
	DefaultDockerPlugin = "/run/docker/plugins/weft.sock"
	// MaxFile bounds the file, in bytes.
	MaxFile = 1 << 20
	// MaxList bounds the lists.
	MaxList = 256
)

// Value is one setting as somebody wrote it.
type Value struct {
	Texts []string // one, but for lists
	From  string   // for people: "--port", "WEFT_PORT", "/etc/weft/weft.yaml:3"
}

// key is one thing that can be set.
type key struct {
	name string // in the file; --name and WEFT_NAME follow from it
	list bool
	// blanks: commas belong to the values, so that only blanks separate them in the environment.
	blanks bool
	flag   bool // only a flag: makes no sense in a file
	set    func(u *Up, v Value) error
}

var keys = []key{
	{name: "seeds", list: true, set: func(u *Up, v Value) error { return texts(&u.Seeds, v) }},
	{name: "token", set: func(u *Up, v Value) error {
		if _, err := ident.ParseToken(v.Texts[0]); err != nil {
			return err
		}
		u.Token = v.Texts[0]
		return nil
	}},
	{name: "token-file", set: func(u *Up, v Value) error { u.TokenFile = v.Texts[0]; return nil }},
	{name: "name", set: func(u *Up, v Value) error {
		u.Name = v.Texts[0]
		return ident.CheckName("host name", v.Texts[0])
	}},
	{name: "port", set: func(u *Up, v Value) error { return number(&u.Port, v, 1, 65535) }},
	{name: "advertise", set: func(u *Up, v Value) error { u.Advertise = v.Texts[0]; return checkAdvertise(v.Texts[0]) }},
	{name: "range", set: func(u *Up, v Value) error { return prefix(&u.Range, v) }},
	{name: "ephemeral", set: func(u *Up, v Value) error { return truth(&u.Ephemeral, v) }},
	{name: "force", flag: true, set: func(u *Up, v Value) error { return truth(&u.Force, v) }},
	{name: "replace", flag: true, set: func(u *Up, v Value) error { return truth(&u.Replace, v) }},
	{name: "api", set: func(u *Up, v Value) error { u.API = v.Texts[0]; return hostPort(v.Texts[0]) }},
	{name: "nats", set: func(u *Up, v Value) error { return natsAddr(u, v) }},
	{name: "nats-token-file", set: func(u *Up, v Value) error { return path(&u.NATSTokenFile, v) }},
	{name: "nats-cert", set: func(u *Up, v Value) error { return path(&u.NATSCert, v) }},
	{name: "nats-key", set: func(u *Up, v Value) error { return path(&u.NATSKey, v) }},
	{name: "nats-open", set: func(u *Up, v Value) error { return truth(&u.NATSOpen, v) }},
	{name: "mtu", set: func(u *Up, v Value) error { return number(&u.MTU, v, 1280, 9000) }},
	{name: "domain", set: func(u *Up, v Value) error { u.Domain = v.Texts[0]; return ident.CheckDomain(v.Texts[0]) }},
	{name: "underlay-group", list: true, set: groups},
	{name: "underlay-ttl", set: func(u *Up, v Value) error { return number(&u.TTL, v, 1, 255) }},
	{name: "fanout", set: func(u *Up, v Value) error { return number(&u.Fanout, v, 2, 32) }},
	{name: "docker-plugin", set: func(u *Up, v Value) error {
		if v.Texts[0] == "off" {
			u.DockerPlugin = "off"
			return nil
		}
		return path(&u.DockerPlugin, v)
	}},
	{name: "docker-names", set: func(u *Up, v Value) error {
		if v.Texts[0] == "off" {
			u.DockerNames = ""
			return nil
		}
		return path(&u.DockerNames, v)
	}},
	{name: "state-dir", set: func(u *Up, v Value) error { return path(&u.StateDir, v) }},
	{name: "run-dir", set: func(u *Up, v Value) error { return path(&u.RunDir, v) }},
	{name: "discover", list: true, blanks: true, set: sources},
	{name: "detach", flag: true, set: func(u *Up, v Value) error { return truth(&u.Detach, v) }},
	{name: "bench", set: func(u *Up, v Value) error {
		var text string
		if err := oneOf(&text, v, "on", "off"); err != nil {
			return err
		}
		u.BenchOff = text == "off"
		return nil
	}},
	{name: "log-level", set: func(u *Up, v Value) error { return oneOf(&u.LogLevel, v, "debug", "info", "warn", "error") }},
	{name: "log-format", set: func(u *Up, v Value) error { return oneOf(&u.LogFormat, v, "logfmt", "json") }},
}

// Load builds a configuration. file is the content of the YAML file at filePath, nil when there is none;
// env is in the form of os.Environ; flags are those that were given, by name without dashes ("seeds" for
// the arguments). The error is one line that names the key, where it came from and what is allowed.
func Load(file []byte, filePath string, env []string, flags map[string]Value) (Up, error) {
	u := Up{
		Port: DefaultPort, Range: netip.MustParsePrefix(DefaultRange), MTU: DefaultMTU, TTL: DefaultTTL, Fanout: DefaultFanout,
		StateDir: DefaultStateDir, RunDir: DefaultRunDir, LogLevel: "info", LogFormat: "logfmt",
	}
	settings, err := parseFile(file, filePath)
	if err != nil {
		return Up{}, err
	}
	maps.Copy(settings, parseEnv(env))
	for name, v := range flags {
		if i := slices.IndexFunc(keys, func(k key) bool { return k.name == name }); i < 0 {
			return Up{}, fmt.Errorf("%s: no such setting", v.From)
		}
		settings[name] = v
	}
	for _, k := range keys { // in this order, so that the first error is always the same
		v, ok := settings[k.name]
		if !ok || len(v.Texts) == 0 {
			continue
		}
		if err := k.set(&u, v); err != nil {
			if k.name == "token" {
				return Up{}, fmt.Errorf("%s: %w", v.From, err) // the value is a secret
			}
			return Up{}, fmt.Errorf("%s %q: %w", v.From, strings.Join(v.Texts, ","), err)
		}
	}
	return u, nil
}

// PluginSocket returns where Docker's calls are answered; empty: nowhere. Hosts with a run directory of their own share the machine with
// others, of which Docker can know one: they say which socket.
func (u *Up) PluginSocket() string {
	switch {
	case u.DockerPlugin == "off", u.DockerPlugin == "" && u.RunDir != DefaultRunDir:
		return ""
	case u.DockerPlugin == "":
		return DefaultDockerPlugin
	}
	return u.DockerPlugin
}

func parseEnv(env []string) map[string]Value {
	out := map[string]Value{}
	for _, k := range keys {
		if k.flag {
			continue
		}
		name := "WEFT_" + strings.ToUpper(strings.ReplaceAll(k.name, "-", "_"))
		for _, e := range env {
			text, ok := strings.CutPrefix(e, name+"=")
			if !ok || text == "" {
				continue
			}
			v := Value{Texts: []string{text}, From: name}
			if k.list {
				v.Texts = strings.FieldsFunc(text, func(r rune) bool { return r == ',' && !k.blanks || r == ' ' })
			}
			out[k.name] = v
		}
	}
	return out
}

func parseFile(file []byte, filePath string) (map[string]Value, error) {
	out := map[string]Value{}
	if len(file) > MaxFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", filePath, MaxFile)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(file, &doc); err != nil {
		return nil, fmt.Errorf("%s: %s", filePath, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " "))
	}
	if len(doc.Content) == 0 {
		return out, nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return out, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want lines of the form key: value", filePath, root.Line)
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		name, val := root.Content[i], root.Content[i+1]
		where := filePath + ":" + strconv.Itoa(name.Line)
		j := slices.IndexFunc(keys, func(k key) bool { return k.name == name.Value && !k.flag })
		if j < 0 {
			return nil, fmt.Errorf("%s: unknown key %q; known are %s", where, name.Value, known())
		}
		if _, twice := out[name.Value]; twice {
			return nil, fmt.Errorf("%s: key %q a second time", where, name.Value)
		}
		v := Value{From: where + ": " + name.Value}
		switch {
		case val.Kind == yaml.ScalarNode && val.Tag != "!!null":
			v.Texts = []string{val.Value}
		case val.Kind == yaml.SequenceNode && keys[j].list && len(val.Content) <= MaxList:
			for _, e := range val.Content {
				if e.Kind != yaml.ScalarNode {
					return nil, fmt.Errorf("%s: %s: want a list of texts", where, name.Value)
				}
				v.Texts = append(v.Texts, e.Value)
			}
		default:
			return nil, fmt.Errorf("%s: %s: want one value", where, name.Value)
		}
		out[name.Value] = v
	}
	return out, nil
}

func known() string {
	var names []string
	for _, k := range keys {
		if !k.flag {
			names = append(names, k.name)
		}
	}
	return strings.Join(names, ", ")
}

func texts(dst *[]string, v Value) error {
	if len(v.Texts) > MaxList {
		return fmt.Errorf("more than %d", MaxList)
	}
	for _, t := range v.Texts {
		if t == "" || len(t) > 255 || strings.ContainsAny(t, " \t\r\n") {
			return errors.New("want names or addresses")
		}
	}
	*dst = v.Texts
	return nil
}

// maxSources bounds the sources of hosts.
const maxSources = 8

// sources takes sources of hosts as they are: what they mean is known where they are asked.
func sources(u *Up, v Value) error {
	if len(v.Texts) > maxSources {
		return fmt.Errorf("more than %d", maxSources)
	}
	for _, t := range v.Texts {
		if t == "" || len(t) > 1024 || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return errors.New("want a source of hosts, such as etcd://10.0.0.5:2379/weft")
		}
		if t == "off" && len(v.Texts) > 1 {
			return errors.New("off stands alone")
		}
	}
	u.Discover = v.Texts
	return nil
}

func number(dst *int, v Value, low, high int) error {
	n, err := strconv.Atoi(v.Texts[0])
	if err != nil || n < low || n > high {
		return fmt.Errorf("want a number from %d to %d", low, high)
	}
	*dst = n
	return nil
}

func truth(dst *bool, v Value) error {
	b, err := strconv.ParseBool(v.Texts[0])
	if err != nil {
		return errors.New("want true or false")
	}
	*dst = b
	return nil
}

func prefix(dst *netip.Prefix, v Value) error {
	p, err := netip.ParsePrefix(v.Texts[0])
	switch {
	case err != nil || !p.Addr().Is4():
		return errors.New("want an IPv4 network such as 10.32.0.0/12")
	case p != p.Masked():
		return fmt.Errorf("has host bits set: %s?", p.Masked())
	case p.Bits() < 8 || p.Bits() > 20:
		return errors.New("want /8 to /20: room for networks of /20")
	case p.Addr().IsMulticast(), p.Addr().IsLoopback(), p.Addr().IsUnspecified():
		return errors.New("want unicast addresses")
	}
	*dst = p
	return nil
}

func checkAdvertise(s string) error {
	if a, err := netip.ParseAddr(s); err == nil && !a.IsMulticast() && !a.IsUnspecified() {
		return nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 && !ap.Addr().IsMulticast() && !ap.Addr().IsUnspecified() {
		return nil
	}
	return errors.New("want IP or IP:PORT under which other hosts reach this one")
}

func hostPort(s string) error {
	if _, err := netip.ParseAddrPort(s); err != nil {
		return errors.New("want ADDRESS:PORT")
	}
	return nil
}

// natsAddr takes off, ADDRESS:PORT and unix:PATH.
func natsAddr(u *Up, v Value) error {
	text := v.Texts[0]
	if text == "off" {
		u.NATS = ""
		return nil
	}
	u.NATS = text
	if file, ok := strings.CutPrefix(text, "unix:"); ok {
		if !strings.HasPrefix(file, "/") || strings.ContainsRune(file, 0) {
			return errors.New("want unix: and an absolute path")
		}
		return nil
	}
	if _, err := netip.ParseAddrPort(text); err != nil {
		return errors.New("want ADDRESS:PORT, unix:PATH or off")
	}
	return nil
}

func path(dst *string, v Value) error {
	if !strings.HasPrefix(v.Texts[0], "/") || strings.ContainsRune(v.Texts[0], 0) {
		return errors.New("want an absolute path")
	}
	*dst = v.Texts[0]
	return nil
}

func oneOf(dst *string, v Value, allowed ...string) error {
	if !slices.Contains(allowed, v.Texts[0]) {
		return fmt.Errorf("want one of %s", strings.Join(allowed, ", "))
	}
	*dst = v.Texts[0]
	return nil
}
