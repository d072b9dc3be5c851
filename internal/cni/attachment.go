package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/vnet"
)

// add plugs a container in. Repeated, it answers with what is there.
func (p *Plugin) add(ctx context.Context, w Weft, c call) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var err error
	if c.args, err = parseArgs(lookup(p.Env, "CNI_ARGS")); err != nil {
		return nil, err
	}
	before, err := parsePrevious(c.Version, c.Previous)
	if err != nil {
		return nil, err
	}
	also, err := c.names()
	if err != nil {
		return nil, err
	}
	if err := p.Host.Namespace(c.netns); err != nil {
		return nil, errorf(CodeContainer, "CNI_NETNS: %w", err)
	}
	port := vnet.PortName(c.Network, c.name())
	if _, twice := before.find(port, ""); twice {
		return nil, errorf(CodeConfig, "network %s is in the list of plugins of %s twice", c.Network, c.Name)
	}
	inside := c.ifname
	if _, taken := before.find(c.ifname, c.netns); taken { // a plugin before made it: ours is a further one
		inside = c.Interface
	} else if c.Interface != "" {
		return nil, errorf(CodeUnsupported, "interface: %q: the runtime names the interface, %s", c.Interface, c.ifname).
			with("the key is for a plugin that is not the first of its list")
	}
	a, err := w.Attach(ctx, client.Attach{
		Network: c.Network, Name: c.name(), Kind: client.KindNetns, Netns: c.netns, Interface: inside, IPs: c.ips(c.args), Renew: true,
	})
	if err != nil {
		return nil, told(err)
	}
	r := result{
		port:  netInterface{Name: port, MAC: p.Host.MAC(port)},
		inner: netInterface{Name: a.Interface, MAC: a.MAC, MTU: a.MTU, Sandbox: c.netns},
		dns:   c.DNS,
	}
	if r.dns.empty() {
		r.dns = dns{Nameservers: a.DNS, Search: a.Search}
	}
	if len(also) > 0 {
		err = w.SetAliases(ctx, c.Network, c.name(), also...)
	}
	if err == nil {
		r.ips, err = prefixes(a.IPs)
	}
	var out []byte
	if err == nil {
		out, err = r.encode(c.Version, before)
	}
	if err != nil {
		return nil, errors.Join(told(err), w.Detach(ctx, c.Network, c.name()))
	}
	return out, nil
}

// names returns by what names else the container is to be known: those that the runtime gave it, and POD and POD.NAMESPACE. What is
// no name is left out: a runtime tells its names whether anybody wants to look them up or not.
func (c call) names() ([]string, error) {
	list, err := c.aliases()
	if err != nil {
		return nil, err
	}
	if pod := c.args[argPod]; pod != "" {
		list = append(list, pod)
		if ns := c.args[argNamespace]; ns != "" {
			list = append(list, pod+"."+ns)
		}
	}
	var out []string
	for _, n := range list {
		n = strings.ToLower(n)
		if names.CheckName(n) == nil && !slices.Contains(out, n) && len(out) < names.MaxAliases {
			out = append(out, n)
		}
	}
	return out, nil
}

func prefixes(texts []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(texts))
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, fmt.Errorf("the daemon's answer: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

// del unplugs a container. What is not there any more is no error. Without a daemon the veth is removed by its name: the daemon takes
// the address back when it is there again and finds it missing.
func (p *Plugin) del(ctx context.Context, w Weft, c call) ([]byte, error) {
	err := w.Detach(ctx, c.Network, c.name())
	switch {
	case err == nil, client.IsCode(err, client.CodeNotFound):
		return nil, nil
	case !errors.Is(err, client.ErrNoDaemon):
		return nil, told(err)
	}
	if gone := p.Host.Remove(vnet.PortName(c.Network, c.name())); gone != nil {
		return nil, errorf(CodeTryAgain, "%w; and without it: %w", err, gone)
	}
	return nil, nil
}

// gc removes the attachments of this CNI network, in whatever weft network, that are not in the list.
func (p *Plugin) gc(ctx context.Context, w Weft, c call) ([]byte, error) {
	all, err := w.Attachments(ctx)
	if err != nil {
		return nil, told(err)
	}
	valid := make(map[string]bool, len(c.Valid))
	for _, v := range c.Valid {
		valid[nameOf(v.Container, v.Interface)] = true
	}
	var errs []error
	for _, a := range all {
		rest, ours := strings.CutPrefix(a.Name, prefix(c.Name))
		if !a.Local || !ours || valid[rest] {
			continue
		}
		if err := w.Detach(ctx, a.Network, a.Name); err != nil && !client.IsCode(err, client.CodeNotFound) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, told(err)
	}
	return nil, nil
}

// check compares what ADD answered, what the daemon has and what is in the container.
func (p *Plugin) check(ctx context.Context, w Weft, c call) ([]byte, error) {
	before, err := parsePrevious(c.Version, c.Previous)
	if err != nil {
		return nil, err
	}
	all, err := w.Attachments(ctx)
	if err != nil {
		return nil, told(err)
	}
	i := slices.IndexFunc(all, func(a client.Attachment) bool { return a.Local && a.Network == c.Network && a.Name == c.name() })
	if i < 0 {
		return nil, errorf(CodeMissing, "container %.80s, interface %s: its attachment to network %s is gone", c.container, c.ifname, c.Network).
			with("add the container again")
	}
	a := all[i]
	was, ok := before.find(a.Interface, c.netns)
	if !ok {
		return nil, errorf(CodeConfig, "prevResult has no interface %s in %s", a.Interface, c.netns)
	}
	damaged := func(format string, args ...any) error {
		return errorf(CodeDamaged, "container %.80s, interface %s: "+format, append([]any{c.container, a.Interface}, args...)...).
			with("add the container again")
	}
	if !strings.EqualFold(was.MAC, a.MAC) {
		return nil, damaged("the MAC was %s, and is %s", was.MAC, a.MAC)
	}
	is, err := p.Host.Inside(c.netns, a.Interface)
	if err != nil {
		return nil, damaged("%w", err)
	}
	want, err := prefixes(a.IPs)
	switch {
	case err != nil:
		return nil, told(err)
	case !is.Up:
		return nil, damaged("it is down")
	case is.MAC != a.MAC:
		return nil, damaged("its MAC is %s, not %s", is.MAC, a.MAC)
	}
	for _, ip := range want {
		if !slices.Contains(is.IPs, ip) {
			return nil, damaged("it has lost the address %s", ip)
		}
	}
	return nil, nil
}
