package guard

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
)

// sendBuffer holds a transaction of MaxAddrs elements, in bytes.
const sendBuffer = 32 << 20

// Guard is the Filter of the network namespace in which its methods are called. It is safe for concurrent use.
type Guard struct {
	run Runner

	mu      sync.Mutex // guards all below and orders transactions
	desired Desired
	applied *Ruleset           // what the kernel was last given, nil before Apply
	skel    string             // its skeleton
	seen    map[string]Counter // kernel values at the last look
	base    map[string]Counter // sums of counters that went away with their tables
	forward error              // why bridged frames may die in the host's own FORWARD chains
}

var _ Filter = (*Guard)(nil)

// Open returns the guard of this network namespace. It touches nothing before Apply.
func Open(o Options) (*Guard, error) {
	if o.Run == nil {
		o.Run = runCommand
	}
	return &Guard{run: o.Run, seen: map[string]Counter{}, base: map[string]Counter{}}, nil
}

func dial() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// A transaction is one datagram to the kernel, and each of its messages is acknowledged.
		return errors.Join(c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(sendBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("guard: nftables: %w", err)
	}
	return conn, nil
}

// Apply implements Filter.
func (g *Guard) Apply(d Desired) error {
	if err := d.check(); err != nil {
		return err
	}
	d.Ports = slices.Clone(d.Ports)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.applyLocked(d)
}

// AddPort implements Filter.
func (g *Guard) AddPort(p Port) error {
	if err := p.check(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.desired
	d.Ports = slices.Clone(d.Ports)
	if i := slices.IndexFunc(d.Ports, func(q Port) bool { return q.Name == p.Name }); i >= 0 {
		d.Ports[i] = p
	} else if d.Ports = append(d.Ports, p); len(d.Ports) > MaxPorts {
		return fmt.Errorf("guard: more than %d ports", MaxPorts)
	}
	return g.applyLocked(d)
}

// RemovePort implements Filter.
func (g *Guard) RemovePort(name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.desired
	d.Ports = slices.DeleteFunc(slices.Clone(d.Ports), func(q Port) bool { return q.Name == name })
	if g.applied == nil {
		return nil
	}
	return g.applyLocked(d)
}

func (g *Guard) applyLocked(d Desired) error {
	rs := Rules(d)
	skel := rs.skeleton()
	if g.applied != nil && skel == g.skel && updateElements(g.applied, rs) == nil {
		g.applied, g.desired = rs, d
		return nil
	}
	// Other rules, or someone took the tables away: everything anew.
	if err := g.installLocked(rs); err != nil {
		return err
	}
	g.applied, g.desired, g.skel = rs, d, skel
	return nil
}

// installLocked replaces our tables in one transaction.
func (g *Guard) installLocked(rs *Ruleset) error {
	_ = g.readLocked() // best effort: what the counters of a lost table had is lost
	conn, err := dial()
	if err != nil {
		return err
	}
	if err := replaceTables(conn, rs); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("guard: install packet filter: %w (needs root and a kernel with nf_tables and its bridge family)", err)
	}
	for name, c := range g.seen {
		b := g.base[name]
		g.base[name] = Counter{b.Packets + c.Packets, b.Bytes + c.Bytes}
	}
	clear(g.seen)
	g.forward = allowForward(g.run)
	return nil
}

// updateElements brings the sets from one ruleset to the other of the same skeleton, in one transaction.
func updateElements(from, to *Ruleset) error {
	conn, err := dial()
	if err != nil {
		return err
	}
	changed := false
	for i := range to.Tables {
		table := tableOf(&to.Tables[i])
		for j := range to.Tables[i].Sets {
			was, now := &from.Tables[i].Sets[j], &to.Tables[i].Sets[j]
			gone, added := diff(was.Elements, now.Elements)
			set := setOf(table, now)
			err := errors.Join(
				changeElements(gone, func(e []nftables.SetElement) error { return conn.SetDeleteElements(set, e) }),
				changeElements(added, func(e []nftables.SetElement) error { return conn.SetAddElements(set, e) }))
			if err != nil {
				return err
			}
			changed = changed || len(gone)+len(added) > 0
		}
	}
	if !changed {
		return nil
	}
	return conn.Flush()
}

// Counters implements Filter.
func (g *Guard) Counters() (map[string]Counter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.readLocked(); err != nil {
		return nil, err
	}
	out := make(map[string]Counter, len(bridgeDrops)+len(hostDrops))
	for _, name := range slices.Concat(bridgeDrops, hostDrops, plainDrops) {
		b, s := g.base[name], g.seen[name]
		out[name] = Counter{b.Packets + s.Packets, b.Bytes + s.Bytes}
	}
	return out, nil
}

// readLocked brings seen up to date, if our tables are there.
func (g *Guard) readLocked() error {
	if g.applied == nil {
		return nil
	}
	conn, err := dial()
	if err != nil {
		return err
	}
	for i := range g.applied.Tables {
		objs, err := conn.GetNamedObjects(tableOf(&g.applied.Tables[i]))
		if err != nil {
			return fmt.Errorf("guard: read counters: %w", err)
		}
		for _, o := range objs {
			n, ok := o.(*nftables.NamedObj)
			if !ok {
				continue
			}
			if c, ok := n.Obj.(*expr.Counter); ok {
				g.seen[n.Name] = Counter{c.Packets, c.Bytes}
			}
		}
	}
	return nil
}

// ForwardError tells why bridged frames may die in the FORWARD chain of the host's own packet filter, nil when an
// accept rule is in place or not needed.
func (g *Guard) ForwardError() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.forward
}

// Remove implements Filter.
func (g *Guard) Remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	conn, err := dial()
	if err != nil {
		return err
	}
	rs := Rules(Desired{})
	for i := range rs.Tables {
		removeTable(conn, tableOf(&rs.Tables[i]))
	}
	g.applied, g.desired, g.skel = nil, Desired{}, ""
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("guard: remove packet filter: %w", err)
	}
	return denyForward(g.run)
}
