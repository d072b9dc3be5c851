package test

import (
	"fmt"
	"net"
	"regexp"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// chat runs the same conversation for either family: two people with 20 lines of Python, one with weft chat.
func chat(t *testing.T, group, port string) {
	t.Helper()
	_, h := cloud(t, 3)
	ap := net.JoinHostPort(group, port)
	people := []*rig.Process{
		h[0].Run("mal", python, script(t, "chat.py"), group, port),
		h[1].Run("jayne", h[1].WeftPath(), "chat", ap, "jayne"),
		h[2].Run("kaylee", python, script(t, "chat.py"), group, port),
	}
	for _, host := range h {
		rig.AwaitMembers(t, 10*time.Second, host, group, 3)
	}
	lines := []string{"Well, here I am.", "I'll be in my bunk.", "Shiny!"}
	for i, p := range people {
		p.Send(lines[i])
	}
	for i, p := range people {
		for j, line := range lines {
			if i != j {
				rig.Eventually(t, 3*time.Second, func() error {
					if p.Count(regexp.QuoteMeta(line)) == 0 {
						return fmt.Errorf("%s did not see %q", p, line)
					}
					return nil
				})
			}
		}
	}
	for i, p := range people {
		for j, line := range lines {
			if n := p.Count(regexp.QuoteMeta(line)); i != j && n != 1 {
				t.Errorf("%s saw %q %d times", p, line, n)
			}
		}
	}
	if n := people[1].Count(regexp.QuoteMeta(lines[1])); n != 0 {
		t.Errorf("weft chat showed its own line %d times", n)
	}
}

func TestChatAcrossCloud(t *testing.T) { chat(t, "239.1.2.3", "1234") }

func TestChatAcrossCloudIPv6(t *testing.T) { chat(t, "ff15::1234", "1234") }

// TestChatAcrossCloudSSM: a source-specific member hears its source and nobody else, while a member of (*,G) on
// another host hears all.
func TestChatAcrossCloudSSM(t *testing.T) {
	const group = "232.1.1.1"
	_, h := cloud(t, 3)
	wanted, other := startAgent(t, h[0], "wanted"), startAgent(t, h[1], "other")
	picky := startAgent(t, h[2], "picky")
	picky.do("join %s %s", group, wanted.ip4())
	rig.Eventually(t, 10*time.Second, func() error {
		for _, from := range []*rig.Host{h[0], h[1]} {
			if err := sourceMember(from, group, wanted.ip4()); err != nil {
				return err
			}
		}
		return nil
	})
	other.do("send %s unwanted", group)
	wanted.do("send %s welcome", group)
	picky.awaitGot("welcome", 3*time.Second)
	// Both went at about the same time; the unwanted one has had as long.
	rig.During(t, time.Second, func() error {
		if picky.got("unwanted") > 0 {
			t.Fatal("a member of (S,G) got a datagram of another source")
		}
		return nil
	})
}
