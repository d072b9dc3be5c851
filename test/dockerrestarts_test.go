package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestDockerRestarts: weft and dockerd are killed and come back, in either order; containers keep talking, and Docker's next command works.
func TestDockerRestarts(t *testing.T) {
	e := engines(t, 2)
	for i, x := range e {
		x.party()
		x.sleeper(fmt.Sprintf("c%d", i+1), "--network", "party")
	}
	to := e[1].addr("c2", "party", "IPAddress")
	e[0].pings(t, "c1", to)
	talk := func(after string) {
		t.Helper()
		e[0].pings(t, "c1", to)
		// What is new works as well, and gets an address of its own.
		e[0].sleeper("new", "--network", "party")
		e[0].pings(t, "new", to)
		if ip := e[0].addr("new", "party", "IPAddress"); ip == e[0].addr("c1", "party", "IPAddress") || ip == to {
			t.Errorf("%s: address %s a second time", after, ip)
		}
		e[0].Must("rm", "-f", "new")
	}

	e[0].Host.Kill9()
	e[0].Restart()
	talk("weft was killed")

	e[0].Docker.Kill9()
	e[0].Begin()
	talk("dockerd was killed")

	e[0].Docker.Kill9()
	e[0].Host.Kill9()
	e[0].Begin()
	e[0].Restart()
	talk("both were killed, dockerd first back")

	e[0].Crash()
	e[0].Host.Kill9()
	e[0].Restart()
	e[0].Begin()
	talk("weft, dockerd and containerd were killed, weft first back")

	e[0].Host.Upgrade(rig.Version(t, "next"))
	talk("weft was upgraded")

	// Weft is away while a container ends: its attachment is there when weft comes back, and goes with the container.
	e[0].sleeper("short", "--network", "party")
	e[0].Host.Kill9()
	done := e[0].Attend("rm", "-f", "short")
	e[0].Restart()
	done.Wait(60 * time.Second)
	talk("a container ended while weft was away")

	for i, x := range e {
		x.Must("rm", "-f", fmt.Sprintf("c%d", i+1))
		x.Must("network", "rm", "party")
	}
	e[0].clean(t)
	e[1].clean(t)
}

// TestDockerReboot: a host is reset and comes back with weft after dockerd: its containers start by themselves, talk, and have addresses
// of their own; nothing is left of those before.
func TestDockerReboot(t *testing.T) {
	e := engines(t, 2)
	for i, x := range e {
		x.party()
		x.sleeper(fmt.Sprintf("c%d", i+1), "--network", "party", "--restart", "always")
	}
	to := e[1].addr("c2", "party", "IPAddress")
	e[0].pings(t, "c1", to)

	e[0].Reset()
	e[0].Docker.Launch()
	e[0].Restart()
	e[0].Await()
	e[0].pings(t, "c1", to)
	e[1].pings(t, "c2", e[0].addr("c1", "party", "IPAddress"))
	e[0].sleeper("new", "--network", "party")
	e[0].pings(t, "new", to)
	seen := map[string]bool{to: true}
	for _, c := range []string{"c1", "new"} {
		ip := e[0].addr(c, "party", "IPAddress")
		if seen[ip] {
			t.Errorf("%s has address %s, which is another's", c, ip)
		}
		seen[ip] = true
	}

	e[0].Must("rm", "-f", "c1", "new")
	e[1].Must("rm", "-f", "c2")
	for _, x := range e {
		x.Must("network", "rm", "party")
		x.clean(t)
	}
}
