package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/vnet"
)

// recallTables reads the state of earlier runs. What is on our disk was allowed when it came.
func (s *System) recallTables(keys ident.Keys) (*state.Tables, error) {
	t := state.New(state.Config{Keys: keys, Cluster: s.id.Cluster, Allowed: func(id ident.HostID) bool {
		f := s.allowed.Load()
		return f == nil || (*f)(id)
	}})
	own, err := s.dir.Load(fileOwn)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := t.Import(own); err != nil {
			return nil, fmt.Errorf("state file %s: %w", fileOwn, err)
		}
	}
	for _, scope := range t.OwnScopes() {
		if err := t.Hold(scope); err != nil {
			return nil, err
		}
	}
	others, err := s.dir.Load(fileOthers)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		// A copy of what others know: it comes again, provided that somebody is found.
		where, qerr := s.dir.Quarantine(fileOthers)
		s.log.Warn("copy of other hosts' state set aside", "err", err, "to", where, "quarantine_err", qerr)
	default:
		if err := t.Import(others); err != nil {
			s.log.Warn("copy of other hosts' state is partly refused", "err", err)
		}
	}
	return t, nil
}

// replay hands what the tables hold from an earlier run to those who act on it.
func (s *System) replay() {
	var all []state.Change
	var barred []string
	_ = s.mesh.View(func(t *state.Tables) {
		for _, scope := range t.Scopes() {
			for i := range t.All(scope, "") {
				switch {
				case ipam.Owns(i.Key): // in the mesh's loop, so that nothing newer comes before
					s.ipam.OnChange(uint32(scope), i.Writer, i.Key, i.Value, false)
				case scope == state.Cluster && strings.HasPrefix(i.Key, mesh.KeyBar):
					barred = append(barred, i.Key[len(mesh.KeyBar):])
				default:
					all = append(all, state.Change{Writer: i.Writer, Scope: scope, Key: i.Key, Value: i.Value})
				}
			}
		}
	})
	for _, key := range barred {
		s.removed(key, false) // who the heir is shows when links are up
	}
	s.digest(inbox{changes: all})
	var subnets []netip.Prefix
	s.mu.Lock()
	for _, d := range s.defs {
		if slices.Contains(d.hosts, s.mesh.Self()) {
			subnets = append(subnets, d.subnets...)
		}
	}
	s.mu.Unlock()
	if err := s.ipam.ReleaseUnused(subnets); err != nil {
		s.log.Error("unused subnets not given back", "err", err)
	}
}

func recordOf(a vnet.Attachment) []byte {
	return encode(attachRecord{MAC: a.MAC, IPs: a.IPs, Kind: kindNames[a.Kind]})
}

// restore brings this host's addresses and records in a network in line with the attachments that
// survived an earlier run: what is in use stays in use, the rest is free again.
func (s *System) restore(n *network) error {
	living := map[string]vnet.Attachment{}
	for _, a := range s.vnet.Attachments() {
		if a.VNI == n.vni {
			living[a.Name] = a
		}
	}
	var dels []string
	_ = s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Scope(n.vni), keyAttach) {
			if name := i.Key[len(keyAttach):]; i.Writer == s.mesh.Self() && living[name].Name == "" {
				dels = append(dels, i.Key, names.KeyAliases+name)
			}
		}
	})
	puts := map[string][]byte{}
	if _, claimed := s.claims[n.name]; !claimed { // else who has their addresses now is not known yet: see settleClaims
		for name, a := range living {
			puts[keyAttach+name] = recordOf(a)
		}
	}
	if err := s.mesh.Publish(n.vni, puts, dels); err != nil {
		return err
	}
	for name := range s.ipam.Allocations(n.vni) {
		if living[name].Name == "" && !s.docker.Holds(name) {
			if err := s.ipam.Release(n.vni, name); err != nil {
				return err
			}
		}
	}
	var errs []error
	for key, ip := range s.docker.Held(n.name) { // whether or not a container has it now
		errs = append(errs, s.ipam.Restore(n.vni, key, ip))
	}
	for name, a := range living {
		if a.Kind == vnet.KindDocker {
			continue
		}
		for _, p := range a.IPs {
			if p.Addr().Is4() {
				errs = append(errs, s.ipam.Restore(n.vni, name, p.Addr()))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.trouble("ipam "+n.name, fmt.Sprintf("addresses of network %s: %v", n.name, err))
	}
	return nil
}
