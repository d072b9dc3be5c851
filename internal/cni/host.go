package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
)

// Host is what the plugin sees and does without the daemon. It runs in the host's network namespace.
type Host interface {
	// Namespace returns an error when a file is not a network namespace, or the host's own.
	Namespace(path string) error
	// Inside looks at an interface in a namespace.
	Inside(path, name string) (Inner, error)
	// MAC returns that of one of the host's interfaces; empty when there is none of that name.
	MAC(name string) string
	// Remove removes one of the host's interfaces; none of that name is no error.
	Remove(name string) error
}

// Inner is the state of an interface in a container.
type Inner struct {
	MAC string
	Up  bool
	IPs []netip.Prefix
}

// Kernel is the host that this process runs on.
type Kernel struct{}

// Namespace implements Host.
func (Kernel) Namespace(path string) error {
	ns, err := netns.OS().Path(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	own, err := netns.OS().Current()
	if err != nil {
		return err
	}
	defer own.Close()
	if ns.ID() == own.ID() {
		return fmt.Errorf("%s is the host's own network namespace: use weft expose", path)
	}
	return nil
}

// Inside implements Host.
func (Kernel) Inside(path, name string) (Inner, error) {
	ns, err := netns.OS().Path(path)
	if err != nil {
		return Inner{}, err
	}
	defer ns.Close()
	var in Inner
	err = ns.Do(func() error { // package net asks the namespace of the thread
		i, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("interface %s in %s: %w", name, path, err)
		}
		in.MAC, in.Up = i.HardwareAddr.String(), i.Flags&net.FlagUp != 0
		addrs, err := i.Addrs()
		if err != nil {
			return fmt.Errorf("addresses of %s in %s: %w", name, path, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				in.IPs = append(in.IPs, p)
			}
		}
		return nil
	})
	return in, err
}

// MAC implements Host.
func (Kernel) MAC(name string) string {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return ""
	}
	return i.HardwareAddr.String()
}

// Remove implements Host.
func (Kernel) Remove(name string) error {
	ns, err := netns.OS().Current()
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := nl.OS().Open(ns)
	if err != nil {
		return err
	}
	return errors.Join(h.Delete(name), h.Close())
}
