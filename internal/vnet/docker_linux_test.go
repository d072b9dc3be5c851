package vnet_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/vnet"
)

// TestDockerKernel does by hand what Docker does with the inner end: the settings that it keeps, and that it hears groups.
func TestDockerKernel(t *testing.T) {
	w := newWorld(t)
	a, box := w.attach("a", 2), newNS(t)
	if _, err := w.v.Attach(t.Context(), dockerSpec()); err != nil {
		t.Fatal(err)
	}
	inner := vnet.InnerName(spec.Name, "docker-1")
	file := func(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }
	if out := inside(t, w.host, "ip", "-o", "link", "show", inner); strings.Contains(out, ",UP") || strings.Contains(out, "<UP") {
		t.Errorf("the inner end is up in the host's namespace: %s", out)
	}
	inside(t, w.host, "ip", "link", "set", inner, "netns", file(box.FD()))
	for _, cmd := range []string{
		"link set " + inner + " name weft0", "addr add 10.32.0.1/20 dev weft0", "link set weft0 up", "link set lo up", "route add 224.0.0.0/4 dev weft0",
	} {
		inside(t, box, append([]string{"ip"}, strings.Fields(cmd)...)...)
	}
	if out := inside(t, box, "ip", "-o", "link", "show", "weft0"); !strings.Contains(out, "mtu 1300") || !strings.Contains(out, mac(1).String()) {
		t.Errorf("inside: %s", out)
	}
	s := socket(t, box, "udp4", "0.0.0.0:4711")
	join4(t, s, "239.1.2.3")
	w.awaitMembers(2*time.Second, "docker-1 239.1.2.3 any")
	send(t, socket(t, a, "udp4", "0.0.0.0:0"), "239.1.2.3:4711", "to the container")
	received(t, s, "to the container", 2*time.Second)

	w.stop()
	if r := w.start(); len(r.Adopted) != 2 || len(r.Removed) != 0 {
		t.Errorf("taken over: %+v", r)
	}
	w.ensure()
	w.awaitMembers(2*time.Second, "docker-1 239.1.2.3 any")
	inside(t, box, "ip", "link", "set", "weft0", "down")
	inside(t, box, "ip", "link", "set", "weft0", "name", inner)
	inside(t, box, "ip", "link", "set", inner, "netns", file(w.host.FD()))
	if home, err := w.v.AtHome(); err != nil || !home[vnet.PortName(spec.Name, "docker-1")] {
		t.Errorf("brought back: %v, %v", home, err)
	}
	if err := w.v.Detach(spec.Name, "docker-1"); err != nil {
		t.Fatal(err)
	}
	w.wantLinks("wb0abcde", "wu0abcde", vnet.PortName(spec.Name, "a"))
}
