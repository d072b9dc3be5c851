package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

const (
	// recheckEvery bounds how long a change that nobody told of stays (legacy iptables does not notify).
	recheckEvery = 30 * time.Second
	// settle gathers the notifications of a storm of changes, such as Docker's start.
	settle = 100 * time.Millisecond
)

// Keep implements Filter. It runs until ctx ends and then returns nil; other errors mean that the kernel does not notify.
func (g *Guard) Keep(ctx context.Context, onRestore func(reason string)) error {
	changes, err := watch(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			// The first change after a calm is looked at after settle; those in between are covered by it.
			pause.Reset(settle)
			continue
		case <-tick.C:
		case <-pause.C:
		}
		for _, reason := range g.restore() {
			if onRestore != nil {
				onRestore(reason)
			}
		}
	}
}

// restore looks whether all is in place, repairs it, and tells what was wrong.
func (g *Guard) restore() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.applied == nil {
		return nil
	}
	var reasons []string
	if err := g.verifyLocked(); err != nil {
		reason := err.Error()
		if err := g.installLocked(g.applied); err != nil {
			reason += "; restoring failed: " + err.Error()
		}
		reasons = append(reasons, reason)
	}
	added, err := ensureForward(g.run)
	g.forward = err
	if added {
		reasons = append(reasons, "the accept rule for bridged frames was missing in the host's packet filter")
	}
	return reasons
}

// verifyLocked compares the numbers of rules and of set elements in the kernel with what was given.
func (g *Guard) verifyLocked() error {
	conn, err := dial()
	if err != nil {
		return err
	}
	for i := range g.applied.Tables {
		t := &g.applied.Tables[i]
		table := tableOf(t)
		if _, err := conn.ListTableOfFamily(table.Name, table.Family); err != nil {
			return fmt.Errorf("table %s %s was missing", t.Family, t.Name)
		}
		for _, c := range t.Chains {
			rules, err := conn.GetRules(table, &nftables.Chain{Table: table, Name: c.Name})
			if err != nil || len(rules) != len(c.Rules) {
				return fmt.Errorf("chain %s in table %s %s had been changed", c.Name, t.Family, t.Name)
			}
		}
		for j := range t.Sets {
			s := &t.Sets[j]
			if s.Limits {
				continue
			}
			elements, err := conn.GetSetElements(setOf(table, s))
			if err != nil || !sameKeys(elements, s.Elements) {
				return fmt.Errorf("set %s in table %s %s had been changed", s.Name, t.Family, t.Name)
			}
		}
	}
	return nil
}

func sameKeys(elements []nftables.SetElement, sorted []string) bool {
	if len(elements) != len(sorted) {
		return false
	}
	for i := range elements {
		if _, ok := slices.BinarySearch(sorted, string(elements[i].Key)); !ok {
			return false
		}
	}
	return true
}

// watch tells of changes to nftables in this namespace until ctx ends; hints are merged.
func watch(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("guard: nftables notifications: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard: nftables notifications: %w", err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "nftables") // non-blocking: reads go through Go's poller and end with Close
	hints := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { _ = f.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			// A full buffer (ENOBUFS) is a hint like any other.
			if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}()
	return hints, nil
}
