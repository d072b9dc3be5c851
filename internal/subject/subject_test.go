package subject

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, s := range []string{"a", "a.b", "quotes.eu.sap", "ä.ö", "a-b_c.0", strings.Repeat("a.", MaxTokens-1) + "a", strings.Repeat("x", MaxLength)} {
		if err := Check(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{
		"", ".", "a.", ".a", "a..b", "a b", "a.\t", "a.*", ">", "a.>", "a*", "\xff", "a.\x00",
		strings.Repeat("a.", MaxTokens) + "a", strings.Repeat("x", MaxLength+1),
	} {
		if err := Check(s); !errors.Is(err, ErrBad) {
			t.Errorf("%q is taken: %v", s, err)
		}
	}
	for _, s := range []string{"*", ">", "a.*", "*.b", "a.>", "*.*.>"} {
		if err := CheckPattern(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{">.a", "a*", "a.b>", "**", ">>", "a.>.b"} {
		if err := CheckPattern(s); !errors.Is(err, ErrBad) {
			t.Errorf("%q is taken: %v", s, err)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a.b", "a", false},
		{"a.*", "a.b", true},
		{"a.*", "a", false},
		{"a.*", "a.b.c", false},
		{"a.>", "a", false},
		{"a.>", "a.b", true},
		{"a.>", "a.b.c.d", true},
		{">", "a.b", true},
		{"*", "a", true},
		{"*.b", "a.*", true},
		{"*.b", "a.c", false},
		{"a.>", "*.b", true},
		{"a.>", "b.>", false},
		{"a.*.c", "a.b.>", true},
		{"a.*.c", "a.b.*.>", false},
	} {
		if got := Overlap(c.a, c.b); got != c.want {
			t.Errorf("%s ~ %s: %v", c.a, c.b, got)
		}
		if got := Overlap(c.b, c.a); got != c.want {
			t.Errorf("%s ~ %s: %v", c.b, c.a, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Overlap("quotes.eu.*", "quotes.eu.sap") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestTrieAgainstList compares the trie with a list that is searched.
func TestTrieAgainstList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(wild bool) string {
		var toks []string
		for n := 1 + r.IntN(4); len(toks) < n; {
			tok := string(rune('a' + r.IntN(3)))
			if wild && r.IntN(4) == 0 {
				tok = "*"
			}
			toks = append(toks, tok)
		}
		if wild && r.IntN(4) == 0 {
			toks = append(toks, ">")
		}
		return strings.Join(toks, ".")
	}
	type item struct {
		pattern string
		e       Entry[int]
	}
	var tr Trie[int]
	var list []item
	for range 3000 {
		switch r.IntN(3) {
		case 0:
			i := item{word(true), Entry[int]{r.IntN(5), []string{"", "q"}[r.IntN(2)]}}
			tr.Add(i.pattern, i.e)
			if !slices.Contains(list, i) {
				list = append(list, i)
			}
		case 1:
			if len(list) > 0 && r.IntN(2) == 0 {
				k := r.IntN(len(list))
				tr.Remove(list[k].pattern, list[k].e)
				list = slices.Delete(list, k, k+1)
			} else {
				tr.Remove("not.there", Entry[int]{})
			}
		default:
			s := word(r.IntN(2) == 0)
			var got, want []string
			tr.Match(s, func(e Entry[int]) { got = append(got, fmt.Sprint(e)) })
			for _, i := range list {
				if Overlap(i.pattern, s) {
					want = append(want, fmt.Sprint(i.e))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", s, got, want)
			}
		}
		if tr.Len() != len(list) {
			t.Fatalf("%d entries, want %d", tr.Len(), len(list))
		}
	}
	for _, i := range list {
		tr.Remove(i.pattern, i.e)
	}
	if len(tr.root.children) != 0 {
		t.Error("nodes stay behind")
	}
}
