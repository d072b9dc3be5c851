package ident

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func newKeys(t testing.TB) Keys {
	t.Helper()
	k, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestHostID(t *testing.T) {
	id := newKeys(t).ID()
	if got, err := ParseHostID(id.String()); err != nil || got != id {
		t.Errorf("%v %v", got, err)
	}
	if len(id.Short()) != 8 || !strings.HasPrefix(id.String(), id.Short()) {
		t.Error(id.Short())
	}
	for _, s := range []string{"", "0", strings.Repeat("g", 32), strings.Repeat("0", 31), strings.Repeat("0", 33)} {
		if _, err := ParseHostID(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	b, err := json.Marshal(map[HostID]HostID{id: id})
	if err != nil {
		t.Fatal(err)
	}
	var back map[HostID]HostID
	if err := json.Unmarshal(b, &back); err != nil || back[id] != id {
		t.Errorf("%s: %v %v", b, back, err)
	}
	if !(HostID{}).IsZero() || id.IsZero() || (HostID{1}).Less(HostID{0, 9}) || !(HostID{0, 9}).Less(HostID{1}) || id.Less(id) {
		t.Error("IsZero or Less")
	}
	if a := id.Addr(); a.As16() != id {
		t.Error(a)
	}
}

func TestToken(t *testing.T) {
	tok := NewToken()
	text := tok.Encode()
	for _, s := range []string{text, strings.ToUpper(text), " " + text + "\n"} {
		if got, err := ParseToken(s); err != nil || got != tok {
			t.Errorf("%v", err)
		}
	}
	if tok == NewToken() || tok.Cluster.IsZero() {
		t.Error("not random")
	}
	for i := range text {
		for _, s := range []string{text[:i], text[:i] + text[i+1:], text[:i] + "a" + text[i:]} {
			if s == text {
				continue
			}
			if got, err := ParseToken(s); err == nil && got == tok || err != nil && !errors.Is(err, ErrToken) {
				t.Errorf("cut or lengthened at %d: %v", i, err)
			} else if err != nil && len(s) > 20 && strings.Contains(err.Error(), s[8:]) {
				t.Error("the error shows the token")
			}
		}
		swapped := []byte(text)
		if swapped[i] = 'z'; text[i] == 'z' {
			swapped[i] = 'y'
		}
		// The last letter holds one bit that is not used.
		if _, err := ParseToken(string(swapped)); err == nil && i < len(text)-1 {
			t.Errorf("letter %d changed, and taken", i)
		}
	}
}

// TestSecretsAreHidden: under every verb, in both log formats.
func TestSecretsAreHidden(t *testing.T) {
	tok, k := NewToken(), newKeys(t)
	for _, v := range []any{tok, &tok, tok.Secret, &tok.Secret, k, &k, struct{ T Token }{tok}, []Secret{tok.Secret}} {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%U", "%c"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		if _, whole := v.(struct{ T Token }); !whole { // a handler sees through structs that only we could hide
			slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		}
		for _, secret := range [][]byte{tok.Secret[:], k.Sign, k.Static.Bytes()} {
			for _, form := range []string{"%x", "%X", "%d", "%v", "%o"} {
				s := strings.Trim(fmt.Sprintf(form, secret[:8]), "[]")
				if strings.Contains(out.String(), s) {
					t.Errorf("%T shows a secret:\n%s", v, out.String())
				}
			}
		}
	}
}

func TestKeysAndCard(t *testing.T) {
	k := newKeys(t)
	back, err := KeysFromSeed(k.Seed())
	if err != nil || back.ID() != k.ID() || back.Card() != k.Card() {
		t.Errorf("%v", err)
	}
	for _, n := range []int{0, 63, 65} {
		if _, err := KeysFromSeed(make([]byte, n)); err == nil {
			t.Errorf("a seed of %d bytes", n)
		}
	}
	c := k.Card()
	if got, err := ParseCard(c.Bytes()); err != nil || got != c || got.ID() != k.ID() {
		t.Errorf("%v", err)
	}
	b := c.Bytes()
	if len(b) != CardSize {
		t.Errorf("%d bytes", len(b))
	}
	for i := range b {
		d := bytes.Clone(b)
		d[i] ^= 1
		if _, err := ParseCard(d); err == nil {
			t.Errorf("byte %d changed, and taken", i)
		}
		if _, err := ParseCard(b[:i]); err == nil {
			t.Errorf("%d bytes taken", i)
		}
	}
	other := newKeys(t).Card()
	c.Static = other.Static
	if c.Check() == nil {
		t.Error("another host's X25519 key")
	}
}

func TestCheckDomain(t *testing.T) {
	for _, s := range []string{"", "10", "a.10", "in-addr.arpa", "localhost", "a_b.c", "A.b", "a..b", "a.", strings.Repeat("a.", 32) + "b"} {
		if CheckDomain(s) == nil {
			t.Errorf("domain %q is taken", s)
		}
	}
	for _, s := range []string{"weft.internal", "weave.local", "x"} {
		if err := CheckDomain(s); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{"a", "a-b", "0", strings.Repeat("x", 63)} {
		if err := CheckName("name", s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "-a", "a-", "A", "a.b", "a_b", "ü", "a b", "a\n", strings.Repeat("x", 64)} {
		if CheckName("name", s) == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken().Encode())
	f.Add("weft1")
	f.Add("weft1aaaa")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrToken) {
				t.Errorf("%v", err)
			}
			return
		}
		if again, err := ParseToken(tok.Encode()); err != nil || again != tok {
			t.Errorf("%v", err)
		}
	})
}

func FuzzParseCard(f *testing.F) {
	f.Add(newKeys(f).Card().Bytes())
	f.Add(make([]byte, CardSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCard(b); err == nil && !bytes.Equal(c.Bytes(), b) {
			t.Error("does not come out as it went in")
		}
	})
}

func FuzzParseHostID(f *testing.F) {
	f.Add(newKeys(f).ID().String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseHostID(s); err == nil && id.String() != strings.ToLower(s) {
			t.Errorf("%q became %s", s, id)
		}
	})
}
