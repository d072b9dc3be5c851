package main

import (
	"context"
	"fmt"
	"strings"
)

// n2n is edges that find each other by a supernode, which also passes on what is for all.
type n2n struct{}

const (
	supernodePort = 7654
	supernodeHost = 200 // its number; beyond those of hosts
)

func (n2n) add(ctx context.Context, w *world, h *host) error {
	edge, err := program("edge")
	if err != nil {
		return err
	}
	if h.n == 1 {
		if err := supernode(ctx, w); err != nil {
			return err
		}
	}
	// In this version -f means to go into the background.
	err = h.daemon(nil, edge, "-d", "ov0", "-a", overlay(h.n).String(), "-s", "255.255.255.0", "-c", "bench", "-k", "weftbench",
		"-l", fmt.Sprintf("%s:%d", underlay(supernodeHost), supernodePort), "-M", "1400", "-m", strings.Replace(mac(h.n), "02:62:00", "02:62:02", 1), "-r")
	if err != nil {
		return err
	}
	return w.overlayLink(ctx, h, "ov0", 1400)
}

// supernode runs one on a machine of its own, so that what it sends crosses the underlay as well.
func supernode(ctx context.Context, w *world) error {
	bin, err := program("supernode")
	if err != nil {
		return err
	}
	h, err := w.machine(ctx, supernodeHost)
	if err != nil {
		return err
	}
	return h.daemon(nil, bin, "-l", fmt.Sprint(supernodePort))
}
