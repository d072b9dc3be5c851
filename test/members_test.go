package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// sourceMember checks that a host knows one member of (source, group).
func sourceMember(at *rig.Host, group, source string) error {
	all, err := at.Groups()
	if err != nil {
		return err
	}
	for _, g := range all {
		if g.Group == group && g.Source == source && len(g.Members) == 1 {
			return nil
		}
	}
	return fmt.Errorf("%s knows no member of (%s,%s): %+v", at.Name, source, group, all)
}

// TestOnlyMembersGetCopies: of four hosts with attachments two have members. The others get no copy, nobody on the
// underlay reads the payload, and copies end half a second after the last member of a host left.
func TestOnlyMembersGetCopies(t *testing.T) {
	const (
		group = "239.9.9.9"
		text  = "a-payload-nobody-else-may-read"
		size  = 700 // longer than anything hosts say to each other when idle
	)
	// Probes of the path's length are as long as the path takes; copies are not.
	big := fmt.Sprintf("udp and greater %d and less %d", size, size+300)
	u, h := cloud(t, 4)
	agents := make([]*agent, len(h))
	for i, host := range h {
		agents[i] = startAgent(t, host, fmt.Sprintf("a%d", i+1))
	}
	sender, member := agents[0], agents[1]
	sender.do("join %s", group)
	member.do("join %s", group)
	rig.AwaitMembers(t, 10*time.Second, h[0], group, 2)
	before, err := h[0].Group(group)
	if err != nil {
		t.Fatal(err)
	}
	captures := make([]*rig.Capture, len(h))
	for i, host := range h {
		captures[i] = u.Capture(host)
	}

	const n = 200
	sender.do("flow %s %d 1 %d %s", group, n, size, text)
	sender.ExpectLine("^flowed "+text, 10*time.Second)
	rig.Eventually(t, 5*time.Second, func() error {
		if got, _ := member.flowed(text); got != n {
			return fmt.Errorf("the member got %d of %d datagrams", got, n)
		}
		return nil
	})
	rig.Eventually(t, 2*time.Second, func() error {
		if got := captures[1].Count(big); got < n {
			return fmt.Errorf("the capture at the member's host has %d long packets, want %d: it proves nothing", got, n)
		}
		return nil
	})
	for _, i := range []int{2, 3} {
		if got := captures[i].Count(big); got != 0 {
			t.Errorf("%s has no member and got %d copies", h[i].Name, got)
		}
		if got, _ := agents[i].flowed(text); got != 0 {
			t.Errorf("%s is no member and got %d datagrams", agents[i].name, got)
		}
	}
	for i, c := range captures {
		if c.Grep(text) {
			t.Errorf("the payload stands readable on the underlay at %s", h[i].Name)
		}
	}
	after, err := h[0].Group(group)
	if err != nil {
		t.Fatal(err)
	}
	if sent, saved := after.CopiesSent-before.CopiesSent, after.CopiesSaved-before.CopiesSaved; sent != n || saved != 2*n {
		t.Errorf("%d copies sent and %d saved, want %d and %d (frames × hosts with attachments, less those sent)", sent, saved, n, 2*n)
	}

	// 100 a second for 4 s; the member leaves in the middle.
	sender.do("flow %s 400 4 %d after", group, size)
	member.awaitGot("after-50", 5*time.Second)
	start := captures[1].Count(big)
	member.do("leave %s", group)
	rig.Pause(t, 500*time.Millisecond)
	stopped := captures[1].Count(big)
	if stopped == start {
		t.Log("copies stopped before the leave was a tick old")
	}
	rig.Pause(t, time.Second)
	if later := captures[1].Count(big); later != stopped {
		t.Errorf("%d copies came later than 500 ms after the leave", later-stopped)
	}
}
