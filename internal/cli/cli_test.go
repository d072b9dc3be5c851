package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver/apiservertest"
	"github.com/weft-net/weft/internal/goldentest"
)

type call struct {
	code      int
	out, errs string
}

// weft runs the command line in this process.
func weft(t *testing.T, runDir, stdin string, args ...string) call {
	t.Helper()
	var out, errs bytes.Buffer
	app := &App{
		Version: "v0.0.0-test", Args: args, Env: []string{"WEFT_RUN_DIR=" + runDir},
		In: strings.NewReader(stdin), Out: &out, Err: &errs,
		linkWait: 200 * time.Millisecond,
	}
	code := app.Main(t.Context())
	return call{code, out.String(), errs.String()}
}

// Every file in testdata holds one call and all it showed. -update writes them.
func TestGolden(t *testing.T) {
	tests := map[string]string{
		"status":                "status",
		"status-json":           "status --json",
		"hosts":                 "hosts",
		"hosts-json":            "hosts --json",
		"host-ls":               "host ls",
		"host-rm":               "host rm two --force",
		"host-rm-json":          "host rm two --force --json",
		"host-rm-refused":       "host rm two",
		"host-rm-unknown":       "host rm ghost",
		"links":                 "links",
		"links-json":            "links --json",
		"networks":              "networks",
		"networks-json":         "networks --json",
		"network-ls":            "network ls",
		"network-show":          "network show weft",
		"network-show-unknown":  "network show ghost",
		"bench-net":             "bench net two three --tests rtt,mcast --duration 1s --rate 40000 --max-mbit 500",
		"bench-net-json":        "bench net --json",
		"bench-net-broken":      "bench net --network broken",
		"bench-net-long":        "bench net --duration 2m",
		"bench-net-unknown":     "bench net --tests rtt,speed",
		"bench-net-rate":        "bench net --tests rtt --rate 100",
		"bench-bus":             "bench bus two three --tests rtt,msg64,msg1k --duration 1s --rate 500",
		"bench-bus-json":        "bench bus --json",
		"bench-bus-unknown":     "bench bus --tests tcp",
		"bench-bus-rate":        "bench bus --rate 0",
		"bench":                 "bench",
		"network-create":        "network create films --subnet 10.9.0.0/24 --deny-group 239.255.255.250 --rate 100",
		"network-create-plain":  "network create films --plain",
		"network-create-exists": "network create weft",
		"network-rm":            "network rm weft",
		"network-rm-json":       "network rm weft --json",
		"attachments":           "attachments",
		"attachments-json":      "attachments --json",
		"attach":                "attach --netns /run/netns/box --name box --ip 10.32.0.9",
		"attach-json":           "attach --pid 4711 --name box --json",
		"attach-container":      "attach --container 0123456789ab --network weft",
		"attach-no-network":     "attach --pid 1 --network ghost",
		"detach-elsewhere":      "detach chat",
		"detach-unknown":        "detach ghost",
		"expose":                "expose 10.32.0.77 --multicast-route",
		"hide-unknown":          "hide",
		"groups":                "groups",
		"groups-json":           "groups --json",
		"ipam":                  "ipam",
		"ipam-json":             "ipam --json",
		"token":                 "token",
		"token-json":            "token --json",
		"token-rotate":          "token rotate",
		"token-help":            "token --help",
		"token-bus":             "token --bus weft",
		"token-bus-json":        "token --bus weft --json",
		"token-bus-bare":        "token --bus chat",
		"token-bus-unknown":     "token --bus ghost",
		"token-bus-name":        "token --bus Weft!",
		"connect":               "connect 10.0.0.9 example.net:7000",
		"forget":                "forget 10.0.0.9 --json",
		"ping":                  "ping two -c 4 -i 10ms",
		"ping-json":             "ping two -c 3 -i 10ms --json",
		"ping-unknown":          "ping ghost -c 1",
		"version":               "version",
		"buses":                 "buses",
		"buses-json":            "buses --json",
		"bus-ls":                "bus ls",
		"bus-show":              "bus show weft",
		"bus-show-bare":         "bus show chat",
		"bus-show-none":         "bus show ghost",
		"bus-create":            "bus create pit --bare 225.4.5.6:5000 --iface eth0 --ttl 3 --subject pit.floor",
		"bus-create-there":      "bus create chat --bare 225.4.5.6:5000",
		"bus-create-what":       "bus create chat",
		"bus-create-unicast":    "bus create chat --bare 10.0.0.1:5000",
		"bus-create-port":       "bus create chat --bare [ff15::6]:6786",
		"bus-create-ttl":        "bus create chat --bare 225.4.5.6:5000 --ttl 0",
		"bus-create-subject":    "bus create chat --bare 225.4.5.6:5000 --subject chat.>",
		"bus-create-help":       "bus create --help",
		"bus-rm":                "bus rm chat",
		"bus-rm-own":            "bus rm weft",
		"names":                 "names",
		"names-json":            "names --json --network weft",
		"name-ls":               "name ls",
		"name-add":              "name add printer 192.0.2.7 2001:db8::7",
		"name-add-json":         "name add printer 192.0.2.7 --json",
		"name-add-help":         "name add --help",
		"name-rm":               "name rm chat",
		"name-rm-address":       "name rm chat 10.32.0.2",
		"name-rm-unknown":       "name rm ghost",
		"name-lookup":           "name lookup chat",
		"name-lookup-address":   "name lookup 10.32.0.2",
		"name-lookup-json":      "name lookup chat --json",
		"name-lookup-unknown":   "name lookup ghost",
		"service-ls":            "service ls",
		"service-ls-json":       "service ls --json",
		"service-add":           "service add _http._tcp web 80 --txt path=/ --weight 3",
		"service-add-help":      "service add --help",
		"service-rm":            "service rm _irc._tcp chat",
		"service-rm-unknown":    "service rm _irc._tcp ghost",
		"pub":                   "pub news.a hello",
		"pub-json":              "pub news.a hello --header A:b --json",
		"pub-nobody":            "pub weather hello",
		"pub-bus":               "pub news.a hello --bus ghost",
		"sub":                   "sub news.> -n 3",
		"sub-slow":              "sub slow -n 1 --queue w",
		"sub-timeout":           "sub news.> -n 4 --timeout 300ms",
		"request":               "request echo hello",
		"request-json":          "request echo hello --json --timeout 2s",
		"request-nobody":        "request weather hello",
		"request-mute":          "request mute hello",
	}
	for name, line := range tests {
		t.Run(name, func(t *testing.T) {
			runDir := apiservertest.Serve(t, apiservertest.New())
			got := weft(t, runDir, "", strings.Fields(line)...)
			text := fmt.Sprintf("$ weft %s\n%s-- errors --\n%s-- exit %d --\n", line, got.out, got.errs, got.code)
			text = strings.ReplaceAll(text, runDir, "RUN_DIR")
			goldentest.Compare(t, name+".txt", text)
			if strings.HasSuffix(name, "-json") && !json.Valid([]byte(got.out)) {
				t.Errorf("not JSON: %s", got.out)
			}
		})
	}
}

// Mistakes in the command line are found without a daemon: exit 2, one line that names the thing,
// one that says where to read on, nothing on stdout.
func TestUsageErrors(t *testing.T) {
	for line, want := range map[string]string{
		"frobnicate":                                "no command frobnicate",
		"--colour":                                  "unknown flag",
		"hosts ghost":                               "hosts takes no argument, but was given ghost",
		"hosts --bogus":                             "unknown flag: --bogus",
		"host":                                      "one of its commands is missing",
		"host rm":                                   "NAME is missing",
		"host rm a b":                               "too many: b",
		"network create":                            "NAME is missing",
		"network create UPPER":                      `network "UPPER": use a-z`,
		"network create -- -a":                      "use a-z",
		"network create a --subnet 10.0.0.0":        "--subnet 10.0.0.0: want ADDRESS/BITS",
		"network create a --subnet 10.0.0.1/8":      "did you mean 10.0.0.0/8",
		"network create a --subnet fd00::/64":       "wrong IP version",
		"network create a --subnet6 10.0.0.0/8":     "wrong IP version",
		"network create a --allow-group 10.1.1.1":   "not a multicast address",
		"network create a --deny-group 10.0.0.0/8":  "not a range of multicast",
		"network create a --deny-group 224.0.0.0/3": "not a range of multicast",
		"network create a --rate -1":                "--rate -1",
		"network create a --rate x":                 "invalid argument",
		"network frob":                              "network has no command frob",
		"attach":                                    "say what to attach",
		"attach --pid 1 --netns /x":                 "none of the others can be",
		"attach --pid -5":                           "--pid -5",
		"attach --pid x":                            "invalid argument",
		"attach --pid 1 --ip 10.0.0.0/8":            "without a prefix length",
		"attach --pid 1 --ip 239.1.1.1":             "unicast",
		"attach --pid 1 --name Bad_Name":            "use a-z",
		"detach":                                    "say what to detach",
		"detach a --pid 1":                          "say what to detach",
		"expose nonsense":                           "address nonsense",
		"expose 10.0.0.1 10.0.0.2":                  "too many",
		"hide x":                                    "takes no argument",
		"connect":                                   "HOST is missing",
		"forget":                                    "HOST is missing",
		"token rotate now":                          "takes no argument",
		"ping":                                      "HOST is missing",
		"name":                                      "one of its commands is missing",
		"names x":                                   "takes no argument",
		"name add web":                              "NAME ADDRESS... is missing",
		"name add Web 10.0.0.1":                     "use a-z",
		"name add web 10.0.0.0/8":                   "address 10.0.0.0/8: want IPv4 or IPv6",
		"name add web 10.0.0.1 --network Bad_Name":  "use a-z",
		"name rm":                                   "NAME is missing",
		"name rm web x":                             "address x",
		"name lookup":                               "NAME is missing",
		"service":                                   "one of its commands is missing",
		"service add http web 80":                   "want _NAME._tcp",
		"service add _http._tcp web 0":              "port 0",
		"service add _http._tcp web http":           "port http",
		"service add _http._tcp web 80 --txt =x":    "--txt",
		"service add _http._tcp web 80 --weight -1": "--weight -1",
		"service rm _http._tcp":                     "SERVICE NAME is missing",
		"ping two -c -1":                            "--count -1",
		"ping two -s 65508":                         "--size 65508",
		"ping two -i 0s":                            "--interval 0s",
		"ping two -W 2h":                            "--timeout 2h",
		"down --leave --clean":                      "none of the others can be",
		"chat":                                      "GROUP:PORT is missing",
		"chat 10.0.0.1:5":                           "not a multicast address",
		"chat 239.1.1.1:5 --json":                   "--json is not for datagrams",
		"send 239.1.1.1":                            "port is missing",
		"send 239.1.1.1:5 --ttl 0":                  "--ttl 0",
		"send 239.1.1.1:5 --ttl 256":                "--ttl 256",
		"send 232.1.1.1,10.0.0.1:5":                 "a sender does not choose",
		"recv 239.1.1.1:5 -n -1":                    "-n -1",
		"recv 239.1.1.1:5 --timeout -1s":            "--timeout -1s",
		"recv 239.1.1.1:5 --timeout 0s":             "--timeout 0s",
		"recv 239.1.1.1:5 --timeout soon":           "invalid argument",
		"pub":                                       "SUBJECT is missing",
		"pub a b c":                                 "too many: c",
		"pub a.* b":                                 "wildcards are for subscriptions",
		"pub a b --header x":                        "want NAME: VALUE",
		"sub":                                       "SUBJECT is missing",
		"sub a..b":                                  "an empty token",
		"sub a -n -1":                               "-n -1",
		"sub a --timeout 0s":                        "--timeout 0s",
		"request a":                                 "SUBJECT and TEXT is missing",
		"request a.> b":                             "wildcards are for subscriptions",
		"request a b --timeout 2m":                  "--timeout 2m0s",
	} {
		t.Run(line, func(t *testing.T) {
			got := weft(t, t.TempDir(), "", strings.Fields(line)...)
			if got.code != ExitUsage || got.out != "" {
				t.Errorf("exit %d, printed %q", got.code, got.out)
			}
			checkErrorForm(t, got.errs)
			if !strings.Contains(got.errs, want) {
				t.Errorf("no %q in %q", want, got.errs)
			}
		})
	}
}

func checkErrorForm(t *testing.T, errs string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
	for i, l := range lines {
		if !strings.HasPrefix(l, "weft: ") && (i == 0 || !strings.HasPrefix(l, "hint: ")) {
			t.Errorf("error line %q", l)
		}
	}
	if len(lines) > 3 {
		t.Errorf("%d lines of errors: %q", len(lines), errs)
	}
}

// Every command that needs the daemon says so, names the socket and the way to start it.
func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	for _, line := range []string{
		"status", "hosts", "host ls", "host rm a", "links", "networks", "network ls", "network show a", "network create a", "network rm a",
		"attachments", "attach --pid 1", "detach a", "expose", "hide", "groups", "ipam", "names", "name ls", "name add a 10.0.0.1", "name rm a", "name lookup a", "service ls", "service add _a._tcp b 1", "service rm _a._tcp b", "token", "token --bus weft", "token rotate", "connect a", "forget a", "ping a",
		"down --leave", "status --wait", "hosts --json",
	} {
		got := weft(t, dir, "", strings.Fields(line)...)
		if got.code != ExitFailed || got.out != "" || !strings.Contains(got.errs, filepath.Join(dir, "weft.sock")) || !strings.Contains(got.errs, "weft up") {
			t.Errorf("%s: %+v", line, got)
		}
		checkErrorForm(t, got.errs)
	}
	if got := weft(t, dir, "", "run", "--", "true"); got.code != 125 {
		t.Errorf("run: %+v", got)
	}
	if got := weft(t, dir, "", "run", "--ip", "x", "--", "true"); got.code != 125 {
		t.Errorf("run with a bad flag: %+v", got)
	}
	if got := weft(t, dir, "", "down"); got.code != ExitOK || got.out != "not running\n" {
		t.Errorf("down: %+v", got)
	}
}

func TestDegraded(t *testing.T) {
	b := apiservertest.New()
	dir := apiservertest.Serve(t, b)
	b.Edit(func(s *api.Status) {
		s.State, s.Reason = api.StateJoining, "10.1.0.2:6783 takes TCP but not this token"
		s.Paths = map[string]int{api.PathNone: 1}
	})
	if got := weft(t, dir, "", "status"); got.code != ExitDegraded || !strings.Contains(got.errs, "not this token") || !strings.Contains(got.out, "joining") {
		t.Errorf("joining: %+v", got)
	}
	if got := weft(t, dir, "", "status", "--wait", "--json"); got.code != ExitDegraded || !json.Valid([]byte(got.out)) {
		t.Errorf("wait in vain: %+v", got)
	}
	b.Edit(func(s *api.Status) { s.State, s.Paths = api.StateFounded, nil })
	if got := weft(t, dir, "", "status"); got.code != ExitOK {
		t.Errorf("founded: %+v", got)
	}
	b.Edit(func(s *api.Status) { s.State, s.Paths = api.StateConnected, map[string]int{api.PathDirect: 1} })
	if got := weft(t, dir, "", "status", "--wait"); got.code != ExitOK {
		t.Errorf("connected: %+v", got)
	}
}

// TestDiscovery: status says of each source what it has, or that it fails; what to do about that stands among the warnings.
func TestDiscovery(t *testing.T) {
	b := apiservertest.New()
	dir := apiservertest.Serve(t, b)
	now := time.Now()
	b.Edit(func(s *api.Status) {
		s.Discovery = []api.Discovery{
			{Source: "etcd://10.0.0.5:2379/weft", State: api.DiscoveryOK, LastSuccess: &now, Addresses: 3, Unanswered: []string{"10.1.0.9:6783"}, Registered: true},
			{Source: "lan", State: api.DiscoveryAsking},
			{Source: "swarm", State: api.DiscoveryFailing, LastSuccess: &now, Addresses: 2, ReadOnly: true, Failures: 3, RetryS: 8, Error: "in no swarm", Hint: "docker swarm join"},
		}
		s.Warnings = append(s.Warnings, api.Warning{Code: "discover", Text: "swarm: in no swarm", Fix: "docker swarm join"})
	})
	got := weft(t, dir, "", "status")
	text := strings.Join(strings.Fields(got.out), " ")
	for _, want := range []string{
		"discover ok etcd://10.0.0.5:2379/weft: 3 addresses, 1 without an answer (10.1.0.9:6783), this host is registered, answered 0s ago",
		"discover asking lan: has not answered yet",
		"discover failing swarm: 2 addresses, answered 0s ago, 3 tries failed, the next in 8s",
		"warning discover swarm: in no swarm", "fix: docker swarm join",
	} {
		if got.code != ExitOK || !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	var s api.Status
	if got := weft(t, dir, "", "status", "--json"); json.Unmarshal([]byte(got.out), &s) != nil || len(s.Discovery) != 3 || s.Discovery[2].Hint != "docker swarm join" {
		t.Errorf("as JSON: %+v", got)
	}
}

// A daemon's error is told in its words; a malformed request is the caller's mistake.
func TestExitCodeOfAnswers(t *testing.T) {
	for err, want := range map[error]int{
		error(api.Errorf(api.CodeInvalid, "name too long")):        ExitUsage,
		error(api.Errorf(api.CodeConflict, "in use")):              ExitFailed,
		error(api.Errorf(api.CodeUnavailable, "no majority")):      ExitFailed,
		errors.New("disk full"):                                    ExitFailed,
		errors.Join(errors.New("one"), errors.New("two of three")): ExitFailed,
	} {
		b := apiservertest.New()
		b.Fail(err)
		got := weft(t, apiservertest.Serve(t, b), "", "hosts")
		if got.code != want || got.out != "" {
			t.Errorf("%v: %+v", err, got)
		}
		for line := range strings.Lines(err.Error()) {
			if !strings.Contains(got.errs, "weft: "+strings.TrimSpace(line)+"\n") {
				t.Errorf("%v: told %q", err, got.errs)
			}
		}
		checkErrorForm(t, got.errs)
	}
}

func TestExposeAndHide(t *testing.T) {
	b := apiservertest.New()
	dir := apiservertest.Serve(t, b)
	for _, line := range []string{"expose", "attach --pid 7 --name seven", "attach --netns /run/netns/x --name x", "hide", "detach --pid 7", "detach x"} {
		if got := weft(t, dir, "", strings.Fields(line)...); got.code != ExitOK {
			t.Errorf("%s: %+v", line, got)
		}
	}
	calls := b.Calls()
	for _, want := range []string{"attach kind=host network=weft ips=[]", "attach kind=netns network=weft ips=[]", "detach weft/one", "detach weft/seven", "detach weft/x"} {
		if !slices.Contains(calls, want) {
			t.Errorf("no %q in %q", want, calls)
		}
	}
}

func TestDownWithoutDaemonCleans(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	var asked CleanOptions
	var out, errs bytes.Buffer
	app := &App{
		Args: []string{"down", "--clean"}, Env: []string{"WEFT_RUN_DIR=" + dir, "WEFT_STATE_DIR=" + state}, Out: &out, Err: &errs,
		Clean: func(_ context.Context, o CleanOptions) error { asked = o; return nil },
	}
	if code := app.Main(t.Context()); code != ExitOK || out.String() != "cleaned\n" {
		t.Errorf("exit %d, %q, %q", code, out.String(), errs.String())
	}
	if want := (CleanOptions{RunDir: dir, StateDir: state}); asked != want {
		t.Errorf("cleaned %+v, want %+v", asked, want)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := weft(t, t.TempDir(), "", "completion", shell); got.code != ExitOK || !strings.Contains(got.out, "weft") {
			t.Errorf("%s: %d %s", shell, got.code, got.errs)
		}
	}
}

func TestTakeArgsLeavesOthersAlone(t *testing.T) {
	// Only what follows --token is overwritten: none of these strings may be.
	in := []string{"weft", "run", "--", "x", "--token", "theirs"}
	got := TakeArgs(in)
	if !slices.Equal(got, in) || in[5] != "theirs" {
		t.Errorf("%q from %q", got, in)
	}
}

func TestClientNamesTheSocket(t *testing.T) {
	dir := t.TempDir()
	got := weft(t, t.TempDir(), "", "--run-dir", dir, "hosts")
	if !strings.Contains(got.errs, client.SocketPath(dir)) {
		t.Errorf("the flag does not win over the environment: %q", got.errs)
	}
}
