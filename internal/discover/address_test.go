package discover

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func aps(texts ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range texts {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestParseAddresses(t *testing.T) {
	text := "# hosts\n\n10.0.0.5\n 10.0.0.6:7777 \r\nfd00::5\n[fd00::6]\n[fd00::7]:7777\n::ffff:10.0.0.8\n10.0.0.5:6783\n" +
		"127.0.0.1\n0.0.0.0:1\n224.0.0.1\nfe80::1%eth0\n255.255.255.255\n[::1]:6783\n10.0.0.9:0\nhost.example\n10.0.0.256\n\x1b[2J\n"
	got := ParseAddresses([]byte(text), 6783)
	want := aps("10.0.0.5:6783", "10.0.0.6:7777", "[fd00::5]:6783", "[fd00::6]:6783", "[fd00::7]:7777", "10.0.0.8:6783")
	if !slices.Equal(got.Addrs, want) || got.Refused != 10 || got.Why != "127.0.0.1 is every host's own address" {
		t.Errorf("%v, %d refused (%s); want %v, 10", got.Addrs, got.Refused, got.Why, want)
	}
	var many strings.Builder
	for i := range MaxFound + 10 {
		fmt.Fprintf(&many, "10.1.%d.%d\n", i/256, i%256)
	}
	if got := ParseAddresses([]byte(many.String()), 1); len(got.Addrs) != MaxFound || got.Refused != 10 {
		t.Errorf("%d addresses, %d refused: the table is not bounded", len(got.Addrs), got.Refused)
	}
	own := aps("10.0.0.5:6783", "[fd00::5]:6783", "1.1.1.1:1", "1.1.1.1:2", "1.1.1.1:3", "1.1.1.1:4", "1.1.1.1:5", "1.1.1.1:6", "1.1.1.1:7")
	if back := ParseAddresses(EncodeAddresses(own), 1); !slices.Equal(back.Addrs, own[:MaxOwn]) {
		t.Errorf("%v, want the first %d of %v", back.Addrs, MaxOwn, own)
	}
}

func FuzzParseAddresses(f *testing.F) {
	f.Add([]byte("10.0.0.5\n[fd00::1]:7\n# x\n\xff\n"))
	f.Fuzz(func(t *testing.T, b []byte) { sound(t, ParseAddresses(b, 6783)) })
}

// sound checks what must hold of whatever a source says.
func sound(t *testing.T, found Found) {
	t.Helper()
	if len(found.Addrs) > MaxFound {
		t.Fatalf("%d addresses", len(found.Addrs))
	}
	for i, ap := range found.Addrs {
		if err := CheckAddress(ap); err != nil || slices.Contains(found.Addrs[:i], ap) || ap.Addr().Is4In6() || ap.Addr().Zone() != "" {
			t.Fatalf("%v among the addresses (%v)", ap, err)
		}
	}
	if (found.Refused == 0) != (found.Why == "") || len(found.Why) > 1000 || strings.ContainsAny(found.Why, "\x1b\n\r\x00") {
		t.Fatalf("%d refused, %q", found.Refused, found.Why)
	}
}

func TestShown(t *testing.T) {
	long := strings.Repeat("ä", 300)
	for in, want := range map[string]string{
		"plain":               `"plain"`,
		"\x1b[2J\n\u009b\xff": `"?[2J???"`,
		long:                  `"` + strings.Repeat("ä", maxText/2) + `…"`,
	} {
		if got := shown(in); got != want {
			t.Errorf("%q is shown as %s, want %s", in, got, want)
		}
	}
}

// TestNew: what people write is taken apart, or refused with what to write; nothing is asked for that.
func TestNew(t *testing.T) {
	for _, s := range []string{
		"consul://10.0.0.5:8500/weft", "consul://[fd00::1]:8500,b/prod/weft", "consul+https://c.example/weft?token-file=/etc/weft/consul&cert=/c&key=/k",
		"etcd://10.0.0.5:2379,10.0.0.6:2379,fd00::7/weft", "etcd://e/weft?user=weft&password-file=/etc/weft/etcd", "etcd+https://e/weft",
		"dns+srv://_weft._udp.example.org", "dns+srv://example.org", "dns://weft.example.org", "dns://weft.example.org:7777",
		"lan", "exec:/usr/local/bin/hosts", "exec:/usr/bin/list --tag weft", "swarm", "swarm:///run/docker.sock", "swarm:///run/docker.sock?port=7777",
	} {
		if err := Check([]string{s}); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for s, want := range map[string]string{
		"":                             "want one of",
		"10.0.0.5":                     "want one of",
		"zookeeper://h/x":              "want one of",
		"lan\n":                        "want one of",
		"consul://10.0.0.5:8500":       "and a name",
		"consul:///weft":               "HOST:PORT",
		"consul://h:0x1/weft":          "no HOST:PORT",
		"consul://a:1:2/weft":          "no HOST:PORT",
		"consul://h/../weft":           "use letters",
		"consul://h/we ft":             "use letters",
		"consul://h/weft?token=s3cret": "no setting token=",
		"consul://h/weft?token-file=x": "absolute path",
		"consul://h/weft?token-file=/a&token-file=/b": "once",
		"consul://h/weft?ca=/c":                       "need TLS",
		"consul://root:hunter2@h/weft":                "no user or password",
		"consul+https://h/weft?cert=/c":               "both",
		"consul+https://h/weft?ca=/nowhere":           "no such file",
		"etcd://e/weft?user=weft":                     "both",
		"dns+srv://example.org:6783":                  "SRV records say the ports",
		"dns://10.0.0.5":                              "no name in DNS",
		"dns://a,b":                                   "one name",
		"dns://weft.example.org:x":                    "port",
		"exec:hosts":                                  "absolute path",
		"exec:":                                       "absolute path",
		"exec:/bin/sh -c 'curl x | sh'":               "no shell",
		"exec:/bin/echo $HOME":                        "no shell",
		"swarm://tcp.example:2375":                    "swarm:///",
		"swarm:///run/docker.sock?port=0":             "port",
		"swarm:///run/docker.sock?token=x":            "no setting",
	} {
		if err := Check([]string{s}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", s, err, want)
		}
	}
	if err := Check([]string{"consul://root:hunter2@h/weft"}); err == nil || !strings.Contains(err.Error(), "password") || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
	if err := Check([]string{"lan", "lan"}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
	if err := Check(slices.Repeat([]string{"lan"}, MaxSources+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
}

func FuzzNew(f *testing.F) {
	for _, s := range []string{"consul://10.0.0.5:8500/weft?token-file=/x", "etcd://a,b:1/w", "dns://n:1", "exec:/a b", "swarm:///s?port=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if src, err := New(s, Environment{Port: 6783}); err == nil {
			_ = src.Close()
		}
	})
}
