package daemon

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/store/storetest"
	"github.com/weft-net/weft/internal/vnet"
)

func TestUnbuilt(t *testing.T) {
	for name, c := range map[string]config.Up{
		"api": {API: "0.0.0.0:6785"},
	} {
		if err := unbuilt(c); err == nil || !IsUsage(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want a usage error that names it", name, err)
		}
	}
	if err := unbuilt(config.Up{DockerPlugin: "/run/docker/plugins/weft.sock", Discover: []string{"lan"}, Force: true}); err != nil {
		t.Errorf("what is built: %v", err)
	}
}

// A listener that everybody can reach and use has to be meant.
func TestCheckNATS(t *testing.T) {
	for name, c := range map[string]config.Up{
		"not an address":      {NATS: "localhost:4222"},
		"relative socket":     {NATS: "unix:nats.sock"},
		"everybody":           {NATS: "0.0.0.0:4222"},
		"no token":            {NATS: "10.0.0.1:4222", NATSCert: "/c", NATSKey: "/k"},
		"no TLS":              {NATS: "[::]:4222", NATSTokenFile: "/t"},
		"half of TLS":         {NATS: "127.0.0.1:4222", NATSCert: "/c"},
		"a token for nothing": {NATSTokenFile: "/t"},
	} {
		if err := checkNATS(c); err == nil || !IsUsage(err) || !strings.Contains(err.Error(), "--nats") {
			t.Errorf("%s: %v, want a usage error with the fix", name, err)
		}
	}
	for name, c := range map[string]config.Up{
		"off":       {},
		"loopback":  {NATS: "127.0.0.1:4222"},
		"socket":    {NATS: "unix:/run/weft/nats.sock", NATSTokenFile: "/t"},
		"protected": {NATS: "10.0.0.1:4222", NATSCert: "/c", NATSKey: "/k", NATSTokenFile: "/t"},
		"meant":     {NATS: "0.0.0.0:4222", NATSOpen: true},
	} {
		if err := checkNATS(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSettleEphemeral: a host comes and goes from its first start on, and founds nothing.
func TestSettleEphemeral(t *testing.T) {
	token := ident.NewToken()
	var dir storetest.Dir
	if _, _, _, err := settle(&dir, config.Up{Name: "a", Ephemeral: true}, nil); !IsUsage(err) || !strings.Contains(err.Error(), "found") {
		t.Errorf("founds a cluster: %v", err)
	}
	seeds := []string{"h1"}
	id, keys, _, err := settle(&dir, config.Up{Name: "a", Seeds: seeds, Ephemeral: true}, &token)
	dir.SetOwner(keys.ID())
	if err != nil || !id.Ephemeral {
		t.Fatalf("%+v, %v", id, err)
	}
	if err := dir.Save(fileIdentity, encode(id)); err != nil {
		t.Fatal(err)
	}
	if id, _, _, err := settle(&dir, config.Up{}, nil); err != nil || !id.Ephemeral {
		t.Errorf("started again without the flag: %+v, %v", id, err)
	}
	id.Ephemeral = false
	if err := dir.Save(fileIdentity, encode(id)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := settle(&dir, config.Up{Ephemeral: true}, nil); !IsUsage(err) || !strings.Contains(err.Error(), "--leave") {
		t.Errorf("one that stays turns into one that does not: %v", err)
	}
}

// settleIn settles in dir and saves what is to be saved, as a start does.
func settleIn(t *testing.T, dir *storetest.Dir, name string, seeds []string, token *ident.Token) (identity, error) {
	t.Helper()
	id, keys, fresh, err := settle(dir, config.Up{Name: name, Seeds: seeds}, token)
	if err == nil && fresh {
		dir.SetOwner(keys.ID())
		if err := dir.Save(fileIdentity, encode(id)); err != nil {
			t.Fatal(err)
		}
	}
	return id, err
}

func TestSettle(t *testing.T) {
	var dir storetest.Dir
	founded, err := settleIn(t, &dir, "mal", nil, nil)
	if err != nil || !founded.Founder || founded.Name != "mal" {
		t.Fatalf("found: %+v, %v", founded, err)
	}
	resumed, err := settleIn(t, &dir, "", nil, nil)
	if err != nil || !reflect.DeepEqual(resumed, founded) {
		t.Errorf("resume: %+v, %v; want %+v", resumed, err, founded)
	}
	if renamed, err := settleIn(t, &dir, "jayne", nil, nil); err != nil || renamed.Name != "jayne" || !slices.Equal(renamed.Keys, founded.Keys) {
		t.Errorf("another name: %+v, %v; want the same keys", renamed, err)
	}
	other := ident.NewToken()
	if _, err := settleIn(t, &dir, "", []string{"10.0.0.5"}, &other); err == nil || IsUsage(err) || !strings.Contains(err.Error(), other.Cluster.String()) {
		t.Errorf("join another cluster: %v, want a refusal that names it", err)
	}
	rotated := ident.Token{Cluster: founded.Cluster, Secret: other.Secret}
	if id, err := settleIn(t, &dir, "", nil, &rotated); err != nil || id.Secret != other.Secret || id.Cluster != founded.Cluster {
		t.Errorf("a rotated token: %+v, %v", id, err)
	}

	var joiner storetest.Dir
	token := ident.Token{Cluster: founded.Cluster, Secret: founded.Secret}
	if _, err := settleIn(t, &joiner, "wash", []string{"10.0.0.5"}, nil); !IsUsage(err) {
		t.Errorf("join without token: %v, want a usage error", err)
	}
	if _, err := settleIn(t, &joiner, "wash", nil, &token); !IsUsage(err) {
		t.Errorf("token without host: %v, want a usage error", err)
	}
	joined, err := settleIn(t, &joiner, "wash", []string{"10.0.0.5"}, &token)
	if err != nil || joined.Founder || joined.Cluster != founded.Cluster || slices.Equal(joined.Keys, founded.Keys) {
		t.Errorf("join: %+v, %v", joined, err)
	}
}

// TestSettleSources: a token and a source are enough to join; sources stay until others are given, or off; without a token a host founds, and
// remembers them, too.
func TestSettleSources(t *testing.T) {
	token := ident.NewToken()
	var dir storetest.Dir
	by := func(token *ident.Token, discover ...string) identity {
		t.Helper()
		id, keys, fresh, err := settle(&dir, config.Up{Name: "wash", Discover: discover}, token)
		if err != nil {
			t.Fatal(err)
		}
		if fresh {
			dir.SetOwner(keys.ID())
			if err := dir.Save(fileIdentity, encode(id)); err != nil {
				t.Fatal(err)
			}
		}
		return id
	}
	if id := by(&token, "lan", "etcd://a,b/weft"); id.Founder || id.Cluster != token.Cluster || len(id.Discover) != 2 {
		t.Errorf("join: %+v", id)
	}
	if id := by(nil); !slices.Equal(id.Discover, []string{"lan", "etcd://a,b/weft"}) {
		t.Errorf("resume: %v", id.Discover)
	}
	if id := by(nil, "swarm"); !slices.Equal(id.Discover, []string{"swarm"}) {
		t.Errorf("others: %v", id.Discover)
	}
	if by(nil, "off"); len(by(nil).Discover) != 0 {
		t.Error("off is not off")
	}
	dir = storetest.Dir{}
	if _, _, _, err := settle(&dir, config.Up{Name: "wash", Discover: []string{"off"}}, &token); !IsUsage(err) {
		t.Errorf("a token, and no source: %v", err)
	}
	if id := by(nil, "lan"); !id.Founder || len(id.Discover) != 1 {
		t.Errorf("found: %+v", id)
	}
}

// TestCheckDiscover: sources that nobody could ask are refused at once, as a matter of how weft was called.
func TestCheckDiscover(t *testing.T) {
	for _, bad := range [][]string{{"zookeeper://h/x"}, {"lan", "lan"}, {"lan", "off"}, {"etcd://root:hunter2@h/weft"}} {
		if err := checkDiscover(config.Up{Discover: bad}); !IsUsage(err) || !strings.Contains(err.Error(), "--discover") {
			t.Errorf("%v: %v, want a usage error", bad, err)
		}
	}
	for _, good := range [][]string{nil, {"off"}, {"lan", "swarm", "etcd://a,b/weft"}} {
		if err := checkDiscover(config.Up{Discover: good}); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
}

// TestNobodyFound: a host that waits says for what.
func TestNobodyFound(t *testing.T) {
	got := nobodyFound([]api.Discovery{
		{Source: "a", State: api.DiscoveryAsking},
		{Source: "b", State: api.DiscoveryFailing, Error: "gone"},
		{Source: "c", State: api.DiscoveryOK},
		{Source: "d", State: api.DiscoveryOK, Unanswered: []string{"1:1", "2:1", "3:1", "4:1"}},
	})
	want := "a: asking; b: gone; c: no other host is there yet; this one waits for it; d: 1:1, 2:1, 3:1 does not answer (is weft up there with the same token, and its UDP and TCP port open?)"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestVNI(t *testing.T) {
	a, b := ident.ClusterID{1}, ident.ClusterID{2}
	if v := vniOf(a, "weft"); v == vniOf(a, "films") || v == vniOf(b, "weft") {
		t.Errorf("VNI %d of weft is also that of another name or cluster", v)
	}
	for _, name := range []string{"weft", "films", "a", "b"} {
		if v := vniOf(a, name); v == 0 || v >= 1<<24 {
			t.Errorf("VNI of %s: %d, want 1 to 2^24-1", name, v)
		}
	}
}

// Copies of a definition may come in any order; what stands is the same.
func TestMergeOfDefinitions(t *testing.T) {
	h1, h2, h3 := ident.HostID{1}, ident.HostID{2}, ident.HostID{3}
	s1, s2 := netip.MustParsePrefix("10.32.0.0/20"), netip.MustParsePrefix("10.33.0.0/20")
	type written struct {
		by  ident.HostID
		rec networkRecord
	}
	build := func(ws ...written) *definition {
		d := &definition{name: "films", rec: ws[0].rec}
		for _, w := range ws {
			d.merge(w.by, w.rec, w.by != h3) // h3 is away
		}
		return d
	}
	for _, explicit := range []bool{false, true} {
		ws := []written{
			{h1, networkRecord{Subnet: s1, Creator: h1, Explicit: explicit}},
			{h2, networkRecord{Subnet: s2, Creator: h2, Explicit: explicit}},
			{h3, networkRecord{Subnet: s2, Creator: h2, Explicit: explicit}},
		}
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
			d := build(ws[order[0]], ws[order[1]], ws[order[2]])
			if d.rec.Subnet != s1 || len(d.subnets) != 2 || len(d.hosts) != 2 {
				t.Errorf("explicit %v, order %v: stands %v, subnets %v, %d hosts; want %v, both, 2", explicit, order, d.rec.Subnet, d.subnets, len(d.hosts), s1)
			}
			if (d.conflict != "") != explicit {
				t.Errorf("explicit %v, order %v: conflict %q", explicit, order, d.conflict)
			}
		}
	}
}

func TestPrefixes(t *testing.T) {
	got, err := prefixes([]string{"239.1.2.3", "239.9.9.9/8", "ff15::/16"})
	want := []netip.Prefix{netip.MustParsePrefix("239.1.2.3/32"), netip.MustParsePrefix("239.0.0.0/8"), netip.MustParsePrefix("ff15::/16")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, s := range []string{"", "films", "10.0.0.0/8", "239.0.0.0/33"} {
		if got, err := prefixes([]string{s}); err == nil {
			t.Errorf("%q: taken as %v", s, got)
		}
	}
}

// What goes into the bridge for the uplink is what other hosts want: all sources as soon as one wants all.
func TestWanted(t *testing.T) {
	self, h2, h3 := ident.HostID{1}, ident.HostID{2}, ident.HostID{3}
	g1, g2, g3 := netip.MustParseAddr("232.1.1.1"), netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("239.2.2.2")
	s := addrs(t, "10.32.0.2", "10.32.0.3", "10.32.0.4")
	got := wanted([]fdb.Member{
		{Host: h3, Group: g2, Mode: fdb.Include, Sources: s[:1]},
		{Host: h2, Group: g1, Mode: fdb.Include, Sources: s[:2]},
		{Host: h3, Group: g1, Mode: fdb.Include, Sources: s[1:]},
		{Host: h2, Group: g2, Mode: fdb.Exclude, Sources: s[2:]},
		{Host: self, Group: g3, Mode: fdb.Exclude},
	}, self)
	want := []vnet.Group{{Addr: g1, Sources: s}, {Addr: g2}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
