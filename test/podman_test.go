package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestPodman: Debian's podman with its CNI backend on two hosts in a cloud that drops multicast: containers reach each other in both
// families and by name, and chat; podman's own commands put them into the network and take them out; nothing is left.
func TestPodman(t *testing.T) {
	_, h := cloud(t, 2)
	var p []*rig.Podman
	for i, x := range h {
		p = append(p, x.CNI().Podman())
		p[i].Sleeper(fmt.Sprintf("box%d", i+1), "--network", "weft")
	}
	addresses := func(i int, name string) (v4, v6 string) {
		t.Helper()
		var nets map[string]struct{ IPAddress, GlobalIPv6Address string }
		if err := json.Unmarshal([]byte(p[i].Must("inspect", "-f", "{{json .NetworkSettings.Networks}}", name)), &nets); err != nil {
			t.Fatal(err)
		}
		return nets["weft"].IPAddress, nets["weft"].GlobalIPv6Address
	}
	pings := func(i int, name, to string) {
		t.Helper()
		rig.Eventually(t, 15*time.Second, func() error {
			if r := p[i].Run("exec", name, "ping", "-c", "1", "-W", "1", to); r.Code != 0 {
				return fmt.Errorf("%s to %s: %s%s", name, to, r.Stdout, r.Stderr)
			}
			return nil
		})
	}
	v4, v6 := addresses(1, "box2")
	pings(0, "box1", v4)
	pings(0, "box1", v6)
	pings(1, "box2", "box1") // podman takes weft's name server from the answer

	const group = "239.1.2.3:1234"
	var chats []*rig.Process
	for i, x := range p {
		chats = append(chats, x.Attend(fmt.Sprintf("chat%d", i+1), []string{"--network", "weft"}, "/bin/weft", "chat", group, fmt.Sprintf("n%d", i+1)))
	}
	rig.AwaitMembers(t, 20*time.Second, h[0], "239.1.2.3", 2)
	for i, c := range chats {
		c.Send(fmt.Sprintf("hello from %d", i+1))
	}
	for i, c := range chats {
		rig.Eventually(t, 10*time.Second, func() error {
			if n := c.Count(fmt.Sprintf("hello from %d", 2-i)); n != 1 {
				return fmt.Errorf("chat%d has read the other's line %d times", i+1, n)
			}
			return nil
		})
	}

	p[0].Must("network", "disconnect", "weft", "box1")
	p[0].Must("network", "connect", "weft", "box1")
	pings(0, "box1", v4)
	p[0].Sleeper("chosen", "--network", "weft", "--ip", strings.Join(strings.Split(v4, ".")[:3], ".")+".200")
	if got, _ := addresses(0, "chosen"); !strings.HasSuffix(got, ".200") {
		t.Errorf("--ip: address %s", got)
	}
	pings(1, "box2", "chosen")
	for i, x := range p {
		x.Must("rm", "-f", "-a", "-t", "0")
		nothingLeft(t, h[i])
	}
}
