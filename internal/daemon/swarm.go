package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/record"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/swarm"
)

const (
	// maxSwarmNets is how many networks of a Swarm one host tells others of, and how many it follows.
	maxSwarmNets    = 64
	maxSwarmOptions = 16
	maxSwarmOption  = 128 // bytes of a key, and of a value
	maxSwarmWhy     = 150 // bytes
	// swarmTick is how often it is looked whether there is something new to do, swarmRetry how soon what failed is tried again, and swarmAgain how
	// often Docker is asked whether all is as it was.
	swarmTick  = time.Second
	swarmRetry = 5 * time.Second
	swarmAgain = time.Minute
	swarmTime  = 30 * time.Second // for one look at Docker
)

// swarmRecord is what a host says of a network of a Swarm: that nodes are to have its configuration, or not any more. Of those of one name the highest
// version counts, and of these that of the highest host.
type swarmRecord struct {
	Version uint64            `cbor:"1,keyasint"`
	Gone    bool              `cbor:"2,keyasint,omitempty"`
	Subnet  netip.Prefix      `cbor:"3,keyasint"`
	Options map[string]string `cbor:"4,keyasint,omitempty"`
}

// nodeRecord is what a host says of itself as a node of a Swarm, if its Docker follows the cluster.
type nodeRecord struct {
	Node    string                `cbor:"1,keyasint"` // its ID; empty: in no Swarm
	Reports map[string]nodeReport `cbor:"2,keyasint,omitempty"`
}

type nodeReport struct {
	Version uint64 `cbor:"1,keyasint"`
	Why     string `cbor:"2,keyasint,omitempty"`
}

func decodeSwarm(key string, b []byte) (name string, r swarmRecord, err error) {
	name = strings.TrimPrefix(key, keySwarm)
	if err := ident.CheckName("network", name); err != nil {
		return "", r, err
	}
	if err := decode("record of a network in Swarm", b, &r); err != nil {
		return "", swarmRecord{}, err
	}
	return name, r, r.check()
}

func (r swarmRecord) check() error {
	if !r.Gone && (!r.Subnet.IsValid() || !r.Subnet.Addr().Is4()) {
		return fmt.Errorf("subnet %v: want an IPv4 prefix", r.Subnet)
	}
	if len(r.Options) > maxSwarmOptions {
		return fmt.Errorf("%d options, and at most %d go to other nodes", len(r.Options), maxSwarmOptions)
	}
	for k, v := range r.Options {
		if k == "" || len(k) > maxSwarmOption || len(v) > maxSwarmOption || record.Printable(k+v, 2*maxSwarmOption) != k+v {
			return fmt.Errorf("option %.40q: want at most %d printable bytes, and as many of its value", k, maxSwarmOption)
		}
	}
	return nil
}

// swarmNets has Docker on this host follow what the cluster wants of nodes of a Swarm, where it may: weft docker setup --swarm has said so.
type swarmNets struct {
	s    *System
	poke chan struct{}

	mu     sync.Mutex // guards all below
	socket string     // of Docker; empty: it is left alone
	node   string
	done   map[string]swarm.Report
	looked time.Time
	seen   map[string]uint64 // versions at the last look
}

func newSwarmNets(s *System) *swarmNets {
	n := &swarmNets{s: s, poke: make(chan struct{}, 1), done: map[string]swarm.Report{}}
	b, err := s.dir.Load(fileSwarm)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("whether Docker follows the cluster is not known", "err", err)
	}
	n.socket = string(b)
	return n
}

// allow lets weft make configurations in the Docker behind a socket, or with an empty one in none.
func (n *swarmNets) allow(socket string) error {
	if socket != "" {
		if info, err := os.Stat(socket); err != nil {
			return api.Errorf(api.CodeInvalid, "docker's socket: %w", err)
		} else if info.Mode()&fs.ModeSocket == 0 {
			return api.Errorf(api.CodeInvalid, "%s is no socket", socket)
		}
	}
	if err := n.s.dir.Save(fileSwarm, []byte(socket)); err != nil {
		return err
	}
	n.mu.Lock()
	n.socket, n.looked = socket, time.Time{}
	n.mu.Unlock()
	if socket == "" {
		n.s.trouble("docker swarm", "")
		return n.s.mesh.Publish(0, nil, []string{keyNode})
	}
	n.wake()
	return nil
}

// count is how many networks of a Swarm Docker here follows.
func (n *swarmNets) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.seen)
}

func (n *swarmNets) wake() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// run follows until the daemon stops.
func (n *swarmNets) run() {
	tick := time.NewTicker(swarmTick)
	defer tick.Stop()
	for {
		n.look(time.Now())
		select {
		case <-tick.C:
		case <-n.poke:
		case <-n.s.ctx.Done():
			return
		}
	}
}

// wishes are what counts of all records, by name; own are this host's.
func (n *swarmNets) wishes() (all, own map[string]swarmRecord) {
	all, own = map[string]swarmRecord{}, map[string]swarmRecord{}
	self := n.s.mesh.Self()
	by := map[string]ident.HostID{}
	_ = n.s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keySwarm) {
			name, r, err := decodeSwarm(i.Key, i.Value)
			if err != nil {
				n.s.log.Debug("record of a network in Swarm refused", "host", i.Writer.Short(), "err", err)
				continue
			}
			if i.Writer == self {
				own[name] = r
			}
			old, there := all[name]
			if !there || r.Version > old.Version || r.Version == old.Version && by[name].Less(i.Writer) {
				all[name], by[name] = r, i.Writer
			}
		}
	})
	return all, own
}

// look asks Docker to follow, when there is a reason to.
func (n *swarmNets) look(now time.Time) {
	n.mu.Lock()
	socket, looked, seen, done := n.socket, n.looked, n.seen, n.done
	n.mu.Unlock()
	if socket == "" {
		return
	}
	if seen == nil { // this run has not looked yet: a run before may have
		done = n.reported()
	}
	records, _ := n.wishes()
	versions := map[string]uint64{}
	var wishes []swarm.Wish
	for _, name := range slices.Sorted(maps.Keys(records)) {
		r, was := records[name], done[name]
		if len(versions) >= maxSwarmNets {
			break
		}
		versions[name] = r.Version
		if r.Gone && was.Version == r.Version && was.Why == "" {
			continue // whoever makes one of this name by hand now means it
		}
		wishes = append(wishes, swarm.Wish{Version: r.Version, Gone: r.Gone, Network: swarm.Network{Name: name, Subnet: r.Subnet.String(), Options: r.Options}})
	}
	failed := slices.ContainsFunc(slices.Collect(maps.Values(done)), func(r swarm.Report) bool { return r.Why != "" })
	if since := now.Sub(looked); maps.Equal(versions, seen) && since < swarmAgain && !(failed && since >= swarmRetry) {
		return
	}
	ctx, cancel := context.WithTimeout(n.s.ctx, swarmTime)
	defer cancel()
	node, reports, err := swarm.Follow(ctx, dockerapi.New(socket), wishes)
	if n.s.ctx.Err() != nil {
		return
	}
	next := map[string]swarm.Report{}
	for name := range versions {
		next[name] = done[name] // of what is not asked for again
	}
	for _, w := range wishes {
		next[w.Name] = reports[w.Name]
		if err != nil {
			next[w.Name] = swarm.Report{Version: w.Version, Why: err.Error()}
		}
	}
	n.mu.Lock()
	n.looked, n.seen = now, versions
	if err == nil {
		n.node = node
	}
	changed := !maps.Equal(next, n.done)
	n.done = next
	node = n.node
	n.mu.Unlock()
	if err := n.publish(node, next); err != nil {
		n.s.log.Error("what Docker has is not told", "err", err)
	}
	if changed || err != nil {
		n.tell(next, err)
	}
}

// reported is what this host has told of itself.
func (n *swarmNets) reported() map[string]swarm.Report {
	out := map[string]swarm.Report{}
	self := n.s.mesh.Self()
	_ = n.s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyNode) {
			var r nodeRecord
			if i.Key == keyNode && i.Writer == self && decode("record of a node", i.Value, &r) == nil {
				for name, d := range r.Reports {
					out[name] = swarm.Report{Version: d.Version, Why: d.Why}
				}
			}
		}
	})
	return out
}

// tell shows what is in the way.
func (n *swarmNets) tell(done map[string]swarm.Report, err error) {
	if err != nil {
		n.s.trouble("docker swarm", "networks of the Swarm: "+err.Error())
		return
	}
	for _, name := range slices.Sorted(maps.Keys(done)) {
		if why := done[name].Why; why != "" {
			n.s.trouble("docker swarm", fmt.Sprintf("network %s of the Swarm: %s", name, why))
			return
		}
	}
	n.s.trouble("docker swarm", "")
}

func (n *swarmNets) publish(node string, done map[string]swarm.Report) error {
	r := nodeRecord{Node: node, Reports: map[string]nodeReport{}}
	for name, d := range done {
		r.Reports[name] = nodeReport{Version: d.Version, Why: record.Printable(d.Why, maxSwarmWhy)}
	}
	return n.s.mesh.Publish(0, map[string][]byte{keyNode: encode(r)}, nil)
}

// put tells all nodes of a network.
func (n *swarmNets) put(name string, subnet string, options map[string]string) error {
	p, err := netip.ParsePrefix(subnet)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "subnet %q: want CIDR", subnet)
	}
	return n.say(name, swarmRecord{Subnet: p.Masked(), Options: options})
}

func (n *swarmNets) say(name string, r swarmRecord) error {
	if err := errors.Join(ident.CheckName("network", name), r.check()); err != nil {
		return api.Errorf(api.CodeInvalid, "%w", err)
	}
	all, own := n.wishes()
	old, there := all[name]
	if there && old.Gone == r.Gone && old.Subnet == r.Subnet && maps.Equal(old.Options, r.Options) || !there && r.Gone {
		return nil
	}
	r.Version = old.Version + 1
	var dels []string
	if _, ours := own[name]; !ours && len(own) >= maxSwarmNets {
		oldest := ""
		for other, o := range own { // of those removed one is forgotten
			if o.Gone && (oldest == "" || o.Version < own[oldest].Version) {
				oldest = other
			}
		}
		if oldest == "" {
			return api.Errorf(api.CodeUnavailable, "%d networks of the Swarm were made here, and no more at a time", len(own)).WithHint("weft docker network rm NAME")
		}
		dels = append(dels, keySwarm+oldest)
	}
	if err := n.s.mesh.Publish(0, map[string][]byte{keySwarm + name: encode(r)}, dels); err != nil {
		return err
	}
	n.wake()
	return nil
}

// nodes tells how far hosts whose Docker follows the cluster have come with a network.
func (n *swarmNets) nodes(name string) (api.SwarmNodes, error) {
	all, _ := n.wishes()
	want, there := all[name]
	if !there {
		return api.SwarmNodes{}, api.Errorf(api.CodeNotFound, "no network %s in the Swarm was made by weft", name).WithHint("weft docker network create %s", name)
	}
	out := api.SwarmNodes{Network: name, Gone: want.Gone, Nodes: []api.SwarmNode{}}
	alive, names := n.s.aliveHosts(), n.s.hostNames()
	err := n.s.mesh.View(func(t *state.Tables) {
		for i := range t.All(state.Cluster, keyNode) {
			var r nodeRecord
			if i.Key != keyNode || !alive[i.Writer] || decode("record of a node", i.Value, &r) != nil {
				continue
			}
			report := r.Reports[name]
			out.Nodes = append(out.Nodes, api.SwarmNode{
				Host: cmp.Or(names[i.Writer], i.Writer.Short()), Node: record.Printable(r.Node, maxSwarmOption),
				Waiting: report.Version < want.Version, Reason: record.Printable(report.Why, maxSwarmWhy),
			})
		}
	})
	slices.SortFunc(out.Nodes, func(a, b api.SwarmNode) int { return strings.Compare(a.Host, b.Host) })
	return out, err
}

// AllowSwarm lets weft make configurations in this host's Docker.
func (b backend) AllowSwarm(_ context.Context, q api.SwarmAllow) error {
	return b.s.swarm.allow(q.Socket)
}

// PutSwarmNetwork asks all nodes for a network's configuration.
func (b backend) PutSwarmNetwork(_ context.Context, name string, q api.SwarmNetwork) error {
	return b.s.swarm.put(name, q.Subnet, q.Options)
}

// RemoveSwarmNetwork has all nodes remove it.
func (b backend) RemoveSwarmNetwork(_ context.Context, name string) error {
	return b.s.swarm.say(name, swarmRecord{Gone: true})
}

// SwarmNodes tells how far they are.
func (b backend) SwarmNodes(_ context.Context, name string) (api.SwarmNodes, error) {
	return b.s.swarm.nodes(name)
}
