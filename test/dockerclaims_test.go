package test

import (
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// TestDockerAddressesClaimed: a host whose state directory is lost while containers run comes back by the token: the containers keep their
// addresses and talk, Docker starts others beside them with other addresses, and takes all of them down as always.
func TestDockerAddressesClaimed(t *testing.T) {
	e := engines(t, 3)
	for i, x := range e {
		x.party()
		x.sleeper([]string{"c1", "c2", "c3"}[i], "--network", "party")
	}
	lost := e[2]
	was := lost.addr("c3", "party", "IPAddress")
	e[0].pings(t, "c1", was)
	loseState(t, lost.Host)
	awaitDead(t, lost.Host, e[0].Host, e[1].Host)
	lost.Restart()
	rig.AllKnowAll(t, 20*time.Second, e[0].Host, e[1].Host, lost.Host)
	e[0].pings(t, "c1", was)
	lost.pings(t, "c3", e[1].addr("c2", "party", "IPAddress"))
	lost.sleeper("new", "--network", "party")
	if got := lost.addr("new", "party", "IPAddress"); got == was {
		t.Errorf("new was given %s, which is in use", got)
	}
	e[0].pings(t, "c1", lost.addr("new", "party", "IPAddress"))
	lost.Must("rm", "-f", "c3", "new")
	e[0].Must("rm", "-f", "c1")
	e[1].Must("rm", "-f", "c2")
	for _, x := range e {
		x.Must("network", "rm", "party")
		x.clean(t)
	}
}
