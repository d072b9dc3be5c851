package natsproto

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func show(op Op) string {
	return fmt.Sprintf("%d %q %q %q %q %d %q %q %q", op.Kind, op.Subject, op.Reply, op.Queue, op.SID, op.Max, op.Header, op.Payload, op.Options)
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Op{
		"PING\r\n":                               {Kind: Ping},
		"ping\n":                                 {Kind: Ping},
		"Pong  \r\n":                             {Kind: Pong},
		"CONNECT {\"verbose\":false}\r\n":        {Kind: Connect, Options: []byte(`{"verbose":false}`)},
		"SUB a.* 9\r\n":                          {Kind: Sub, Subject: []byte("a.*"), SID: []byte("9")},
		"sub\ta.>\t workers  x1\r\n":             {Kind: Sub, Subject: []byte("a.>"), Queue: []byte("workers"), SID: []byte("x1")},
		"UNSUB 9\r\n":                            {Kind: Unsub, SID: []byte("9")},
		"UNSUB 9 5\r\n":                          {Kind: Unsub, SID: []byte("9"), Max: 5},
		"PUB a 0\r\n\r\n":                        {Kind: Pub, Subject: []byte("a")},
		"PUB a.b _INBOX.1 5\r\nhe\r\no\r\n":      {Kind: Pub, Subject: []byte("a.b"), Reply: []byte("_INBOX.1"), Payload: []byte("he\r\no")},
		"HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n": {Kind: HPub, Subject: []byte("a"), Header: []byte("NATS/1.0\r\n\r\n"), Payload: []byte("hi")},
		"HPUB a r 18 18\r\nNATS/1.0\r\nA: b\r\n\r\n\r\n": {
			Kind: HPub, Subject: []byte("a"), Reply: []byte("r"), Header: []byte("NATS/1.0\r\nA: b\r\n\r\n"),
		},
	} {
		op, n, _, err := Parse([]byte(in+"PING\r\n"), 100)
		if err != nil || n != len(in) || show(op) != show(want) {
			t.Errorf("%q: %v, %d bytes, %s; want %s", in, err, n, show(op), show(want))
		}
		for cut := range len(in) { // however it is cut, it waits for the rest
			_, n, need, err := Parse([]byte(in[:cut]), 100)
			if err != nil || n != 0 || need <= cut || need > len(in) {
				t.Errorf("%q: n %d, need %d, %v", in[:cut], n, need, err)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]error{
		"\r\n":                                 ErrUnknown,
		"GET / HTTP/1.1\r\n":                   ErrUnknown,
		"CONNECTED {}\r\n":                     ErrUnknown,
		"PING now\r\n":                         ErrArguments,
		"SUB a\r\n":                            ErrArguments,
		"SUB a b c d\r\n":                      ErrArguments,
		"UNSUB\r\n":                            ErrArguments,
		"UNSUB 1 -1\r\n":                       ErrArguments,
		"PUB a\r\n":                            ErrArguments,
		"PUB a x\r\n":                          ErrArguments,
		"PUB a +1\r\n":                         ErrArguments,
		"PUB a b c 1\r\n":                      ErrArguments,
		"PUB a 99999999999\r\n":                ErrArguments,
		"PUB a 101\r\n":                        ErrPayload,
		"PUB a 1\r\nxyz":                       ErrArguments,
		"HPUB a 5\r\n":                         ErrArguments,
		"HPUB a 6 5\r\n":                       ErrArguments,
		"HPUB a 0 5\r\n":                       ErrArguments,
		"HPUB a 4 4\r\nNATS\r\n":               ErrArguments,
		"HPUB a 12 101\r\n":                    ErrPayload,
		"SUB " + strings.Repeat("a", 5000):     ErrControlLine,
		strings.Repeat("a", MaxControlLine+10): ErrControlLine,
	} {
		if _, n, _, err := Parse([]byte(in), 100); !errors.Is(err, want) || n != 0 {
			t.Errorf("%.20q: %v, want %v", in, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := ParseOptions([]byte(`{"verbose":false,"headers":true,"no_responders":true,"auth_token":"s3","jwt":"x","name":"n"}`))
	if err != nil || o.Verbose || !o.Echo || !o.Headers || !o.NoResponders || o.Token != "s3" || o.Name != "n" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := ParseOptions([]byte(`{"echo":false}`)); err != nil || o.Echo || !o.Verbose {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"", "x", `{"verbose":"yes"}`, "{" + strings.Repeat(" ", 5000) + "}"} {
		if _, err := ParseOptions([]byte(bad)); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
}

func TestAppend(t *testing.T) {
	if got := string(AppendMessage(nil, "a.b", "7", []byte("r"), nil, []byte("hello"))); got != "MSG a.b 7 r 5\r\nhello\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(AppendMessage(nil, "a", "7", nil, []byte(NoResponders), nil)); got != "HMSG a 7 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(AppendError(nil, "it's\nbad")); got != "-ERR 'it s bad'\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(AppendInfo(nil, &Info{Name: "h1"})); !strings.HasPrefix(got, `INFO {"server_id":""`) || !strings.HasSuffix(got, "}\r\n") {
		t.Errorf("%q", got)
	}
	if !CheckHeader([]byte(NoResponders)) {
		t.Error("our own header is none")
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	in := []byte("PUB quotes.eu.sap 5\r\nhello\r\n")
	if n := testing.AllocsPerRun(100, func() { _, _, _, _ = Parse(in, MaxPayload) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: nothing panics, nothing reads past its end, and what is taken stays the same however much follows.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"PING\r\n", "SUB a q 1\r\n", "UNSUB 1 2\r\n", "PUB a b 3\r\nabc\r\n", "HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "CONNECT {}\r\n", "\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		op, n, need, err := Parse(b, 1000)
		switch {
		case err != nil:
			if n != 0 {
				t.Errorf("%v, and %d bytes", err, n)
			}
		case n == 0:
			if need <= len(b) || need > MaxControlLine+1000+4 {
				t.Errorf("needs %d of %d", need, len(b))
			}
		case n > len(b) || len(op.Header)+len(op.Payload) > 1000:
			t.Errorf("%d of %d bytes, payload %d", n, len(b), len(op.Payload))
		default:
			again, m, _, err := Parse(bytes.Join([][]byte{b[:n], []byte("PING\r\n")}, nil), 1000)
			if err != nil || m != n || show(again) != show(op) {
				t.Errorf("%q: %v, %d and %d bytes", b[:n], err, n, m)
			}
		}
	})
}

func FuzzParseOptions(f *testing.F) {
	f.Add([]byte(`{"verbose":true,"auth_token":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := ParseOptions(b); err != nil && o != (Options{}) {
			t.Error("an error, and options")
		}
	})
}

func TestHeader(t *testing.T) {
	status, fields, ok := ParseHeader([]byte("NATS/1.0 503 No one\r\nA: b \r\nnonsense\r\nA:c\r\n\r\n"))
	if !ok || status != "503 No one" || fmt.Sprint(fields) != "[{A b} {A c}]" {
		t.Errorf("%q %v %v", status, fields, ok)
	}
	if got := string(AppendHeader(nil, []Field{{"A:\r\n", "b\r\nc"}})); got != "NATS/1.0\r\nA: bc\r\n\r\n" {
		t.Errorf("%q", got)
	}
	if _, _, ok := ParseHeader([]byte("HTTP/1.0\r\n\r\n")); ok {
		t.Error("not ours, and taken")
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte("NATS/1.0 503\r\nA: b\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, fields, ok := ParseHeader(b); ok {
			if _, _, ok := ParseHeader(AppendHeader(nil, fields)); !ok {
				t.Errorf("%q cannot be read again", b)
			}
		}
	})
}
