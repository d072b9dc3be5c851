package main

import (
	"slices"
	"testing"
)

func TestParsePing(t *testing.T) {
	out := `PING 10.97.0.2 (10.97.0.2) 56(84) bytes of data.
64 bytes from 10.97.0.2: icmp_seq=1 ttl=64 time=0.053 ms
64 bytes from 10.97.0.2: icmp_seq=3 ttl=64 time=12.5 ms

--- 10.97.0.2 ping statistics ---
3 packets transmitted, 2 received, 33.3333% packet loss, time 22ms
rtt min/avg/max/mdev = 0.053/6.276/12.500/6.223 ms
`
	got, err := parsePing(out)
	if err != nil || !slices.Equal(got, sample{53, 12500}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "100% packet loss, time 22ms", "x time=abc ms\n", "x time=5 s\n"} {
		if got, err := parsePing(bad); err == nil {
			t.Errorf("%q: %v and no error", bad, got)
		}
	}
}

func TestParseIperf(t *testing.T) {
	bytes, bits, err := parseIperf([]byte(`{"start":{},"end":{"sum_sent":{"bytes":9,"bits_per_second":9},
		"sum_received":{"start":0,"bytes":250000000,"bits_per_second":1e9}}}`))
	if err != nil || bytes != 250e6 || bits != 1e9 {
		t.Errorf("%v, %v, %v", bytes, bits, err)
	}
	for _, bad := range []string{``, `{"error":"unable to connect to server: Connection refused"}`, `{"end":{}}`} {
		if _, _, err := parseIperf([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParseLinks(t *testing.T) {
	n, err := parseLinks([]byte(`[{"ifname":"lo","stats64":{"rx":{"packets":7}}},
		{"ifname":"sw","stats64":{"rx":{"packets":9}}},
		{"ifname":"p1","master":"sw","stats64":{"rx":{"bytes":1,"packets":20},"tx":{"packets":3}}},
		{"ifname":"p2","master":"sw","stats64":{"rx":{"packets":22}}}]`))
	if err != nil || n != 42 {
		t.Errorf("%v, %v; want the ports' 42", n, err)
	}
	if _, err := parseLinks([]byte("Dump terminated")); err == nil {
		t.Error("no error for what is no JSON")
	}
}

func TestParseAttachment(t *testing.T) {
	a, err := parseAttachment([]byte(`{"name":"a1","ips":["fd00::5/64","10.32.0.5/20"],"mtu":1400}`))
	if err != nil || a.String() != "10.32.0.5" {
		t.Errorf("%v, %v", a, err)
	}
	for _, bad := range []string{"", `{"ips":["fd00::5/64"]}`} {
		if _, err := parseAttachment([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
