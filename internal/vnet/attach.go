package vnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/netns"
	"github.com/weft-net/weft/internal/nl"
)

func (s AttachSpec) check() error {
	if err := ident.CheckName("attachment", s.Name); err != nil {
		return err
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("attachment %s: "+format, append([]any{s.Name}, args...)...)
	}
	if s.MAC == (nl.MAC{}) || s.MAC[0]&1 != 0 {
		return fail("MAC %s is not the address of one interface", s.MAC)
	}
	if len(s.IPs) == 0 || len(s.IPs) > MaxAddrs {
		return fail("%d addresses, want 1 to %d", len(s.IPs), MaxAddrs)
	}
	for _, p := range s.IPs {
		if a := p.Addr(); !p.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return fail("address %s is not a unicast address with a prefix length", p)
		}
	}
	if s.Interface != "" && !interfaceName(s.Interface) {
		return fail("interface name %q: use 1 to 15 letters, digits, '-', '_' and '.'", s.Interface)
	}
	switch s.Kind {
	case KindRun, KindPID:
		if s.PID <= 0 {
			return fail("no process given")
		}
	case KindNetns:
		if s.Netns == "" {
			return fail("no namespace given")
		}
	case KindExpose:
		if s.Netns != "" || s.PID != 0 {
			return fail("the host's own attachment has neither namespace nor process")
		}
	case KindDocker:
		if s.Netns != "" || s.PID != 0 || s.MulticastRoute {
			return fail("what is in a container's namespace is Docker's to set")
		}
	default:
		return fail("unknown kind %q", s.Kind)
	}
	if s.MTU != 0 && (s.Kind != KindDocker || s.MTU < MinMTU || s.MTU > MaxMTU) {
		return fail("MTU %d", s.MTU)
	}
	return nil
}

// interfaceName is stricter than the kernel: the name is written into paths under /proc/sys.
func interfaceName(s string) bool {
	if len(s) == 0 || len(s) > 15 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return !slices.ContainsFunc([]byte(s), func(c byte) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}

// Attach makes an attachment: all of it, or nothing. Asked again for the same one it returns what is
// there; for another under the same name: ErrExists.
func (v *VNet) Attach(ctx context.Context, s AttachSpec) (Attachment, error) {
	if err := s.check(); err != nil {
		return Attachment{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.usable(ctx); err != nil {
		return Attachment{}, err
	}
	n := v.byName(s.Network)
	if n == nil {
		return Attachment{}, fmt.Errorf("attachment %s: network %s: %w", s.Name, s.Network, ErrNoNetwork)
	}
	a, err := v.attach(n, s)
	if err != nil {
		return Attachment{}, fmt.Errorf("attachment %s: %w", s.Name, err)
	}
	return a.Attachment, nil
}

func (v *VNet) attach(n *network, s AttachSpec) (a *attachment, err error) {
	// The process first: seen alive after its namespace was opened, the two belong together.
	var proc netns.Process
	watched := false
	if s.PID != 0 {
		if proc, err = v.cfg.Netns.Process(s.PID); err != nil {
			return nil, err
		}
		defer func() {
			if !watched {
				_ = proc.Close()
			}
		}()
		if s.StartTime != 0 && s.StartTime != proc.StartTime() {
			return nil, fmt.Errorf("process %d: %w, its id belongs to another", s.PID, netns.ErrGone)
		}
		s.StartTime = proc.StartTime()
	}
	ns, err := v.target(s)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if proc != nil {
		select {
		case <-proc.Done():
			return nil, fmt.Errorf("process %d: %w", s.PID, netns.ErrGone)
		default:
		}
	}

	if have := v.attachments[key{s.Network, s.Name}]; have != nil {
		if have.same(s, ns.ID()) {
			return have, nil
		}
		return nil, fmt.Errorf("%w in network %s by another attachment: detach it or choose another name", ErrExists, s.Network)
	}
	if len(v.attachments) >= MaxAttachments {
		return nil, fmt.Errorf("this host has %d attachments, the most it takes", MaxAttachments)
	}
	for _, o := range v.attachments {
		if o.VNI == n.spec.VNI && o.MAC == s.MAC {
			return nil, fmt.Errorf("MAC %s is taken by %s", s.MAC, o.Name)
		}
	}

	a = &attachment{Attachment: Attachment{AttachSpec: s, VNI: n.spec.VNI, Port: PortName(s.Network, s.Name), NS: ns.ID()}}
	a.IPs = slices.Clone(s.IPs)
	mtu := n.spec.MTU
	if s.Kind == KindDocker {
		a.Interface = InnerName(s.Network, s.Name)
		if s.MTU > mtu {
			return nil, fmt.Errorf("MTU %d, the network's is %d", s.MTU, mtu)
		}
		if s.MTU != 0 {
			mtu = s.MTU
		}
	}
	undo := func(err error) error { return errors.Join(err, v.unplug(a)) }
	if err := v.nl.Delete(a.Port); err != nil { // left over by a daemon that was killed
		return nil, err
	}
	if err := v.makePair(n, a, ns, mtu); err != nil {
		return nil, undo(err)
	}
	// The port is guarded and plugged in before the inner end is up: the first report of
	// the first join must be seen.
	if err := v.plug(n, a); err != nil {
		return nil, undo(err)
	}
	if s.Kind != KindDocker { // which brings it up only in the container
		if err := v.configure(n, a, ns); err != nil {
			return nil, undo(err)
		}
		if err := v.nl.AwaitRunning(a.port); err != nil { // else the first join's report is lost
			return nil, undo(err)
		}
	}
	v.attachments[key{s.Network, s.Name}] = a
	if err := v.save(); err != nil {
		delete(v.attachments, key{s.Network, s.Name})
		return nil, undo(err)
	}
	if proc != nil {
		v.watch(a, proc)
		watched = true
	}
	v.poke()
	return a, nil
}

// target opens the namespace that an attachment goes into.
func (v *VNet) target(s AttachSpec) (netns.Namespace, error) {
	if s.Kind.fromHost() {
		return borrowed{v.cfg.Host}, nil
	}
	var ns netns.Namespace
	var err error
	if s.Netns != "" {
		ns, err = v.cfg.Netns.Path(s.Netns)
	} else {
		ns, err = v.cfg.Netns.PID(s.PID)
	}
	if err != nil {
		return nil, err
	}
	if ns.ID() == v.cfg.Host.ID() {
		_ = ns.Close()
		return nil, errors.New("that is the host's own network namespace: use weft expose")
	}
	return ns, nil
}

// fromHost reports whether the inner end is made in the host's own namespace.
func (k Kind) fromHost() bool { return k == KindExpose || k == KindDocker }

// borrowed is a namespace that somebody else closes.
type borrowed struct{ netns.Namespace }

func (borrowed) Close() error { return nil }

// same reports whether a spec asks for the attachment that is there.
func (a *attachment) same(s AttachSpec, ns netns.ID) bool {
	return a.Kind == s.Kind && a.MAC == s.MAC && a.NS == ns && a.PID == s.PID && a.StartTime == s.StartTime &&
		slices.Equal(a.IPs, s.IPs) && a.MTU == s.MTU && (s.Interface == "" || s.Interface == a.Interface)
}

// makePair makes the veth and sets a.Interface and a.port.
func (v *VNet) makePair(n *network, a *attachment, ns netns.Namespace, mtu int) error {
	pair := nl.Veth{Name: a.Port, Inner: a.Interface, MAC: a.MAC, MTU: mtu}
	switch {
	case !a.Kind.fromHost():
		pair.NS = ns
	case a.Kind == KindDocker:
		pair.Super = v.super(n) // which stays with the interface wherever it goes
	}
	names := []string{a.Interface}
	if a.Interface == "" {
		names = names[:0]
		for i := range maxInner {
			names = append(names, fmt.Sprintf("weft%d", i))
		}
	}
	var err error
	for _, pair.Inner = range names {
		var l nl.Link
		if l, err = v.nl.AddVeth(pair); err == nil {
			a.port, a.Interface = l.Index, pair.Inner
			return nil
		}
		if !errors.Is(err, nl.ErrExists) {
			return err
		}
	}
	return err
}

// plug guards the host end, binds the MAC to it and makes it a port. Also for an adopted attachment.
func (v *VNet) plug(n *network, a *attachment) error {
	if v.cfg.Guard != nil {
		if err := v.cfg.Guard.SetPort(BridgeName(n.spec.VNI), a.Port, n.spec.VNI, a.MAC, a.addrs()); err != nil {
			return err
		}
	}
	if err := v.nl.SetPort(n.bridge, a.port, nl.AttachmentPort); err != nil {
		return err
	}
	delete(n.fdb, a.MAC) // when it was a remote one until now, its entry is replaced
	if err := v.nl.SetFDB(nl.FDBEntry{Port: a.port, MAC: a.MAC}); err != nil {
		return err
	}
	// Known here, so that ARP and ND for it need not leave through the uplink.
	for _, ip := range a.addrs() {
		if err := v.nl.SetNeighbour(n.bridge, nl.Neighbour{IP: ip, MAC: a.MAC}); err != nil {
			return err
		}
		n.neighs[ip] = a.MAC
	}
	return nil
}

// addrs returns the attachment's addresses, the link-local one included.
func (a *attachment) addrs() []netip.Addr {
	ips := make([]netip.Addr, 0, len(a.IPs)+1)
	for _, p := range a.IPs {
		ips = append(ips, p.Addr())
	}
	return append(ips, a.MAC.LinkLocal())
}

// unplug removes what attach has made. Precondition: v.mu must be locked.
func (v *VNet) unplug(a *attachment) error {
	errs := []error{v.nl.Delete(a.Port)} // its FDB and MDB entries go with it
	if v.cfg.Guard != nil {
		errs = append(errs, v.cfg.Guard.DelPort(a.Port))
	}
	if n := v.networks[a.VNI]; n != nil {
		for _, ip := range a.addrs() {
			if n.neighs[ip] == a.MAC {
				errs = append(errs, v.nl.DeleteNeighbour(n.bridge, nl.Neighbour{IP: ip, MAC: a.MAC}))
				delete(n.neighs, ip)
			}
		}
	}
	return errors.Join(errs...)
}

func (v *VNet) configure(n *network, a *attachment, ns netns.Namespace) error {
	h := v.nl
	if a.Kind != KindExpose {
		var err error
		if h, err = v.cfg.NL.Open(ns); err != nil {
			return err
		}
		defer h.Close()
	}
	if err := h.Configure(a.Interface, nl.Interface{Addrs: a.IPs, MulticastRoute: a.MulticastRoute, Super: v.super(n)}); err != nil {
		return err
	}
	return h.Reach(a.Interface, a.further(n.subnets))
}

// super is the longest super-frame that attachments of a network shall make; 0: as the kernel has it.
func (v *VNet) super(n *network) int {
	if v.cfg.Super == nil || n.tunnel != nil {
		return 0
	}
	return v.cfg.Super(n.spec.MTU)
}

// Detach removes an attachment. ErrNotFound when there is none.
func (v *VNet) Detach(network, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.attachments[key{network, name}]
	if a == nil || v.closed {
		return fmt.Errorf("attachment %s in network %s: %w", name, network, ErrNotFound)
	}
	if err := v.forget(a); err != nil {
		return fmt.Errorf("detach %s: %w", name, err)
	}
	return nil
}

// forget removes an attachment and its traces. Precondition: v.mu must be locked.
func (v *VNet) forget(a *attachment) error {
	if a.stop != nil {
		close(a.stop)
	}
	delete(v.attachments, key{a.Network, a.Name})
	err := errors.Join(v.unplug(a), v.save())
	v.poke()
	return err
}

// watch reports the end of a process to Run, and owns proc. Precondition: v.mu must be locked.
func (v *VNet) watch(a *attachment, proc netns.Process) {
	stop := make(chan struct{})
	a.stop = stop
	v.wg.Go(func() {
		defer proc.Close()
		select {
		case <-proc.Done():
		case <-stop:
			return
		case <-v.down:
			return
		}
		select {
		case v.ended <- ending{a, fmt.Sprintf("process %d has ended", a.PID)}:
		case <-stop:
		case <-v.down:
		}
	})
}
