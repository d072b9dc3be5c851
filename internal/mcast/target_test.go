package mcast

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"239.1.2.3:5000":              "239.1.2.3:5000",
		"224.0.0.251:1":               "224.0.0.251:1",
		"232.1.1.1,10.0.0.2:65535":    "232.1.1.1,10.0.0.2:65535",
		"[ff15::1]:5000":              "[ff15::1]:5000",
		"[FF3E:0:0::1,2001:db8::2]:9": "[ff3e::1,2001:db8::2]:9",
		"[::ffff:239.1.2.3]:7":        "239.1.2.3:7",
	} {
		got, err := Parse(in)
		if err != nil || got.String() != want {
			t.Errorf("Parse(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "port is missing",
		"239.1.2.3":                "port is missing",
		"239.1.2.3:":               "1 to 65535",
		"239.1.2.3:0":              "1 to 65535",
		"239.1.2.3:65536":          "1 to 65535",
		"239.1.2.3:-1":             "1 to 65535",
		"239.1.2.3:+1":             "1 to 65535",
		"239.1.2.3:http":           "1 to 65535",
		":5000":                    "not an IP address",
		"10.0.0.1:5000":            "not a multicast address",
		"239.1.2:5000":             "not an IP address",
		"ff15::1:5000":             "[GROUP]:PORT",
		"[ff15::1]":                "[GROUP]:PORT",
		"[ff15::1]5000":            "[GROUP]:PORT",
		"[239.1.2.3]:5000":         "brackets are for IPv6",
		"[fe80::1]:5000":           "not a multicast address",
		"[ff02::fb%eth0]:5353":     "--iface eth0",
		"232.1.1.1,:5000":          "not an IP address",
		"232.1.1.1,239.1.1.1:5000": "not the address of a sender",
		"232.1.1.1,0.0.0.0:5000":   "not the address of a sender",
		"[ff3e::1,10.0.0.1]:5000":  "same IP version",
	} {
		if got, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, %v; want %q", in, got, err, want)
		}
	}
}

// What Parse takes, String writes so that Parse reads the same; nothing panics.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"239.1.2.3:5000", "[ff15::1]:5000", "232.1.1.1,10.0.0.2:65535", "[ff3e::1,2001:db8::2]:9", "[", "]:", ",:1", "[ff02::1%]:1", "[::ffff:239.1.2.3]:7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(got.String())
		if err != nil || again != got {
			t.Errorf("%q: %v, then %v, %v", s, got, again, err)
		}
	})
}

func TestHarmless(t *testing.T) {
	for in, want := range map[string]string{
		"plain, Grüße, 世界 👩‍👩‍👧": "plain, Grüße, 世界 👩‍👩‍👧",
		"a\tb":             "a\tb",
		"\x1b]0;title\x07": `\x1b]0;title\x07`,
		"a\n10.0.0.1: b\r": `a\x0a10.0.0.1: b\x0d`,
		"\u202egpj.exe":    `\u202egpj.exe`,
		"\u2028\u0085\x7f": `\u2028\u0085\x7f`,
		"\xff\xfe":         `\xff\xfe`,
	} {
		if got := Harmless([]byte(in)); got != want {
			t.Errorf("Harmless(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzHarmless(f *testing.F) {
	f.Add([]byte("\x1b[2J"))
	f.Add([]byte("\u202e\u0085\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := Harmless(b)
		if !utf8.ValidString(s) {
			t.Errorf("%q is not UTF-8", s)
		}
		for _, r := range s {
			if unicode.Is(unicode.Cc, r) && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
				t.Errorf("%q has %U", s, r)
			}
		}
	})
}
