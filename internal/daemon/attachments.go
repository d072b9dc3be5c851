package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ipam"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
	"github.com/weft-net/weft/internal/vnet"
)

// attach plugs a process, a namespace or the host into a network: all or nothing.
func (s *System) attach(ctx context.Context, r api.Attach) (api.Attachment, error) {
	if r.Network == "" {
		r.Network = defaultNetwork
	}
	if r.Name == "" {
		r.Name = madeUp(r.Kind)
	}
	if err := ident.CheckName("attachment", r.Name); err != nil {
		return api.Attachment{}, api.Errorf(api.CodeInvalid, "%w", err)
	}
	spec, err := s.spec(r)
	if err != nil {
		return api.Attachment{}, err
	}
	var want netip.Addr
	for _, v := range r.IPs {
		a, err := netip.ParseAddr(v)
		if err != nil || !a.Is4() || want.IsValid() {
			return api.Attachment{}, api.Errorf(api.CodeInvalid, "address %q: want one IPv4 address of the network; the IPv6 one follows from it", v)
		}
		want = a
	}
	n, err := s.takeUp(ctx, r.Network)
	if err != nil {
		return api.Attachment{}, err
	}
	unlock := s.attaching.lock(r.Network + "/" + r.Name)
	defer unlock()
	for _, a := range s.vnet.Attachments() {
		if a.Network == r.Network && a.Name == r.Name {
			switch {
			case !r.Renew:
				return api.Attachment{}, api.Errorf(api.CodeConflict, "attachment %s is in network %s already", r.Name, r.Network).
					WithHint("choose another --name, or weft detach %s", r.Name)
			case alike(a, spec, want):
				return s.describe(a), nil
			}
			if err := errors.Join(s.vnet.Detach(a.Network, a.Name), s.withdraw(a)); err != nil {
				return api.Attachment{}, fmt.Errorf("attachment %s of an earlier namespace: %w", r.Name, err)
			}
		}
		if r.Kind == api.KindHost && a.Kind == vnet.KindExpose && a.Network == r.Network {
			return api.Attachment{}, api.Errorf(api.CodeConflict, "this host is exposed in network %s already, as %s", r.Network, a.IPs[0].Addr()).
				WithHint("weft hide --network %s, to take another address", r.Network)
		}
	}
	addr, err := s.allocate(ctx, n, r.Name, want)
	switch {
	case errors.Is(err, ipam.ErrInUse):
		return api.Attachment{}, api.Errorf(api.CodeConflict, "%w", err)
	case errors.Is(err, ipam.ErrRemoved):
		return api.Attachment{}, api.Errorf(api.CodeRefused, "%s", cmp.Or(s.removal(), ipam.ErrRemoved.Error())).WithHint("what is attached runs on, among itself: weft down --clean, remove %s, weft up with the present token", s.cfg.StateDir)
	case errors.Is(err, ipam.ErrExhausted), errors.Is(err, ipam.ErrHeld), errors.Is(err, context.DeadlineExceeded):
		return api.Attachment{}, api.Errorf(api.CodeUnavailable, "%w", err)
	case err != nil:
		return api.Attachment{}, err
	}
	spec.MAC, spec.IPs = nl.MAC(addr.MAC), []netip.Prefix{addr.IP4, s.address6(n, addr.IP4)}
	a, err := s.vnet.Attach(ctx, spec)
	if err != nil {
		err = errors.Join(err, s.ipam.Release(n.vni, r.Name))
		if errors.Is(err, vnet.ErrExists) || errors.Is(err, nl.ErrExists) {
			return api.Attachment{}, api.Errorf(api.CodeConflict, "%w", err)
		}
		return api.Attachment{}, err
	}
	rec := attachRecord{MAC: addr.MAC, IPs: spec.IPs, Kind: r.Kind}
	if err := s.mesh.Publish(n.vni, map[string][]byte{keyAttach + r.Name: encode(rec)}, nil); err != nil {
		return api.Attachment{}, errors.Join(err, s.vnet.Detach(r.Network, r.Name), s.ipam.Release(n.vni, r.Name))
	}
	if r.Kind == api.KindHost {
		s.names.noteHost()
	}
	s.trouble(overruled(r.Network, r.Name), "")
	return s.describe(a), nil
}

// alike reports whether an attachment is the one that is asked for. A namespace is known by what its file leads to now: a container that
// was made anew under the old path is another.
func alike(a vnet.Attachment, want vnet.AttachSpec, addr netip.Addr) bool {
	if a.Kind != want.Kind || a.PID != want.PID || want.Interface != "" && a.Interface != want.Interface ||
		addr.IsValid() && a.IPs[0].Addr() != addr {
		return false
	}
	if want.Netns == "" {
		return a.Netns == ""
	}
	ns, err := netns.OS().Path(want.Netns)
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.ID() == a.NS
}

// setAliases gives an attachment of this host further names, in place of those it had; none takes them away. Whoever learns by what
// names else an attachment is known (a container's aliases and services, say) tells it here: the names go with the attachment.
func (s *System) setAliases(network, name string, aliases []string) error {
	for _, a := range s.vnet.Attachments() {
		if a.Network != network || a.Name != name {
			continue
		}
		if len(aliases) == 0 {
			return s.mesh.Publish(a.VNI, nil, []string{names.KeyAliases + name})
		}
		b, err := names.Encode(names.Aliases{Names: aliases})
		if err != nil {
			return api.Errorf(api.CodeInvalid, "attachment %s: %w", name, err)
		}
		return s.mesh.Publish(a.VNI, map[string][]byte{names.KeyAliases + name: b}, nil)
	}
	return api.Errorf(api.CodeNotFound, "no attachment %s in network %s on this host", name, network)
}

// address6 returns the IPv6 address that goes with an IPv4 one: in the /64 of its subnet, of which a
// network that was created twice has two.
func (s *System) address6(n *network, v4 netip.Prefix) netip.Prefix {
	net6 := n.def.Subnet6
	for _, p := range s.subnetsOf(n) {
		if p.IP4 == v4.Masked() && p.IP6.IsValid() {
			net6 = p.IP6
		}
	}
	return ipam.IP6(net6, v4.Addr())
}

// spec says where the inner end goes.
func (s *System) spec(r api.Attach) (vnet.AttachSpec, error) {
	spec := vnet.AttachSpec{Network: r.Network, Name: r.Name, Interface: r.Interface, MulticastRoute: true}
	if r.Interface != "" && r.Kind != api.KindNetns {
		return spec, api.Errorf(api.CodeInvalid, "attachment %s: only that of a namespace chooses the name of its interface", r.Name)
	}
	switch r.Kind {
	case api.KindProcess:
		if r.PID == 0 {
			return spec, api.Errorf(api.CodeInvalid, "attachment %s: a process needs its pid", r.Name)
		}
		spec.Kind, spec.PID, spec.StartTime = vnet.KindRun, r.PID, r.StartTime
		if r.TID != 0 {
			spec.Netns = fmt.Sprintf("/proc/%d/task/%d/ns/net", r.PID, r.TID)
		}
	case api.KindNetns:
		spec.Kind, spec.Netns, spec.PID = vnet.KindNetns, r.Netns, r.PID
		if r.Netns == "" {
			spec.Kind = vnet.KindPID
		}
		if r.Netns == "" && r.PID == 0 {
			return spec, api.Errorf(api.CodeInvalid, "attachment %s: name the namespace: --netns PATH or --pid PID", r.Name)
		}
	case api.KindHost:
		spec.Kind, spec.MulticastRoute = vnet.KindExpose, r.MulticastRoute
	default:
		return spec, api.Errorf(api.CodeInvalid, "attachments of kind %q are not built yet", r.Kind).WithHint("weft attach --pid $(docker inspect -f '{{.State.Pid}}' ID)")
	}
	if spec.PID != 0 {
		if _, err := os.Stat("/proc/" + strconv.Itoa(spec.PID)); err != nil {
			return spec, api.Errorf(api.CodeNotFound, "no process %d", spec.PID)
		}
	}
	if spec.Netns != "" && r.Kind == api.KindNetns {
		ns, err := netns.OS().Path(spec.Netns)
		if errors.Is(err, fs.ErrNotExist) {
			return spec, api.Errorf(api.CodeNotFound, "%w", err)
		}
		if err != nil {
			return spec, api.Errorf(api.CodeInvalid, "%w", err)
		}
		_ = ns.Close()
	}
	return spec, nil
}

// detach unplugs an attachment of this host.
func (s *System) detach(network, name string) error {
	unlock := s.attaching.lock(network + "/" + name)
	defer unlock()
	for _, a := range s.vnet.Attachments() {
		if a.Network != network || a.Name != name {
			continue
		}
		if err := s.vnet.Detach(network, name); err != nil {
			return err
		}
		return s.withdraw(a)
	}
	for _, a := range s.allAttachments() {
		if a.Network == network && a.Name == name {
			return api.Errorf(api.CodeRefused, "attachment %s is on host %s, not here", name, a.Host)
		}
	}
	return api.Errorf(api.CodeNotFound, "no attachment %s in network %s", name, network)
}

// withdraw takes back what was said of an attachment that has ended.
func (s *System) withdraw(a vnet.Attachment) error {
	return errors.Join(s.mesh.Publish(a.VNI, nil, []string{keyAttach + a.Name, names.KeyAliases + a.Name}), s.ipam.Release(a.VNI, a.Name))
}

// onGone hears of attachments whose process or namespace ended.
func (s *System) onGone(a vnet.Attachment, _ string) {
	if err := s.withdraw(a); err != nil && s.ctx.Err() == nil {
		s.log.Error("attachment not withdrawn", "network", a.Network, "attachment", a.Name, "err", err)
	}
}

// madeUp names an attachment that nobody named.
func madeUp(kind string) string {
	var b [3]byte
	_, _ = rand.Read(b[:])
	return kind + "-" + hex.EncodeToString(b[:])
}

func (s *System) describe(a vnet.Attachment) api.Attachment {
	out := api.Attachment{
		Name: a.Name, Network: a.Network, Host: s.cfg.Name, MAC: a.MAC.String(), Kind: kindNames[a.Kind], Local: true,
		PID: a.PID, Netns: a.Netns, Interface: a.Interface, MTU: s.clusterMTU(), FQDN: a.Name + "." + a.Network + "." + s.domain(),
	}
	out.DNS, out.Search = s.names.resolver(a.VNI, a.IPs)
	for _, p := range a.IPs {
		out.IPs = append(out.IPs, p.String())
	}
	return out
}

var kindNames = map[vnet.Kind]string{
	vnet.KindRun: api.KindProcess, vnet.KindPID: api.KindNetns, vnet.KindNetns: api.KindNetns, vnet.KindExpose: api.KindHost,
	vnet.KindDocker: api.KindContainer,
}
