package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// stepMDNS: avahi as Debian ships it, on two hosts, finds a service in both families.
func stepMDNS(t *testing.T, s *side) {
	dir := t.TempDir()
	// Each avahi has a bus and a /run of its own, as on a machine of its own. The publisher waits (--no-fail) until the daemon is on the bus,
	// which is later than avahi-daemon -c tells; avahi-browse is asked again and again.
	const start = `set -e
mount --make-rprivate /
mount -t tmpfs t /run
mkdir -p /run/dbus /run/avahi-daemon
chown avahi: /run/avahi-daemon
dbus-daemon --system --nofork --nopidfile &
for i in $(seq 300); do [ -S /run/dbus/system_bus_socket ] && break; sleep 0.1; done
avahi-daemon -f "$1" --no-drop-root --no-chroot --no-rlimits &
`
	conf := func(name string) string {
		path := filepath.Join(dir, name+".conf")
		text := "[server]\nhost-name=" + name + "\nallow-interfaces=weft0\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=yes\n[publish]\npublish-workstation=no\n"
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(at *rig.Host, name string, cmd ...string) *rig.Process {
		return at.RunWith([]string{"--network", s.engine, "--name", name}, cmd...)
	}
	publisher := run(s.h[0], "river", "unshare", "-m", "bash", "-c", start+`exec avahi-publish-service --no-fail serenity _weft._tcp 7777 hello=world`, "bash", conf("river"))
	browser := run(s.h[1], "simon", "unshare", "-m", "bash", "-c", start+`while :; do avahi-browse -rtp _weft._tcp || :; sleep 0.3; done`, "bash", conf("simon"))
	for _, family := range []string{"IPv4", "IPv6"} {
		if _, err := browser.AwaitLine(fmt.Sprintf(`^=;weft0;%s;serenity;_weft\._tcp;.*;7777;"hello=world"`, family), 20*time.Second); err != nil {
			t.Errorf("%v\npublisher: %v", err, publisher.Errors())
		}
	}
	publisher.Stop(5 * time.Second)
	browser.Stop(5 * time.Second)
}
