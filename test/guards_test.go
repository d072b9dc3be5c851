package test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestTenThousandJoins: one attachment that joins everything changes nothing for the others.
func TestTenThousandJoins(t *testing.T) {
	_, h := cloud(t, 2)
	a, b, greedy := startAgent(t, h[0], "a"), startAgent(t, h[1], "b"), startAgent(t, h[0], "greedy")
	converse(t, "239.8.1.1", a, b)
	greedy.Send("many 239.100 10000")
	greedy.ExpectLine("^joined [0-9]{4,}$", 30*time.Second)
	converse(t, "239.8.1.2", a, b)

	var links []struct {
		Name string `json:"ifname"`
		Info struct {
			Data struct {
				Snooping int `json:"mcast_snooping"`
			} `json:"info_data"`
		} `json:"linkinfo"`
	}
	if err := json.Unmarshal([]byte(h[0].MustExec("ip", "-d", "-j", "link", "show", "type", "bridge")), &links); err != nil || len(links) == 0 {
		t.Fatalf("no bridge: %v", err)
	}
	for _, l := range links {
		if l.Info.Data.Snooping != 1 {
			t.Errorf("snooping on %s is off: one attachment switched it off for all", l.Name)
		}
	}
	all, err := h[1].Groups()
	if err != nil {
		t.Fatal(err)
	}
	of := 0
	for _, g := range all {
		for _, m := range g.Members {
			if m.Attachment == "greedy" {
				of++
			}
		}
	}
	if of > 64 {
		t.Errorf("h2 knows %d memberships of one attachment, want at most 64", of)
	}
}

// TestDockerForwardDrop: a host set up as Docker does it, bridged frames through iptables and FORWARD at DROP, also when
// that happens while weft runs.
func TestDockerForwardDrop(t *testing.T) {
	t.Parallel()
	w := rig.New(t)
	u := w.Cloud()
	h1, h2 := u.Host("h1"), u.Host("h2")
	h1.DockerFirewall()
	rig.Found(t, h1, h2)
	h2.DockerFirewall()
	h2.MustExec("iptables", "-F", "FORWARD") // as a restart of Docker may
	a, near, far := startAgent(t, h1, "a"), startAgent(t, h1, "near"), startAgent(t, h2, "far")
	other := startAgent(t, h2, "other")
	// The accept rule is put back within seconds of having vanished.
	i := 0
	rig.Eventually(t, 15*time.Second, func() error {
		i++
		far.do("send %s back-%d", other.ip4(), i)
		if other.Count("^got back-") == 0 {
			return fmt.Errorf("attachments of h2 do not reach each other: %s", h2.Exec("iptables", "-S").Stdout)
		}
		return nil
	})
	converse(t, "239.8.2.1", a, near, far, other)
	a.do("send %s local", near.ip4())
	near.awaitGot("local", 3*time.Second)
}
