package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	lookupTime = 5 * time.Second
	// maxTargets is how many names of SRV records are looked up.
	maxTargets = 32
)

// resolver is the part of net.Resolver that is used.
type resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// names asks DNS: by SRV records for hosts and ports, or for a name's own addresses. It asks as this host's programs do (/etc/resolv.conf).
type names struct {
	readOnly
	name string
	srv  bool
	port uint16
	dns  resolver
}

func newDNS(s spec, e Environment, srv bool) (Source, error) {
	if err := s.only(); err != nil {
		return nil, err
	}
	d := &names{srv: srv, port: e.Port, dns: net.DefaultResolver}
	if len(s.hosts) != 1 || s.name != "" {
		return nil, errors.New("want one name, as in dns+srv://_weft._udp.example.org or dns://weft.example.org:6783")
	}
	d.name = s.hosts[0]
	if h, p, err := net.SplitHostPort(d.name); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		switch {
		case srv:
			return nil, errors.New("SRV records say the ports: give none")
		case err != nil || n == 0:
			return nil, fmt.Errorf("port %q is not a number from 1 to 65535", p)
		}
		d.name, d.port = h, uint16(n)
	}
	if _, err := netip.ParseAddr(d.name); err == nil || len(d.name) > 253 || d.name == "" || strings.ContainsAny(d.name, "/:@[]\\ ") {
		return nil, fmt.Errorf("%q is no name in DNS", d.name)
	}
	if srv && !strings.HasPrefix(d.name, "_") {
		d.name = "_weft._udp." + d.name
	}
	return d, nil
}

func (d *names) Find(ctx context.Context) (Found, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var g gather
	if !d.srv {
		return g.all2(d.name, d.addresses(ctx, &g, d.name, d.port))
	}
	_, records, err := d.dns.LookupSRV(ctx, "", "", d.name)
	if err != nil {
		return Found{}, unresolved("SRV records "+d.name, err)
	}
	var failed error
	for i, r := range records {
		if i == maxTargets {
			g.refuse(fmt.Sprintf("more than %d records", maxTargets))
			break
		}
		if err := d.addresses(ctx, &g, strings.TrimSuffix(r.Target, "."), r.Port); err != nil && failed == nil {
			failed = err
		}
	}
	if len(g.Addrs) > 0 {
		failed = nil // some hosts do
	}
	return g.all2(d.name, failed)
}

func (d *names) addresses(ctx context.Context, g *gather, name string, port uint16) error {
	addrs, err := d.dns.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return unresolved(name, err)
	}
	for _, a := range addrs {
		g.add(netip.AddrPortFrom(a, port))
	}
	return nil
}

// all2 is all, unless something failed.
func (g *gather) all2(name string, err error) (Found, error) {
	if err != nil {
		return Found{}, err
	}
	return g.all("DNS for " + name)
}

// unresolved says why a name leads nowhere.
func unresolved(what string, err error) error {
	var de *net.DNSError
	switch {
	case errors.As(err, &de) && de.IsNotFound:
		return fault("make the records, or mend the name", "%s: no such name in DNS", what)
	case errors.As(err, &de) && de.IsTimeout:
		return fault("see /etc/resolv.conf: does that server answer?", "%s: the name server does not answer", what)
	case errors.As(err, &de):
		return fault("see /etc/resolv.conf: is that a name server?", "%s: %s", what, printable(de.Err))
	}
	return fault("see /etc/resolv.conf", "%s: %s", what, printable(err.Error()))
}
