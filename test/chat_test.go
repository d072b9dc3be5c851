package test

import (
	"fmt"
	"net"
	"regexp"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// chat runs a conversation in a network: two people with 20 lines of Python, one with weft chat.
func chat(t *testing.T, h []*rig.Host, network, group, port string) {
	t.Helper()
	ap := net.JoinHostPort(group, port)
	run := func(at *rig.Host, name string, cmd ...string) *rig.Process {
		return at.RunWith([]string{"--network", network, "--name", name + port}, cmd...)
	}
	people := []*rig.Process{
		run(h[0], "mal", python, script(t, "chat.py"), group, port),
		run(h[1], "jayne", h[1].WeftPath(), "chat", ap, "jayne"),
		run(h[2], "kaylee", python, script(t, "chat.py"), group, port),
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
	for _, p := range people {
		p.Stop(5 * time.Second)
	}
}

// TestChatAcrossCloud: what weft is for. The rest of what its networks promise is TestConformance.
func TestChatAcrossCloud(t *testing.T) {
	_, h := cloud(t, 3)
	chat(t, h, "weft", "239.1.2.3", "1234")
}
