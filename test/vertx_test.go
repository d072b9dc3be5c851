package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// javaImage is what containers of Java programs are made from.
const javaImage = "weft-test-java"

// TestVertx: the event bus of Vert.x, clustered by Hazelcast that finds its members by multicast, both from Maven Central and as they
// are, in containers on two hosts in a cloud that drops multicast: what one publishes, the other prints. Java lists interfaces from the
// last to the first, and Hazelcast takes the first of that list: weft's must be the last, and not that of docker_gwbridge.
func TestVertx(t *testing.T) {
	const data = "testdata/vertx/"
	root := rig.JavaRoot(t, rig.Jars(t, data+"jars.txt"), data+"Receiver.java", data+"Sender.java")
	e := engines(t, 2)
	for _, x := range e {
		x.Import(root, javaImage)
		x.Must("network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=inner", "--internal", "inner")
		x.Must("network", "create", "-d", "weft", "--ipam-driver", "weft", "--ipam-opt", "weft.network=fixed", "--subnet", "10.91.0.0/24", "fixed")
		x.party()
	}
	for _, way := range []struct {
		name  string
		start func(x engine, name string, cmd ...string) *rig.Process
	}{
		{"a network that is internal", func(x engine, name string, cmd ...string) *rig.Process {
			return x.Attend(append([]string{"run", "--name", name, "--network", "inner", javaImage}, cmd...)...)
		}},
		{"beside the network bridge", func(x engine, name string, cmd ...string) *rig.Process {
			x.Must(append([]string{"create", "--name", name, "--network", "bridge", javaImage}, cmd...)...)
			x.Must("network", "connect", "party", name)
			return x.Attend("start", "-a", name)
		}},
		{"a program that is told its address", func(x engine, name string, cmd ...string) *rig.Process {
			ip := map[string]string{"Receiver": "10.91.0.10", "Sender": "10.91.0.11"}[name]
			cmd = append([]string{cmd[0], "-Dhazelcast.local.localAddress=" + ip}, cmd[1:]...)
			return x.Attend(append([]string{"run", "--name", name, "--network", "fixed", "--ip", ip, javaImage}, cmd...)...)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			receiver := way.start(e[0], "Receiver", rig.Java("io.vertx.core.Launcher", "run", "Receiver", "-cluster")...)
			receiver.ExpectLine("^ready$", 60*time.Second)
			sender := way.start(e[1], "Sender", rig.Java("io.vertx.core.Launcher", "run", "Sender", "-cluster")...)
			sender.ExpectLine("^published ", 60*time.Second)
			newsArrive(t, sender, receiver)
			e[1].Must("rm", "-f", "Sender")
			e[0].Must("rm", "-f", "Receiver")
		})
	}
	for _, x := range e {
		x.Must("network", "rm", "inner", "fixed", "party")
		x.clean(t)
	}
}

// newsArrive says that what is published from some moment on is all received, and once.
func newsArrive(t *testing.T, sender, receiver *rig.Process) {
	t.Helper()
	receiver.ExpectLine("^received ", 20*time.Second)
	var first int
	if _, err := fmt.Sscanf(receiver.ExpectLine("^received ", 5*time.Second), "received news %d", &first); err != nil {
		t.Fatal(err)
	}
	last := first + 20
	receiver.ExpectLine(fmt.Sprintf("^received news %d$", last), 10*time.Second)
	sender.ExpectLine(fmt.Sprintf("^published news %d$", last), 10*time.Second) // Docker may bring its line later
	for i := first; i <= last; i++ {
		line := fmt.Sprintf("news %d$", i)
		if sent, got := sender.Count("^published "+line), receiver.Count("^received "+line); sent != 1 || got != 1 {
			t.Errorf("news %d: published %d times, received %d times", i, sent, got)
		}
	}
}
