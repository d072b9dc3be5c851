package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

func flags(kv ...string) map[string]Value {
	out := map[string]Value{}
	for i := 0; i < len(kv); i += 2 {
		v := out[kv[i]]
		v.From = "--" + kv[i]
		v.Texts = append(v.Texts, kv[i+1])
		out[kv[i]] = v
	}
	return out
}

func TestOrder(t *testing.T) {
	file := []byte("port: 7001\nmtu: 1500\nname: from-file\nseeds: [a, b]\n")
	env := []string{"WEFT_PORT=7002", "WEFT_NAME=from-env", "WEFT_UNRELATED=x", "WEFT_RUN_DIR=/tmp/r"}
	u, err := Load(file, "/etc/weft/weft.yaml", env, flags("port", "7003"))
	if err != nil {
		t.Fatal(err)
	}
	if u.Port != 7003 || u.Name != "from-env" || u.MTU != 1500 || len(u.Seeds) != 2 || u.RunDir != "/tmp/r" || u.StateDir != DefaultStateDir {
		t.Fatalf("%+v", u)
	}
}

func TestBadInputIsOneClearLine(t *testing.T) {
	for _, c := range []struct {
		file  string
		env   []string
		flags map[string]Value
		want  string
	}{
		{file: "prot: 1\n", want: `f.yaml:1: unknown key "prot"; known are seeds`},
		{file: "port: 1\nport: 2\n", want: "f.yaml:2: key \"port\" a second time"},
		{file: "port: 0\n", want: `f.yaml:1: port "0": want a number from 1 to 65535`},
		{file: "port: 65536\n", want: "want a number from 1 to 65535"},
		{file: "\n\nmtu: 100\n", want: `f.yaml:3: mtu "100": want a number from 1280 to 9000`},
		{file: "force: true\n", want: `unknown key "force"`},
		{file: "name: [a]\n", want: "name: want one value"},
		{file: "name: {a: b}\n", want: "name: want one value"},
		{file: "name:\n", want: "name: want one value"},
		{file: "- a\n", want: "want lines of the form key: value"},
		{file: "a: b: c\n", want: "f.yaml: "},
		{file: "\x00", want: "f.yaml: "},
		{env: []string{"WEFT_RANGE=10.33.0.0/12"}, want: "WEFT_RANGE \"10.33.0.0/12\": has host bits set: 10.32.0.0/12?"},
		{env: []string{"WEFT_RANGE=10.0.0.0/24"}, want: "want /8 to /20"},
		{env: []string{"WEFT_RANGE=fd00::/48"}, want: "want an IPv4 network"},
		{env: []string{"WEFT_RANGE=224.0.0.0/8"}, want: "want unicast addresses"},
		{flags: flags("name", "Upper"), want: `--name "Upper": host name "Upper": use a-z`},
		{flags: flags("domain", "Weft"), want: `domain "Weft": use a-z`},
		{flags: flags("token", "weft1secretsecret"), want: "--token: not a weft token"},
		{flags: flags("advertise", "0.0.0.0"), want: "want IP or IP:PORT"},
		{flags: flags("log-level", "loud"), want: "want one of debug, info, warn, error"},
		{flags: flags("state-dir", "here"), want: "want an absolute path"},
		{flags: flags("api", "localhost"), want: "want ADDRESS:PORT"},
		{flags: flags("nonsense", "1"), want: "no such setting"},
		{flags: flags("seeds", "a b"), want: "want names or addresses"},
	} {
		_, err := Load([]byte(c.file), "f.yaml", c.env, c.flags)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %v %v: %v, want %q", c.file, c.env, c.flags, err, c.want)
			continue
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("error is not one line, or shows the token: %q", err)
		}
	}
}

func TestTokenIsTaken(t *testing.T) {
	tok := ident.NewToken().Encode()
	u, err := Load(nil, "", []string{"WEFT_TOKEN=" + tok}, nil)
	if err != nil || u.Token != tok {
		t.Fatalf("%v, %v", u.Token == tok, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("port: 7001\nseeds: [a, b]\n"), "WEFT_MTU=1500")
	f.Add([]byte("&a [*a]"), "WEFT_RANGE=1.2.3.4/8")
	f.Add([]byte("a: &x {b: *x}"), "")
	f.Fuzz(func(t *testing.T, file []byte, env string) {
		u, err := Load(file, "f", []string{env}, nil)
		if err == nil && (u.Port < 1 || u.Port > 65535 || u.MTU < 1280 || u.MTU > 9000 || !u.Range.IsValid()) {
			t.Fatalf("accepted %+v", u)
		}
	})
}

func TestBench(t *testing.T) {
	for text, off := range map[string]bool{"bench: off\n": true, "bench: on\n": false, "": false} {
		if u, err := Load([]byte(text), "f.yaml", nil, nil); err != nil || u.BenchOff != off {
			t.Errorf("%q: off %v, %v", text, u.BenchOff, err)
		}
	}
	if _, err := Load(nil, "f.yaml", []string{"WEFT_BENCH=maybe"}, nil); err == nil || !strings.Contains(err.Error(), `WEFT_BENCH "maybe": want one of on, off`) {
		t.Errorf("%v", err)
	}
}

func TestPluginSocket(t *testing.T) {
	for text, want := range map[string]string{
		"": DefaultDockerPlugin, "run-dir: /run/other\n": "", "docker-plugin: off\n": "",
		"run-dir: /run/other\ndocker-plugin: /run/other/weft.sock\n": "/run/other/weft.sock",
	} {
		if u, err := Load([]byte(text), "f.yaml", nil, nil); err != nil || u.PluginSocket() != want {
			t.Errorf("%q: %q, %v, want %q", text, u.PluginSocket(), err, want)
		}
	}
	if _, err := Load(nil, "f.yaml", []string{"WEFT_DOCKER_PLUGIN=on"}, nil); err == nil || !strings.Contains(err.Error(), "want an absolute path") {
		t.Errorf("%v", err)
	}
}

// TestDiscover: commas belong to a source; flags, file and environment take several.
func TestDiscover(t *testing.T) {
	want := []string{"etcd://10.0.0.5:2379,10.0.0.6:2379/weft", "lan"}
	for name, load := range map[string]func() (Up, error){
		"flags": func() (Up, error) {
			return Load(nil, "", nil, map[string]Value{"discover": {Texts: want, From: "--discover"}})
		},
		"file": func() (Up, error) {
			return Load([]byte("discover:\n- etcd://10.0.0.5:2379,10.0.0.6:2379/weft\n- lan\n"), "weft.yaml", nil, nil)
		},
		"environment": func() (Up, error) {
			return Load(nil, "", []string{"WEFT_DISCOVER=etcd://10.0.0.5:2379,10.0.0.6:2379/weft lan"}, nil)
		},
	} {
		if u, err := load(); err != nil || !slices.Equal(u.Discover, want) {
			t.Errorf("%s: %v, %v; want %v", name, u.Discover, err, want)
		}
	}
	if u, err := Load([]byte("discover: exec:/usr/bin/list --all\n"), "weft.yaml", nil, nil); err != nil || !slices.Equal(u.Discover, []string{"exec:/usr/bin/list --all"}) {
		t.Errorf("a program with arguments: %v, %v", u.Discover, err)
	}
	for name, texts := range map[string][]string{
		"empty": {""}, "two lines": {"lan\nswarm"}, "off and on": {"off", "lan"}, "long": {strings.Repeat("x", 2000)}, "many": slices.Repeat([]string{"lan"}, 9),
	} {
		if _, err := Load(nil, "", nil, map[string]Value{"discover": {Texts: texts, From: "--discover"}}); err == nil || !strings.Contains(err.Error(), "--discover") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
