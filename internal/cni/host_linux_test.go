package cni

import (
	"strings"
	"testing"
)

// What a runtime names as a namespace may be gone, a file, or the host's own.
func TestNamespace(t *testing.T) {
	k := Kernel{}
	for path, want := range map[string]string{
		"/proc/self/ns/net":    "weft expose",
		"/proc/self/ns/mnt":    "not a network namespace",
		"/run/netns/no/such/x": "no such file",
	} {
		if err := k.Namespace(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	in, err := k.Inside("/proc/self/ns/net", "lo")
	if err != nil || !in.Up && len(in.IPs) > 0 {
		t.Errorf("lo: %+v, %v", in, err)
	}
	if _, err := k.Inside("/proc/self/ns/net", "no-such-iface"); err == nil {
		t.Error("an interface that is not there")
	}
}
