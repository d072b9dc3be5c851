package lease

import (
	"reflect"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

func TestCodec(t *testing.T) {
	l := Lease{Term: Term{Serial: 7, Electors: []ident.HostID{host(1), host(2)}}, Before: &Term{Serial: 6, Electors: []ident.HostID{host(3)}}}
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeLease(b); err != nil || !reflect.DeepEqual(got, l) {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, v := range []Vote{{Serial: 3}, {Gone: true}, {Serial: 1 << 60, Gone: true}} {
		b, err := v.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeVote(b); err != nil || got != v {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	m := Message{Op: Renewed, Serial: 9, Counter: 1 << 63}
	if got, err := DecodeMessage(m.Encode()); err != nil || got != m {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestRefusesLeases(t *testing.T) {
	for name, l := range map[string]Lease{
		"no electors":   {Term: Term{Serial: 1}},
		"no serial":     {Term: Term{Electors: []ident.HostID{host(1)}}},
		"out of order":  {Term: Term{Serial: 1, Electors: []ident.HostID{host(2), host(1)}}},
		"twice":         {Term: Term{Serial: 1, Electors: []ident.HostID{host(1), host(1)}}},
		"before itself": {Term: Term{Serial: 1, Electors: []ident.HostID{host(1)}}, Before: &Term{Serial: 1, Electors: []ident.HostID{host(1)}}},
		"empty before":  {Term: Term{Serial: 2, Electors: []ident.HostID{host(1)}}, Before: &Term{Serial: 1}},
	} {
		b, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeLease(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzLease: whatever members send is refused or read, and what is read can be written again.
func FuzzLease(f *testing.F) {
	l := Lease{Term: Term{Serial: 7, Electors: []ident.HostID{host(1), host(2)}}, Before: &Term{Serial: 6, Electors: []ident.HostID{host(3)}}}
	b, _ := l.Encode()
	f.Add(b)
	v, _ := Vote{Serial: 3, Gone: true}.Encode()
	f.Add(v)
	f.Add((&Message{Op: Renew, Serial: 1, Counter: 2}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := DecodeLease(b); err == nil {
			again, err := l.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := DecodeLease(again); err != nil || !reflect.DeepEqual(got, l) {
				t.Fatalf("%+v, %+v, %v", l, got, err)
			}
			NewElector(host(1), start).SetLease(start, host(9), l)
			NewHolder(&l, 1).Tick(start, nil)
		}
		if v, err := DecodeVote(b); err == nil {
			NewElector(host(1), start).SetVote(host(2), host(9), v)
		}
		if m, err := DecodeMessage(b); err == nil && string(m.Encode()) != string(b) {
			t.Fatal("a message reads otherwise than it was written")
		}
	})
}
