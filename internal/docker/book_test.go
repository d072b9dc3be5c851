package docker

import "testing"

// FuzzBook: a saved state that is damaged is refused, and one that is read is written as it was.
func FuzzBook(f *testing.F) {
	f.Add([]byte(`{"version":1,"made":["party"],"pools":[{"id":"weft,party,10.32.16.0/20,00","network":"party","ip4":"10.32.16.0/20","ip6":"fd57:1:2:1::/64"}],"networks":[{"id":"n1","network":"party"}],"addresses":[{"key":"docker/00","network":"party","pool":"x","ip4":"10.32.16.2/20","ip6":"fd57:1:2:1::a20:1002/64"}],"endpoints":[{"id":"e1","network_id":"n1","network":"party","name":"docker-e1","interface":"wi","mac":"02:57:0a:20:10:02","ips":["10.32.16.2/20"],"keys":["docker/00"]}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeBook(b)
		if err != nil {
			return
		}
		once, err := x.encode()
		if err != nil {
			t.Fatal(err)
		}
		y, err := decodeBook(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice, err := y.encode(); err != nil || string(twice) != string(once) {
			t.Fatalf("%s, then %s (%v)", once, twice, err)
		}
	})
}
