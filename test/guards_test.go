package test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestGuards: what an attachment may not send arrives nowhere, neither on its host nor elsewhere.
func TestGuards(t *testing.T) {
	t.Parallel()
	_, h := cloud(t, 2)
	bad := startAgent(t, h[0], "bad")
	near, far := h[0].Run("near", python, script(t, "sniff.py")), h[1].Run("far", python, script(t, "sniff.py"))
	near.ExpectLine("^ready$", 10*time.Second)
	far.ExpectLine("^ready$", 10*time.Second)
	forge := func(i int, kind string) {
		t.Helper()
		// Each forger is an attachment of its own; its address is what `weft run` gave it.
		p := h[0].Run(fmt.Sprintf("forger%d", i), "sh", "-c",
			`own=$(ip -4 -o addr show weft0 | awk '{ sub("/.*", "", $4); print $4 }'); exec "$0" "$@" "$own"`, python, script(t, "forge.py"), kind)
		p.ExpectLine("^sent$", 10*time.Second)
		p.Wait(5 * time.Second)
	}
	forge(0, "honest")
	near.ExpectLine("^saw honest$", 3*time.Second)
	far.ExpectLine("^saw honest$", 3*time.Second)
	kinds := []string{"mac", "ip", "arp", "ra", "dhcp", "query", "stp"}
	for i, kind := range kinds {
		forge(i+1, kind)
	}
	forge(len(kinds)+1, "honest")
	far.ExpectLine("^saw honest$", 3*time.Second)
	for _, kind := range kinds {
		for _, p := range []*rig.Process{near, far} {
			if n := p.Count("^saw " + kind + "$"); n != 0 {
				t.Errorf("%s saw %d forged frames: %s", p, n, kind)
			}
		}
	}
	if !bad.Running() {
		t.Error("an attachment beside the forger ended")
	}
}

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

// TestGroupInFirstSecond: a group that is joined and sent to within the first second of the two attachments is served:
// a new bridge that trusts its snooping too early loses it for ten.
func TestGroupInFirstSecond(t *testing.T) {
	for _, group := range []string{"239.8.3.1", "ff15::8:3:1"} {
		t.Run(group, func(t *testing.T) {
			_, h := cloud(t, 2)
			a, b := startAgent(t, h[0], "a"), startAgent(t, h[1], "b")
			b.do("join %s", group)
			a.do("flow %s 30 3 50 early", group)
			rig.Eventually(t, 3*time.Second, func() error {
				if got, _ := b.flowed("early"); got < 10 {
					return fmt.Errorf("%d of 30 datagrams", got)
				}
				return nil
			})
			if b.got("early-0")+b.got("early-1")+b.got("early-2")+b.got("early-3")+b.got("early-4")+
				b.got("early-5")+b.got("early-6")+b.got("early-7")+b.got("early-8")+b.got("early-9") == 0 {
				t.Error("nothing of the first second arrived")
			}
		})
	}
}
