package daemon

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

func addrs(t *testing.T, list ...string) []netip.Addr {
	t.Helper()
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestRecordsComeBack(t *testing.T) {
	cluster := clusterRecord{
		Range: netip.MustParsePrefix("10.32.0.0/12"), ULA: netip.MustParsePrefix("fd01:2:3::/48"), MTU: 1400,
		Groups: addrs(t, "239.195.1.2", "ff15::1:2"), TTL: 3,
	}
	if got, err := decodeCluster(encode(cluster)); err != nil || !reflect.DeepEqual(got, cluster) {
		t.Errorf("cluster: %+v, %v", got, err)
	}
	network := networkRecord{
		VNI: 7, Subnet: netip.MustParsePrefix("10.32.0.0/20"), Subnet6: netip.MustParsePrefix("fd01:2:3:4::/64"),
		Creator: ident.HostID{1}, Explicit: true, Deny: []netip.Prefix{netip.MustParsePrefix("239.0.0.0/8")}, Rate: 50,
	}
	if name, got, err := decodeNetwork(keyNetwork+"films", encode(network)); err != nil || name != "films" || !reflect.DeepEqual(got, network) {
		t.Errorf("network: %s %+v, %v", name, got, err)
	}
	attachment := attachRecord{MAC: [6]byte{2, 0x57, 10, 32, 0, 2}, IPs: []netip.Prefix{netip.MustParsePrefix("10.32.0.2/20")}, Kind: "process"}
	if name, got, err := decodeAttachment(keyAttach+"mal", encode(attachment)); err != nil || name != "mal" || !reflect.DeepEqual(got, attachment) {
		t.Errorf("attachment: %s %+v, %v", name, got, err)
	}
	if name, got, err := decodeBare(keyBare+"chat", encode(goodBare)); err != nil || name != "chat" || got != goodBare {
		t.Errorf("bare bus: %s %+v, %v", name, got, err)
	}
	members := memberRecord{"mal": {Sources: addrs(t, "10.32.0.3")}, "jayne": {Exclude: true}}
	if group, got, err := decodeMembers(keyMember+"239.1.2.3", encode(members)); err != nil || group != netip.MustParseAddr("239.1.2.3") || !reflect.DeepEqual(got, members) {
		t.Errorf("members: %v %+v, %v", group, got, err)
	}
}

var goodBare = bareRecord{Group: netip.MustParseAddrPort("225.4.5.6:5000"), Subject: "bare.chat", Iface: "eth0", TTL: 1}

// Records come from other hosts: what is out of bounds is refused whole.
func TestRecordsRefused(t *testing.T) {
	p := netip.MustParsePrefix
	ok := networkRecord{VNI: 7, Subnet: p("10.32.0.0/20")}
	network := func(change func(*networkRecord)) error {
		r := ok
		change(&r)
		_, _, err := decodeNetwork(keyNetwork+"films", encode(r))
		return err
	}
	attachment := func(key string, r attachRecord) error {
		_, _, err := decodeAttachment(key, encode(r))
		return err
	}
	members := func(key string, r memberRecord) error {
		_, _, err := decodeMembers(key, encode(r))
		return err
	}
	cluster := func(r clusterRecord) error {
		_, err := decodeCluster(encode(r))
		return err
	}
	bare := func(key string, change func(*bareRecord)) error {
		r := goodBare
		change(&r)
		_, _, err := decodeBare(key, encode(r))
		return err
	}
	vtep := func(a string) error {
		_, err := decodeVTEP(keyVTEP, encode(vtepRecord{Addr: netip.MustParseAddr(a)}))
		return err
	}
	mac := [6]byte{2, 0x57, 10, 32, 0, 2}
	for name, err := range map[string]error{
		"no VNI":                     network(func(r *networkRecord) { r.VNI = 0 }),
		"VNI of 25 bits":             network(func(r *networkRecord) { r.VNI = 1 << 24 }),
		"IPv6 as IPv4 subnet":        network(func(r *networkRecord) { r.Subnet = p("fd00::/64") }),
		"subnet of two":              network(func(r *networkRecord) { r.Subnet = p("10.32.0.0/31") }),
		"IPv4 as IPv6 subnet":        network(func(r *networkRecord) { r.Subnet6 = p("10.0.0.0/8") }),
		"endless policy":             network(func(r *networkRecord) { r.Deny = make([]netip.Prefix, maxPolicy+1) }),
		"name of an attachment":      attachment(keyAttach+"Mal Reynolds", attachRecord{MAC: mac}),
		"no MAC":                     attachment(keyAttach+"mal", attachRecord{}),
		"group MAC":                  attachment(keyAttach+"mal", attachRecord{MAC: [6]byte{1, 0, 0x5e}}),
		"multicast address":          attachment(keyAttach+"mal", attachRecord{MAC: mac, IPs: []netip.Prefix{p("239.1.2.3/32")}}),
		"loopback address":           attachment(keyAttach+"mal", attachRecord{MAC: mac, IPs: []netip.Prefix{p("127.0.0.1/8")}}),
		"many addresses":             attachment(keyAttach+"mal", attachRecord{MAC: mac, IPs: make([]netip.Prefix, maxIPs+1)}),
		"unicast group":              members(keyMember+"10.32.0.2", memberRecord{"mal": {}}),
		"group with a zone":          members(keyMember+"ff02::fb%eth0", memberRecord{"mal": {}}),
		"name of a member":           members(keyMember+"239.1.2.3", memberRecord{"": {}}),
		"source of the other family": members(keyMember+"239.1.2.3", memberRecord{"mal": {Sources: addrs(t, "fd00::1")}}),
		"multicast source":           members(keyMember+"239.1.2.3", memberRecord{"mal": {Sources: addrs(t, "239.9.9.9")}}),
		"many sources":               members(keyMember+"239.1.2.3", memberRecord{"mal": {Sources: make([]netip.Addr, maxSources+1)}}),
		"IPv6 range":                 cluster(clusterRecord{Range: p("fd00::/8"), ULA: p("fd01:2:3::/48"), MTU: 1400}),
		"ULA of another length":      cluster(clusterRecord{Range: p("10.32.0.0/12"), ULA: p("fd01:2:3::/64"), MTU: 1400}),
		"domain":                     cluster(clusterRecord{Range: p("10.32.0.0/12"), ULA: p("fd01:2:3::/48"), MTU: 1400, Domain: "Not.A Domain"}),
		"no MTU":                     cluster(clusterRecord{Range: p("10.32.0.0/12"), ULA: p("fd01:2:3::/48")}),
		"VTEP for all":               vtep("0.0.0.0"),
		"VTEP of a group":            vtep("239.1.2.3"),
		"VTEP of one link":           vtep("fe80::1"),
		"VTEP with a zone":           vtep("fd00::1%eth0"),
		"name of a bare bus":         bare(keyBare+"Chat", func(*bareRecord) {}),
		"the cluster's bus as bare":  bare(keyBare+"weft", func(*bareRecord) {}),
		"bare bus, unicast":          bare(keyBare+"chat", func(r *bareRecord) { r.Group = netip.MustParseAddrPort("10.0.0.1:5000") }),
		"bare bus, weft's port":      bare(keyBare+"chat", func(r *bareRecord) { r.Group = netip.MustParseAddrPort("225.4.5.6:6786") }),
		"bare bus, wildcard":         bare(keyBare+"chat", func(r *bareRecord) { r.Subject = "bare.>" }),
		"bare bus, reserved subject": bare(keyBare+"chat", func(r *bareRecord) { r.Subject = "$WEFT.x" }),
		"bare bus, TTL 0":            bare(keyBare+"chat", func(r *bareRecord) { r.TTL = 0 }),
		"bare bus, long interface":   bare(keyBare+"chat", func(r *bareRecord) { r.Iface = strings.Repeat("x", maxIface+1) }),
		"bus on no port":             func() error { _, err := decodeBus(encode(busRecord{})); return err }(),
		"longer than a record":       func() error { _, err := decodeCluster(make([]byte, maxRecord+1)); return err }(),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := network(func(*networkRecord) {}); err != nil {
		t.Errorf("a good network: %v", err)
	}
}

// FuzzRecords: no bytes crash a decoder, and what one takes, encoded again, is taken again and the same.
func FuzzRecords(f *testing.F) {
	f.Add(byte(0), "", encode(clusterRecord{Range: netip.MustParsePrefix("10.32.0.0/12"), ULA: netip.MustParsePrefix("fd01:2:3::/48"), MTU: 1400}))
	f.Add(byte(1), "films", encode(networkRecord{VNI: 7, Subnet: netip.MustParsePrefix("10.32.0.0/20")}))
	f.Add(byte(2), "mal", encode(attachRecord{MAC: [6]byte{2}, IPs: []netip.Prefix{netip.MustParsePrefix("10.32.0.2/20")}}))
	f.Add(byte(3), "", encode(vtepRecord{Addr: netip.MustParseAddr("192.0.2.1")}))
	f.Add(byte(4), "239.1.2.3", encode(memberRecord{"mal": {Exclude: true}}))
	f.Add(byte(5), "", encode(busRecord{Port: 6785}))
	f.Add(byte(6), "chat", encode(goodBare))
	f.Add(byte(7), "party", encode(swarmRecord{Version: 1, Subnet: netip.MustParsePrefix("10.32.0.0/20"), Options: map[string]string{"weft.ipv6": "false"}}))
	f.Add(byte(8), "", encode(nodeRecord{Node: "n1", Reports: map[string]nodeReport{"party": {Version: 1, Why: "no room"}}}))
	f.Fuzz(func(t *testing.T, kind byte, name string, in []byte) {
		read := func(b []byte) (any, error) {
			switch kind % 9 {
			case 0:
				return decodeCluster(b)
			case 1:
				_, r, err := decodeNetwork(keyNetwork+name, b)
				return r, err
			case 2:
				_, r, err := decodeAttachment(keyAttach+name, b)
				return r, err
			case 3:
				a, err := decodeVTEP(keyVTEP, b)
				return vtepRecord{Addr: a}, err
			case 5:
				return decodeBus(b)
			case 6:
				_, r, err := decodeBare(keyBare+name, b)
				return r, err
			case 7:
				_, r, err := decodeSwarm(keySwarm+name, b)
				return r, err
			case 8:
				var r nodeRecord
				err := decode("record of a node", b, &r)
				return r, err
			}
			_, r, err := decodeMembers(keyMember+name, b)
			return r, err
		}
		v, err := read(in)
		if err != nil {
			return
		}
		out := encode(v)
		if len(out) > maxRecord {
			return // a map or array may grow a little in its one form
		}
		again, err := read(out)
		if err != nil || !bytes.Equal(out, encode(again)) {
			t.Fatalf("%x decodes as %+v; its encoding %x as %+v, %v", in, v, out, again, err)
		}
	})
}
