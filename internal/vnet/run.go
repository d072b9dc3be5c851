package vnet

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/nl"
)

// Run follows the kernel until ctx ends or Down is called: memberships, snooping, attachments that
// end. It calls OnMembers and OnGone.
func (v *VNet) Run(ctx context.Context) error {
	w, err := v.nl.Watch()
	if err != nil {
		return err
	}
	defer w.Close()
	tick := time.NewTicker(recheck)
	defer tick.Stop()

	// wait is nil while nothing has changed; it fires debounce after the first hint.
	var wait <-chan time.Time
	hint := func() {
		if wait == nil {
			wait = time.After(debounce)
		}
	}
	v.poke()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.down:
			return nil
		case e := <-v.ended:
			v.end(e)
		case <-w.Ready():
			hint()
		case <-v.kick:
			hint()
		case <-wait:
			wait = nil
			v.refresh(w.Take()&nl.LinksChanged != 0)
		case <-tick.C:
			v.refresh(true)
		}
	}
}

// end removes an attachment that ended by itself, unless Detach was first.
func (v *VNet) end(e ending) {
	v.mu.Lock()
	if v.closed || v.attachments[key{e.a.Network, e.a.Name}] != e.a {
		v.mu.Unlock()
		return
	}
	err := v.forget(e.a)
	v.mu.Unlock()
	v.counts.ended.Add(1)
	v.log.Info("attachment ended", "network", e.a.Network, "attachment", e.a.Name, "reason", e.reason)
	if err != nil {
		v.log.Warn("attachment not removed completely", "network", e.a.Network, "attachment", e.a.Name, "error", err)
	}
	if v.cfg.OnGone != nil {
		v.cfg.OnGone(e.a.Attachment, e.reason)
	}
}

// refresh reads the kernel's state and tells what has changed.
func (v *VNet) refresh(links bool) {
	if links {
		for _, a := range v.checkLinks() {
			v.end(ending{a, "its network namespace has gone"})
		}
	}
	for _, p := range v.checkMembers() {
		if v.cfg.OnMembers != nil {
			v.cfg.OnMembers(p.vni, p.members)
		}
	}
}

// checkLinks restores snooping and returns the attachments whose veth has gone.
func (v *VNet) checkLinks() []*attachment {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	links, err := v.nl.Links()
	if err != nil {
		v.log.Warn("cannot list interfaces", "error", err)
		return nil
	}
	present := make(map[int]nl.Link, len(links))
	for _, l := range links {
		present[l.Index] = l
	}
	for _, n := range v.networks {
		l, ok := present[n.bridge]
		switch {
		case !ok:
			v.log.Error("the bridge was removed by another program", "network", n.spec.Name, "bridge", BridgeName(n.spec.VNI))
		case !l.Snooping:
			v.counts.snooping.Add(1)
			v.log.Warn("the kernel had switched snooping off, on again", "network", n.spec.Name, "bridge", l.Name)
			if err := v.nl.RestartSnooping(n.bridge); err != nil {
				v.log.Error("cannot switch snooping on", "network", n.spec.Name, "error", err)
			}
		}
	}
	for _, n := range v.networks {
		if n.service != nil && present[n.service.port].Name == "" {
			v.log.Warn("the service's interface was removed by another program", "network", n.spec.Name, "port", n.service.Port)
			n.service = nil // whoever asked for it asks again
		}
		if _, ok := present[n.uplink]; !ok && n.tunnel != nil {
			v.log.Error("the VXLAN device was removed by another program: weft down and weft up make it again", "network", n.spec.Name, "device", VXLANName(n.spec.VNI))
		}
	}
	var gone []*attachment
	for _, a := range v.attachments {
		if _, ok := present[a.port]; !ok {
			gone = append(gone, a)
		}
	}
	return gone
}

type publication struct {
	vni     uint32
	members []Membership
}

// checkMembers reads the MDB and returns the networks whose memberships changed.
func (v *VNet) checkMembers() []publication {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed || len(v.networks) == 0 {
		return nil
	}
	v.counts.reads.Add(1)
	mdb, err := v.nl.MDB()
	if err != nil {
		v.log.Warn("cannot read memberships", "error", err)
		v.poke()
		return nil
	}
	ports := make(map[int]*attachment, len(v.attachments))
	for _, a := range v.attachments {
		ports[a.port] = a
	}
	members := map[uint32][]Membership{}
	for _, e := range mdb {
		a := ports[e.Port]
		if a == nil || e.Permanent || !e.Exclude && len(e.Sources) == 0 || a.ownSolicited(e.Group) {
			continue
		}
		if len(members[a.VNI]) >= MaxMemberships {
			v.counts.cut.Add(1)
			continue
		}
		members[a.VNI] = append(members[a.VNI], Membership{Attachment: a.Name, Group: e.Group, Exclude: e.Exclude, Sources: e.Sources})
	}
	var changed []publication
	for vni, n := range v.networks {
		m := members[vni]
		slices.SortFunc(m, compareMembership)
		if n.published && slices.EqualFunc(m, n.members, equalMembership) {
			continue
		}
		n.members, n.published = m, true
		changed = append(changed, publication{vni, slices.Clone(m)})
	}
	return changed
}

func compareMembership(a, b Membership) int {
	if c := strings.Compare(a.Attachment, b.Attachment); c != 0 {
		return c
	}
	return a.Group.Compare(b.Group)
}

func equalMembership(a, b Membership) bool {
	return a.Attachment == b.Attachment && a.Group == b.Group && a.Exclude == b.Exclude && slices.Equal(a.Sources, b.Sources)
}

// ownSolicited reports whether a group is the solicited-node group of one of the attachment's own
// addresses (RFC 4291 section 2.7.1). Those are not published: other hosts' bridges answer
// for the addresses themselves.
func (a *attachment) ownSolicited(g netip.Addr) bool {
	if !g.Is6() || !solicitedNode.Contains(g) {
		return false
	}
	low := g.As16()
	tail := [3]byte(low[13:])
	if [3]byte(a.MAC[3:]) == tail {
		return true
	}
	for _, p := range a.IPs {
		if ip := p.Addr().As16(); p.Addr().Is6() && [3]byte(ip[13:]) == tail {
			return true
		}
	}
	return false
}

var solicitedNode = netip.MustParsePrefix("ff02::1:ff00:0/104")
