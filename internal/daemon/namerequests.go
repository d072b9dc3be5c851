package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/state"
)

// networkHere finds a network that this host has.
func (s *System) networkHere(name string) (*network, error) {
	name = cmp.Or(name, defaultNetwork)
	for _, n := range s.localNetworks() {
		if n.name == name {
			return n, nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "network %s is not on this host", name).WithHint("weft network create %s takes it up", name)
}

// saying is one record of a name that a living host publishes.
type saying struct {
	net   *network
	host  ident.HostID
	key   string
	value []byte
}

// sayings lists records of names in one network, or in all that are here.
func (s *System) sayings(ctx context.Context, network string, prefixes ...string) ([]saying, error) {
	nets := s.localNetworks()
	if network != "" {
		n, err := s.networkHere(network)
		if err != nil {
			return nil, err
		}
		nets = nets[:0]
		nets = append(nets, n)
	}
	s.inForce(ctx)
	alive := s.aliveHosts()
	var out []saying
	_ = s.mesh.View(func(t *state.Tables) {
		for _, n := range nets {
			for _, prefix := range prefixes {
				for i := range t.All(state.Scope(n.vni), prefix) {
					if alive[i.Writer] {
						out = append(out, saying{n, i.Writer, i.Key, i.Value})
					}
				}
			}
		}
	})
	return out, nil
}

func (b backend) Names(ctx context.Context, network string) (api.Names, error) {
	s := b.s
	all, err := s.sayings(ctx, network, keyAttach, names.KeyAliases, names.KeyGiven)
	if err != nil {
		return api.Names{}, err
	}
	hosts, domain := s.hostNames(), s.domain()
	type attachment struct {
		vni  uint32
		host ident.HostID
		name string
	}
	addresses := map[attachment][]string{}
	out := api.Names{Names: []api.Name{}}
	add := func(x saying, name, kind, of string, addrs []string) {
		out.Names = append(out.Names, api.Name{
			Name: name, Network: x.net.name, FQDN: name + "." + x.net.name + "." + domain, Addresses: addrs, Kind: kind, Attachment: of,
			Host: hosts[x.host], Local: x.host == s.mesh.Self(),
		})
	}
	for _, x := range all { // attachments come before aliases
		switch {
		case strings.HasPrefix(x.key, keyAttach):
			name, rec, err := decodeAttachment(x.key, x.value)
			if err != nil {
				continue
			}
			var list []string
			for _, p := range rec.IPs {
				list = append(list, p.Addr().String())
			}
			addresses[attachment{x.net.vni, x.host, name}] = list
			add(x, name, api.NameAttachment, name, list)
		case strings.HasPrefix(x.key, names.KeyAliases):
			of := x.key[len(names.KeyAliases):]
			rec, err := names.DecodeAliases(x.value)
			if err != nil {
				continue
			}
			for _, name := range rec.Names {
				if list, ok := addresses[attachment{x.net.vni, x.host, of}]; ok {
					add(x, name, api.NameAlias, of, list)
				}
			}
		default:
			rec, err := names.DecodeGiven(x.value)
			if err != nil {
				continue
			}
			add(x, x.key[len(names.KeyGiven):], api.NameGiven, "", texts(rec.Addrs))
		}
	}
	slices.SortFunc(out.Names, func(a, b api.Name) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Attachment, b.Attachment))
	})
	return out, nil
}

func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

func addresses(list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, t := range list {
		a, err := netip.ParseAddr(t)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "address %q: want IPv4 or IPv6, without a length", t)
		}
		if a = a.Unmap(); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, nil
}

// own returns the record that this host has under a key.
func (s *System) own(vni uint32, key string) (value []byte, ok bool) {
	_ = s.mesh.View(func(t *state.Tables) { value, ok = t.Get(s.mesh.Self(), state.Scope(vni), key) })
	return value, ok
}

func (b backend) AddName(ctx context.Context, q api.NameAdd) (api.Name, error) {
	s := b.s
	n, err := s.networkHere(q.Network)
	if err != nil {
		return api.Name{}, err
	}
	if err := names.CheckName(q.Name); err != nil {
		return api.Name{}, api.Errorf(api.CodeInvalid, "%w", err)
	}
	given, err := addresses(q.Addresses)
	if err != nil {
		return api.Name{}, err
	}
	key := names.KeyGiven + q.Name
	defer s.attaching.lock(n.name + "/" + key)()
	var all []netip.Addr
	if value, ok := s.own(n.vni, key); ok {
		if rec, err := names.DecodeGiven(value); err == nil {
			all = rec.Addrs
		}
	}
	for _, a := range given {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	value, err := names.Encode(names.Given{Addrs: all})
	if err != nil {
		return api.Name{}, api.Errorf(api.CodeInvalid, "name %s: %w", q.Name, err)
	}
	if err := s.mesh.Publish(n.vni, map[string][]byte{key: value}, nil); err != nil {
		return api.Name{}, api.Errorf(api.CodeUnavailable, "name %s: %w", q.Name, err)
	}
	s.inForce(ctx)
	return api.Name{
		Name: q.Name, Network: n.name, FQDN: q.Name + "." + n.name + "." + s.domain(), Addresses: texts(all), Kind: api.NameGiven, Host: s.cfg.Name, Local: true,
	}, nil
}

func (b backend) RemoveName(ctx context.Context, network, name string, list []string) error {
	s := b.s
	n, err := s.networkHere(network)
	if err != nil {
		return err
	}
	taken, err := addresses(list)
	if err != nil {
		return err
	}
	key := names.KeyGiven + name
	defer s.attaching.lock(n.name + "/" + key)()
	value, ok := s.own(n.vni, key)
	if !ok {
		return s.notOurs(n, key, "name "+name, "weft names lists them; the name of an attachment goes with it")
	}
	rec, _ := names.DecodeGiven(value)
	left := rec.Addrs
	for _, a := range taken {
		i := slices.Index(left, a)
		if i < 0 {
			return api.Errorf(api.CodeNotFound, "name %s has no address %s by this host", name, a).WithHint("weft names lists them")
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(taken) == 0 || len(left) == 0 {
		err = s.mesh.Publish(n.vni, nil, []string{key})
	} else {
		value, encodeErr := names.Encode(names.Given{Addrs: left})
		if encodeErr != nil {
			return encodeErr
		}
		err = s.mesh.Publish(n.vni, map[string][]byte{key: value}, nil)
	}
	s.inForce(ctx)
	return err
}

// notOurs says who published a record that this host did not.
func (s *System) notOurs(n *network, key, what, hint string) error {
	var by []string
	hosts := s.hostNames()
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Scope(n.vni), key) {
			if i.Key == key {
				by = append(by, cmp.Or(hosts[i.Writer], i.Writer.Short()))
			}
		}
	})
	if len(by) > 0 {
		return api.Errorf(api.CodeRefused, "%s in network %s is of host %s, not of this one", what, n.name, strings.Join(by, " and "))
	}
	return api.Errorf(api.CodeNotFound, "no %s in network %s was given by hand", what, n.name).WithHint("%s", hint)
}

func (b backend) Lookup(ctx context.Context, network, name string) (api.Lookup, error) {
	s := b.s
	n, err := s.networkHere(network)
	if err != nil {
		return api.Lookup{}, err
	}
	s.inForce(ctx)
	end := "." + n.name + "." + s.domain()
	out := api.Lookup{Network: n.name}
	if a, err := netip.ParseAddr(name); err == nil {
		out.Addresses = []string{a.String()}
		s.names.server.Change(n.vni, func(t *names.Table) {
			for _, found := range t.Names(a.Unmap()) {
				out.Names = append(out.Names, found+end)
			}
		})
		if len(out.Names) == 0 {
			return api.Lookup{}, api.Errorf(api.CodeNotFound, "address %s has no name in network %s", a, n.name)
		}
		return out, nil
	}
	short := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), "."), end)
	out.FQDN = short + end
	s.names.server.Change(n.vni, func(t *names.Table) { out.Addresses = texts(t.Addresses(short)) })
	if len(out.Addresses) == 0 {
		return api.Lookup{}, api.Errorf(api.CodeNotFound, "no name %s in network %s", short, n.name).WithHint("weft names lists them")
	}
	return out, nil
}

func (b backend) SetAliases(ctx context.Context, network, attachment string, a api.Aliases) error {
	defer b.s.attaching.lock(network + "/" + attachment)()
	err := b.s.setAliases(network, attachment, a.Aliases)
	b.s.inForce(ctx)
	return err
}

func (b backend) Services(ctx context.Context, network string) (api.Services, error) {
	s := b.s
	all, err := s.sayings(ctx, network, names.KeyService)
	if err != nil {
		return api.Services{}, err
	}
	hosts := s.hostNames()
	out := api.Services{Services: []api.Service{}}
	for _, x := range all {
		service, name, err := names.SplitService(x.key)
		if err != nil {
			continue
		}
		rec, err := names.DecodeService(x.value)
		if err != nil {
			continue
		}
		v := s.describeService(x.net, service, name, rec)
		v.Host, v.Local = hosts[x.host], x.host == s.mesh.Self()
		out.Services = append(out.Services, v)
	}
	slices.SortFunc(out.Services, func(a, b api.Service) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Host, b.Host))
	})
	return out, nil
}

func (s *System) describeService(n *network, service, name string, rec names.Service) api.Service {
	return api.Service{
		Service: service, Name: name, Network: n.name, FQDN: fmt.Sprintf("%s.%s.%s.%s", name, service, n.name, s.domain()),
		Port: int(rec.Port), Priority: int(rec.Priority), Weight: int(rec.Weight), Texts: rec.Texts, Host: s.cfg.Name, Local: true,
	}
}

func (b backend) AddService(ctx context.Context, q api.ServiceAdd) (api.Service, error) {
	s := b.s
	n, err := s.networkHere(q.Network)
	if err != nil {
		return api.Service{}, err
	}
	if err := names.CheckService(q.Service); err != nil {
		return api.Service{}, api.Errorf(api.CodeInvalid, "%w", err)
	}
	if err := names.CheckName(q.Name); err != nil {
		return api.Service{}, api.Errorf(api.CodeInvalid, "%w", err)
	}
	rec := names.Service{Port: uint16(q.Port), Priority: uint16(q.Priority), Weight: uint16(q.Weight), Texts: q.Texts}
	value, err := names.Encode(rec)
	if err != nil {
		return api.Service{}, api.Errorf(api.CodeInvalid, "service %s of %s: %w", q.Service, q.Name, err)
	}
	if err := s.mesh.Publish(n.vni, map[string][]byte{names.ServiceKey(q.Service, q.Name): value}, nil); err != nil {
		return api.Service{}, api.Errorf(api.CodeUnavailable, "service %s of %s: %w", q.Service, q.Name, err)
	}
	s.inForce(ctx)
	return s.describeService(n, q.Service, q.Name, rec), nil
}

func (b backend) RemoveService(ctx context.Context, network, service, name string) error {
	s := b.s
	n, err := s.networkHere(network)
	if err != nil {
		return err
	}
	key := names.ServiceKey(service, name)
	if _, ok := s.own(n.vni, key); !ok {
		return s.notOurs(n, key, fmt.Sprintf("service %s of %s", service, name), "weft service ls lists them")
	}
	err = s.mesh.Publish(n.vni, nil, []string{key})
	s.inForce(ctx)
	return err
}
