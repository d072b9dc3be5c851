package vnet

import (
	"testing"

	"github.com/weft-net/weft/internal/nl"
)

func FuzzSaved(f *testing.F) {
	f.Add([]byte(`{"version":1,"attachments":[{"network":"weft","name":"a","kind":"netns","mac":"02:00:00:00:00:01","ips":["10.32.0.1/20"],"netns":"/x","vni":703710,"port":"wv6wycnq3ei5ygv","ns":{"dev":4,"ino":5}}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseSaved(b)
		if err != nil && list != nil {
			t.Error("attachments in spite of an error")
		}
		for _, a := range list {
			if !ours(nl.Link{Name: a.Port, Kind: "veth"}) {
				t.Errorf("port %q", a.Port)
			}
		}
	})
}

func TestParseSaved(t *testing.T) {
	good := `{"version":1,"attachments":[{"network":"weft","name":"a","kind":"netns","mac":"02:00:00:00:00:01","ips":["10.32.0.1/20"],"netns":"/x","vni":703710,"port":"wv6wycnq3ei5ygv","ns":{"dev":4,"ino":5}}]}`
	list, err := parseSaved([]byte(good))
	if err != nil || len(list) != 1 || list[0].Name != "a" || list[0].NS.Ino != 5 {
		t.Errorf("%+v, %v", list, err)
	}
	for name, s := range map[string]string{
		"not JSON":      "x",
		"newer":         `{"version":2,"attachments":[]}`,
		"foreign port":  `{"version":1,"attachments":[{"network":"weft","name":"a","kind":"netns","mac":"02:00:00:00:00:01","ips":["10.32.0.1/20"],"netns":"/x","vni":1,"port":"eth0"}]}`,
		"foreign inner": `{"version":1,"attachments":[{"network":"weft","name":"a","kind":"docker","mac":"02:00:00:00:00:01","ips":["10.32.0.1/20"],"interface":"eth0","vni":703710,"port":"wv6wycnq3ei5ygv"}]}`,
		"broken record": `{"version":1,"attachments":[{}]}`,
	} {
		if list, err := parseSaved([]byte(s)); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

func TestOurs(t *testing.T) {
	for name, l := range map[string]nl.Link{
		"hardware":        {Name: "wb0abcde"},
		"another kind":    {Name: "wb0abcde", Kind: "veth"},
		"not hexadecimal": {Name: "wbridge0", Kind: "bridge"},
		"too short":       {Name: "wb0", Kind: "bridge"},
		"inner end":       {Name: "weft0", Kind: "veth"},
	} {
		if ours(l) {
			t.Errorf("%s: %+v counts as ours", name, l)
		}
	}
	for _, l := range []nl.Link{{Name: BridgeName(MaxVNI), Kind: "bridge"}, {Name: UplinkName(1), Kind: "tun"}, {Name: PortName("weft", "a"), Kind: "veth"}, {Name: InnerName("weft", "a"), Kind: "veth"}} {
		if !ours(l) || len(l.Name) > 15 {
			t.Errorf("%+v does not count as ours", l)
		}
	}
}
