package apiservertest

import (
	"context"
	"slices"

	"github.com/weft-net/weft/internal/api"
)

// Names returns the names.
func (b *Backend) Names(_ context.Context, network string) (api.Names, error) {
	defer b.mu.Unlock()
	err := b.called("names %q", network)
	return api.Names{Names: slices.Clone(b.names)}, err
}

// AddName adds a name.
func (b *Backend) AddName(_ context.Context, n api.NameAdd) (api.Name, error) {
	defer b.mu.Unlock()
	if err := b.called("add name %+v", n); err != nil {
		return api.Name{}, err
	}
	out := api.Name{Name: n.Name, Network: "weft", Host: "one", FQDN: n.Name + ".weft.weft.internal", Addresses: n.Addresses, Kind: api.NameGiven, Local: true}
	b.names = append(b.names, out)
	return out, nil
}

// RemoveName removes a name.
func (b *Backend) RemoveName(_ context.Context, network, name string, addresses []string) error {
	defer b.mu.Unlock()
	if err := b.called("rm name %s/%s %v", network, name, addresses); err != nil {
		return err
	}
	if _, err := b.named(name); err != nil {
		return err
	}
	b.names = slices.DeleteFunc(b.names, func(n api.Name) bool { return n.Name == name })
	return nil
}

func (b *Backend) named(name string) (api.Name, error) {
	i := slices.IndexFunc(b.names, func(n api.Name) bool { return n.Name == name || slices.Contains(n.Addresses, name) })
	if i < 0 {
		return api.Name{}, api.Errorf(api.CodeNotFound, "no name %s in network weft", name).WithHint("weft names lists them")
	}
	return b.names[i], nil
}

// Lookup finds a name or an address.
func (b *Backend) Lookup(_ context.Context, network, name string) (api.Lookup, error) {
	defer b.mu.Unlock()
	if err := b.called("lookup %q %s", network, name); err != nil {
		return api.Lookup{}, err
	}
	n, err := b.named(name)
	if err != nil {
		return api.Lookup{}, err
	}
	if n.Name != name {
		return api.Lookup{Network: n.Network, Addresses: []string{name}, Names: []string{n.FQDN}}, nil
	}
	return api.Lookup{Network: n.Network, FQDN: n.FQDN, Addresses: n.Addresses}, nil
}

// SetAliases remembers the call.
func (b *Backend) SetAliases(_ context.Context, network, attachment string, a api.Aliases) error {
	defer b.mu.Unlock()
	return b.called("aliases %s/%s %v", network, attachment, a.Aliases)
}

// Services returns the services.
func (b *Backend) Services(_ context.Context, network string) (api.Services, error) {
	defer b.mu.Unlock()
	err := b.called("services %q", network)
	return api.Services{Services: slices.Clone(b.services)}, err
}

// AddService adds a service.
func (b *Backend) AddService(_ context.Context, s api.ServiceAdd) (api.Service, error) {
	defer b.mu.Unlock()
	if err := b.called("add service %+v", s); err != nil {
		return api.Service{}, err
	}
	out := api.Service{
		Service: s.Service, Name: s.Name, Network: "weft", FQDN: s.Name + "." + s.Service + ".weft.weft.internal",
		Port: s.Port, Priority: s.Priority, Weight: s.Weight, Texts: s.Texts, Host: "one", Local: true,
	}
	b.services = append(b.services, out)
	return out, nil
}

// RemoveService removes a service.
func (b *Backend) RemoveService(_ context.Context, network, service, name string) error {
	defer b.mu.Unlock()
	if err := b.called("rm service %s/%s/%s", network, service, name); err != nil {
		return err
	}
	is := func(s api.Service) bool { return s.Service == service && s.Name == name }
	if !slices.ContainsFunc(b.services, is) {
		return api.Errorf(api.CodeNotFound, "no service %s of %s in network weft was given by hand", service, name).WithHint("weft service ls lists them")
	}
	b.services = slices.DeleteFunc(b.services, is)
	return nil
}
