package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/goldentest"
	"github.com/weft-net/weft/internal/vnet"
)

// errNoDaemon is what the client says of a daemon that is not there.
var errNoDaemon = fmt.Errorf("%w at /run/weft/weft.sock: start it with weft up", client.ErrNoDaemon)

const (
	plain   = `{"cniVersion": "1.1.0", "name": "lab", "type": "weft"}`
	one     = "CNI_CONTAINERID=one CNI_NETNS=/run/netns/one CNI_IFNAME=eth0"
	bridged = `{"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.5/16", "gateway": "10.88.0.1", "interface": 2}], "routes": [{"dst": "0.0.0.0/0", "table": 7}],
		"interfaces": [{"name": "cni0"}, {"name": "veth1", "socketPath": "/x"}, {"name": "eth0", "mac": "fe:00:00:00:00:07", "sandbox": "/run/netns/one"}]}`
)

// with puts keys into the plain configuration.
func with(keys string) string { return strings.TrimSuffix(plain, "}") + ", " + keys + "}" }

// of is the plain configuration in a version.
func of(version string) string { return strings.Replace(plain, "1.1.0", version, 1) }

// Every file in testdata is one call: what was asked, what the daemon was asked, what was answered. -update writes them.
func TestGolden(t *testing.T) {
	chained := strings.Replace(with(`"prevResult": `+bridged), "1.1.0", "1.0.0", 1)
	for name, c := range map[string]struct {
		env, in string
		weft    fakeWeft
		host    func(*fakeHost)
	}{
		"version":          {env: "CNI_COMMAND=VERSION", in: `{"cniVersion": "1.0.0"}`},
		"version-bare":     {env: "CNI_COMMAND=VERSION"},
		"add-0.2.0":        {env: "CNI_COMMAND=ADD " + one, in: of("0.2.0")},
		"add-0.3.1":        {env: "CNI_COMMAND=ADD " + one, in: of("0.3.1")},
		"add-0.4.0":        {env: "CNI_COMMAND=ADD " + one, in: of("0.4.0")},
		"add-1.0.0":        {env: "CNI_COMMAND=ADD " + one, in: of("1.0.0")},
		"add-1.1.0":        {env: "CNI_COMMAND=ADD " + one, in: plain},
		"add-unsaid":       {env: "CNI_COMMAND=ADD " + one, in: `{"name": "weave", "type": "weft"}`},
		"add-network":      {env: "CNI_COMMAND=ADD " + one, in: with(`"network": "films", "dns": {"nameservers": ["9.9.9.9"]}`)},
		"add-pod":          {env: "CNI_COMMAND=ADD CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=Web-0;K8S_POD_UID=7 " + one, in: plain},
		"add-aliases":      {env: "CNI_COMMAND=ADD CNI_ARGS=IP=10.32.0.7/20 " + one, in: with(`"runtimeConfig": {"aliases": {"lab": ["db", "no name", "DB"], "other": ["x"]}, "ips": ["10.32.0.9/20"]}`)},
		"add-alias-list":   {env: "CNI_COMMAND=ADD CNI_ARGS=IP=10.32.0.7/20 " + one, in: with(`"runtimeConfig": {"aliases": ["db"]}`)},
		"add-args-ips":     {env: "CNI_COMMAND=ADD CNI_ARGS=IP=10.32.0.7/20 " + one, in: with(`"args": {"cni": {"ips": ["10.32.0.8"]}, "x": 1}`)},
		"add-chained":      {env: "CNI_COMMAND=ADD " + one, in: chained},
		"add-chained-name": {env: "CNI_COMMAND=ADD " + one, in: strings.Replace(chained, `"prevResult"`, `"interface": "mc0", "prevResult"`, 1)},
		"add-chained-dns":  {env: "CNI_COMMAND=ADD " + one, in: strings.Replace(chained, `"ips"`, `"dns": {"nameservers": ["10.96.0.10"]}, "ips"`, 1)},
		"add-empty-prev":   {env: "CNI_COMMAND=ADD " + one, in: with(`"prevResult": {"cniVersion": "1.1.0"}`)},
		"add-named":        {env: "CNI_COMMAND=ADD " + one, in: with(`"interface": "mc0"`)},
		"add-unknown-key":  {env: "CNI_COMMAND=ADD " + one, in: with(`"hairpinMode": true, "cni.dev/x": 1`)},
		"add-ipam":         {env: "CNI_COMMAND=ADD " + one, in: with(`"ipam": {"type": "host-local"}`)},
		"add-masq":         {env: "CNI_COMMAND=ADD " + one, in: with(`"ipMasq": true`)},
		"add-mac":          {env: "CNI_COMMAND=ADD " + one, in: with(`"runtimeConfig": {"mac": "02:00:00:00:00:01"}`)},
		"add-args":         {env: "CNI_COMMAND=ADD CNI_ARGS=COLOUR=red " + one, in: plain},
		"add-no-namespace": {env: "CNI_COMMAND=ADD " + one, in: plain, host: func(h *fakeHost) { h.gone = true }},
		"add-no-daemon":    {env: "CNI_COMMAND=ADD " + one, in: plain, weft: fakeWeft{fail: map[string]error{"": errNoDaemon}}},
		"add-no-network": {env: "CNI_COMMAND=ADD " + one, in: with(`"network": "ghost"`), weft: fakeWeft{fail: map[string]error{
			"attach": api.Errorf(api.CodeNotFound, "no network %q", "ghost").WithHint("weft network create ghost"),
		}}},
		"add-taken": {env: "CNI_COMMAND=ADD " + one, in: plain, weft: fakeWeft{fail: map[string]error{
			"attach": api.Errorf(api.CodeConflict, "address 10.32.0.7: address in use"),
		}}},
		"add-alias-fails": {env: "CNI_COMMAND=ADD CNI_ARGS=K8S_POD_NAME=web " + one, in: plain, weft: fakeWeft{fail: map[string]error{
			"aliases": api.Errorf(api.CodeUnavailable, "this host is going down"),
		}}},
		"add-twice":      {env: "CNI_COMMAND=ADD " + one, in: with(`"prevResult": {"interfaces": [{"name": "` + vnet.PortName("weft", call{config: config{Name: "lab"}, container: "one", ifname: "eth0"}.name()) + `"}]}`)},
		"add-old-chain":  {env: "CNI_COMMAND=ADD " + one, in: `{"cniVersion": "0.2.0", "name": "lab", "prevResult": {"ip4": {}}}`},
		"no-command":     {env: "CNI_COMMAND=FROB", in: plain},
		"no-container":   {env: "CNI_COMMAND=ADD CNI_NETNS=/x CNI_IFNAME=eth0", in: plain},
		"bad-interface":  {env: "CNI_COMMAND=ADD CNI_CONTAINERID=one CNI_NETNS=/x CNI_IFNAME=an/interface", in: plain},
		"no-netns":       {env: "CNI_COMMAND=CHECK CNI_CONTAINERID=one CNI_IFNAME=eth0", in: plain},
		"no-config":      {env: "CNI_COMMAND=ADD " + one},
		"no-object":      {env: "CNI_COMMAND=ADD " + one, in: "null"},
		"no-name":        {env: "CNI_COMMAND=ADD " + one, in: `{"cniVersion": "1.0.0"}`},
		"future":         {env: "CNI_COMMAND=ADD " + one, in: of("2.0.0")},
		"check-too-old":  {env: "CNI_COMMAND=CHECK " + one, in: of("0.3.1")},
		"gc-too-old":     {env: "CNI_COMMAND=GC", in: of("1.0.0")},
		"del-gone":       {env: "CNI_COMMAND=DEL CNI_CONTAINERID=one CNI_IFNAME=eth0", in: with(`"hairpinMode": true`)},
		"del-no-daemon":  {env: "CNI_COMMAND=DEL " + one, in: plain, weft: fakeWeft{fail: map[string]error{"": errNoDaemon}}},
		"del-nothing":    {env: "CNI_COMMAND=DEL " + one, in: plain, weft: fakeWeft{fail: map[string]error{"": errNoDaemon}}, host: func(h *fakeHost) { h.remove = errors.New("operation not permitted") }},
		"del-later":      {env: "CNI_COMMAND=DEL " + one, in: plain, weft: fakeWeft{fail: map[string]error{"": api.Errorf(api.CodeTimeout, "took too long")}}},
		"gc":             {env: "CNI_COMMAND=GC", in: with(`"cni.dev/valid-attachments": [{"containerID": "two", "ifname": "eth0"}], "cni.dev/attachments": []`), weft: populated()},
		"gc-all":         {env: "CNI_COMMAND=GC", in: plain, weft: populated()},
		"gc-no-daemon":   {env: "CNI_COMMAND=GC", in: plain, weft: fakeWeft{fail: map[string]error{"": errNoDaemon}}},
		"status":         {env: "CNI_COMMAND=STATUS", in: plain, weft: fakeWeft{state: api.StateAlone}},
		"status-down":    {env: "CNI_COMMAND=STATUS", in: plain, weft: fakeWeft{fail: map[string]error{"": errNoDaemon}}},
		"status-joining": {env: "CNI_COMMAND=STATUS", in: plain, weft: fakeWeft{state: api.StateJoining}},
		"status-network": {env: "CNI_COMMAND=STATUS", in: with(`"network": "ghost"`)},
		"status-full":    {env: "CNI_COMMAND=STATUS", in: plain, weft: fakeWeft{used: 1000}},
		"status-key":     {env: "CNI_COMMAND=STATUS", in: with(`"vlan": 7`)},
	} {
		t.Run(name, func(t *testing.T) {
			w, h := c.weft, newFakeHost()
			if c.host != nil {
				c.host(h)
			}
			code, out := ask(&w, h, c.env, c.in)
			asked := ""
			if calls := append(w.calls, h.calls...); len(calls) > 0 {
				asked = "-- " + strings.Join(calls, "\n-- ") + "\n"
			}
			text := fmt.Sprintf("$ %s weft\n%s\n%s%s-- exit %d\n", c.env, c.in, asked, out, code)
			goldentest.Compare(t, name+".txt", text)
			if out != "" && !json.Valid([]byte(out)) || (code != 0) != strings.Contains(out, `"code"`) {
				t.Errorf("exit %d with\n%s", code, out)
			}
		})
	}
}

// populated has attachments of two CNI networks in two networks of weft's, and one of neither.
func populated() fakeWeft {
	f := fakeWeft{}
	for _, a := range []struct{ cni, network, container string }{
		{"lab", "weft", "one"}, {"lab", "weft", "two"}, {"lab", "films", "one"}, {"prod", "weft", "one"},
	} {
		f.attachments = append(f.attachments, client.Attachment{
			Network: a.network, Local: true, Name: call{config: config{Name: a.cni}, container: a.container, ifname: "eth0"}.name(),
		})
	}
	elsewhere := f.attachments[0]
	elsewhere.Local = false
	f.attachments = append(f.attachments, elsewhere, client.Attachment{Network: "weft", Local: true, Name: "chat"})
	return f
}

// ask makes one call. The environment has no spaces in its values.
func ask(w Weft, h Host, env, in string) (int, string) {
	var out bytes.Buffer
	p := Plugin{Env: strings.Fields(env), In: strings.NewReader(in), Out: &out, Host: h, Dial: func(string) Weft { return w }}
	code := p.Main(context.Background())
	return code, out.String()
}

// What ADD answered is what CHECK takes, and what CHECK refuses once it is not so any more.
func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fakeWeft, *fakeHost)
		edit   func(string) string // of ADD's answer
		want   Code
		text   string
	}{
		"well":         {},
		"gone":         {change: func(w *fakeWeft, _ *fakeHost) { w.attachments = nil }, want: CodeMissing, text: "is gone"},
		"down":         {change: func(_ *fakeWeft, h *fakeHost) { h.inner.Up = false }, want: CodeDamaged, text: "it is down"},
		"address":      {change: func(_ *fakeWeft, h *fakeHost) { h.inner.IPs = h.inner.IPs[1:] }, want: CodeDamaged, text: "lost the address 10.32.0.2/20"},
		"MAC":          {change: func(_ *fakeWeft, h *fakeHost) { h.inner.MAC = "02:00:00:00:00:09" }, want: CodeDamaged, text: "its MAC is 02:00:00:00:00:09, not 02:57:0a:20:00:02"},
		"another MAC":  {edit: func(s string) string { return strings.Replace(s, "02:57:0a:20:00:02", "02:57:0a:20:00:03", 1) }, want: CodeDamaged, text: "was 02:57:0a:20:00:03"},
		"no interface": {edit: func(string) string { return "{}" }, want: CodeConfig, text: "prevResult has no interface eth0"},
		"no list":      {edit: func(string) string { return `{"ips": 7}` }, want: CodeDecode, text: "prevResult.ips"},
		"no daemon":    {change: func(w *fakeWeft, _ *fakeHost) { w.fail = map[string]error{"": errNoDaemon} }, want: CodeTryAgain, text: "weft up"},
	} {
		t.Run(name, func(t *testing.T) {
			w, h := &fakeWeft{}, newFakeHost()
			code, result := ask(w, h, "CNI_COMMAND=ADD "+one, plain)
			if code != 0 {
				t.Fatal(result)
			}
			if c.change != nil {
				c.change(w, h)
			}
			if c.edit != nil {
				result = c.edit(result)
			}
			_, out := ask(w, h, "CNI_COMMAND=CHECK "+one, with(`"prevResult": `+result))
			if c.want == 0 {
				if out != "" {
					t.Errorf("answer %s", out)
				}
				return
			}
			var e Error
			if err := json.Unmarshal([]byte(out), &e); err != nil || e.Code != c.want || !strings.Contains(e.Msg, c.text) {
				t.Errorf("got %s, want code %d with %q", out, c.want, c.text)
			}
		})
	}
}

// A name is a label (RFC 1123), and what it follows from cannot be shifted.
func TestName(t *testing.T) {
	c := func(network, container, ifname string) string {
		return call{config: config{Name: network}, container: container, ifname: ifname}.name()
	}
	if got := c("lab", "one", "eth0"); len(got) != 29 || got != c("lab", "one", "eth0") {
		t.Errorf("name %s", got)
	}
	if c("lab", "one", "eth0") == c("lab", "onee", "th0") || c("lab", "one", "eth0") == c("prod", "one", "eth0") {
		t.Error("two attachments of one name")
	}
}

// Only a process without arguments is a plugin: weft run in a plugin's environment is weft run.
func TestCalled(t *testing.T) {
	env := []string{"PATH=/bin", "CNI_COMMAND=ADD"}
	if !Called([]string{"/opt/cni/bin/weft"}, env) || Called([]string{"weft", "status"}, env) || Called([]string{"weft"}, env[:1]) {
		t.Error("the wrong processes are plugins")
	}
}

// FuzzConfig: whatever comes on standard input, what goes out is one JSON object or nothing, and what is made of a result that came is
// one that parses again with all its fields.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{plain, of("0.2.0"), of("0.4.0"), with(`"runtimeConfig": {"aliases": [1]}`), with(`"prevResult": ` + bridged), "null", "[]", `{"name": "x", "prevResult": 7}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"} {
			code, out := ask(&fakeWeft{}, newFakeHost(), "CNI_COMMAND="+command+" "+one, in)
			if out != "" && !json.Valid([]byte(out)) {
				t.Fatalf("%s of %q: %q", command, in, out)
			}
			if code != 0 && out == "" {
				t.Fatalf("%s of %q fails without a word", command, in)
			}
			c, err := parseConfig([]byte(in))
			if command != "ADD" || code != 0 || err != nil || !since(c.Version, "0.3.0") {
				continue
			}
			before, err := parsePrevious(c.Version, c.Previous)
			if err != nil {
				t.Fatalf("ADD took %q: %v", in, err)
			}
			after, err := parsePrevious(c.Version, json.RawMessage(out))
			if err != nil || len(after.interfaces) != len(before.interfaces)+2 || len(after.ips) != len(before.ips)+2 {
				t.Fatalf("%q became %q: %v", in, out, err)
			}
			for k := range before.fields {
				if k != "dns" && after.fields[k] == nil {
					t.Fatalf("%q: field %q is lost in %q", in, k, out)
				}
			}
		}
	})
}
