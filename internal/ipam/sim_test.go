package ipam

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// The simulator's world: hosts with a disk, their state tables as logs that spread from host to host, links that are cut in
// one direction, messages that are lost or come twice. Nothing runs by itself: a step is one call, in one goroutine under
// fake time, so that a seed is a history.

// simOp is one entry of a writer's log.
type simOp struct {
	uid   int // of all ops of the history: two logs that differ are noticed
	scope uint32
	key   string
	value []byte
	gone  bool
}

// simLog is what a host holds of one writer: a prefix of that one's log, or of the log that it lost. gen counts rewrites.
type simLog struct {
	gen int
	ops []simOp
}

func (l simLog) prefixOf(o simLog) bool {
	n := len(l.ops)
	return l.gen == o.gen && n <= len(o.ops) && (n == 0 || l.ops[n-1].uid == o.ops[n-1].uid)
}

type simKey struct {
	scope uint32
	key   string
}

func (l simLog) live() map[simKey]simOp {
	out := map[simKey]simOp{}
	for _, op := range l.ops {
		if op.gone {
			delete(out, simKey{op.scope, op.key})
		} else {
			out[simKey{op.scope, op.key}] = op
		}
	}
	return out
}

// simHost is one host. What is in logs is on its disk; svc is what a kill takes.
type simHost struct {
	id       ident.HostID
	w        *world
	svc      *Service
	logs     map[ident.HostID]simLog
	attached map[string]uint32       // attachments, which outlive the daemon, and what they use
	borrows  bool                    // comes and goes
	wants    string                  // the key that it waits for a loan for
	backup   map[ident.HostID]simLog // the disk as it was once
	barred   map[ident.HostID]bool   // whose removal it heard of
	up       bool                    // runs
	paused   bool                    // runs, but not now: stopped, or its machine asleep
	gone     bool                    // removed for good
	lapsed   bool                    // its disk was put back, in this history
	bars     []ident.HostID          // removals heard of in this write, to be followed after all else in it
	written  int                     // publishes
	crash    bool                    // dies at the end of the present step
}

type simMsg struct {
	from, to *simHost
	body     []byte
}

type world struct {
	rnd   *rand.Rand
	hosts []*simHost
	cut   map[[2]ident.HostID]bool
	air   []simMsg
	uid   int
	keys  int
	calm  bool // no faults of disks and crashes: while all heals
	n     simCounts
}

type simCounts struct {
	Gives, Kills, Restarts, Rollbacks, Pauses, Cuts, Removals, Added, Allocs, Leaves, Recalls, Told, Leaked, Waiting, Lent int
}

func (c *simCounts) add(o simCounts) {
	c.Gives += o.Gives
	c.Kills += o.Kills
	c.Restarts += o.Restarts
	c.Rollbacks += o.Rollbacks
	c.Pauses += o.Pauses
	c.Cuts += o.Cuts
	c.Removals += o.Removals
	c.Added += o.Added
	c.Allocs += o.Allocs
	c.Leaves += o.Leaves
	c.Recalls += o.Recalls
	c.Told += o.Told
	c.Lent += o.Lent
	c.Leaked += o.Leaked
	c.Waiting += o.Waiting
}

const simVNI = 7

var (
	simRange  = netip.MustParsePrefix("10.32.0.0/20") // 16 subnets of /24
	simSubnet = netip.MustParsePrefix("192.168.9.0/26")
	errDisk   = errors.New("disk full")
)

func newWorld(seed uint64, n int) (*world, error) {
	w := &world{rnd: rand.New(rand.NewPCG(seed, 2)), cut: map[[2]ident.HostID]bool{}, calm: true}
	for range n {
		w.addHost()
	}
	h := w.hosts[0]
	if err := h.svc.Found(simRange, ula); err != nil {
		return nil, err
	}
	if err := h.svc.JoinNetwork(simVNI, simSubnet, true); err != nil {
		return nil, err
	}
	w.calm = false
	return w, nil
}

func (w *world) addHost() *simHost {
	h := &simHost{
		id: ident.HostID{byte(1 + w.rnd.IntN(250)), byte(len(w.hosts))}, w: w,
		logs: map[ident.HostID]simLog{}, attached: map[string]uint32{}, barred: map[ident.HostID]bool{},
	}
	h.borrows = len(w.hosts) > 1 && w.rnd.IntN(2) == 0
	w.hosts = append(w.hosts, h)
	_ = h.start()
	return h
}

// start runs the host from its disk, as the daemon does.
func (h *simHost) start() error {
	h.svc = New(Config{Self: h.id, Board: h, Ask: h.ask, Alive: h.alive, Borrows: h.borrows, Stays: h.w.stays})
	h.up, h.paused, h.crash, h.wants = true, false, false, ""
	clear(h.barred)
	for _, o := range h.w.hosts {
		for k, op := range sorted(h.logs[o.id].live()) {
			h.follow(o.id, simOp{scope: k.scope, key: k.key, value: op.value}, false)
		}
	}
	h.followBars()
	for _, o := range h.w.hosts { // as after the replay
		if h.barred[o.id] {
			_ = h.svc.HostRemoved(o.id, false)
		}
	}
	h.svc.running = true
	if len(h.logs[h.id].ops) == 0 && len(h.w.hosts) > 1 && h.w.hosts[0] != h {
		return h.join()
	}
	if err := h.join(); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(h.svc.Allocations(simVNI))) {
		if _, ok := h.attached[key]; !ok {
			if err := h.svc.Release(simVNI, key); err != nil && !errors.Is(err, errDisk) {
				return err
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(h.attached)) { // what runs on has its address, whatever the disk says
		if err := h.svc.Restore(simVNI, key, toAddr(h.attached[key])); err != nil && !errors.Is(err, errDisk) && !errors.Is(err, ErrNoNetwork) {
			return err
		}
	}
	return nil
}

func (w *world) stays(id ident.HostID) bool {
	return !slices.ContainsFunc(w.hosts, func(h *simHost) bool { return h.id == id && h.borrows })
}

// join takes part in the network, when the host knows of the cluster; later, by step, when it does not yet.
func (h *simHost) join() error {
	if _, _, ok := h.svc.Space(); !ok {
		return nil
	}
	err := h.svc.JoinNetwork(simVNI, simSubnet, false)
	if errors.Is(err, errDisk) || errors.Is(err, ErrRemoved) {
		return nil
	}
	return err
}

func sorted[V any](m map[simKey]V) func(func(simKey, V) bool) {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b simKey) int {
		if a.scope != b.scope {
			return int(a.scope) - int(b.scope)
		}
		return strings.Compare(a.key, b.key)
	})
	return func(yield func(simKey, V) bool) {
		for _, k := range keys {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// Publish is the host's own table: on its log, which is its disk, or not at all. Now and then the host dies of it.
func (h *simHost) Publish(scope uint32, puts map[string][]byte, dels []string) error {
	if !h.w.calm && h.w.rnd.IntN(150) == 0 {
		return errDisk
	}
	l := h.logs[h.id]
	ops := l.ops[:len(l.ops):len(l.ops)]
	add := func(op simOp) {
		h.w.uid++
		op.uid = h.w.uid
		ops = append(ops, op)
	}
	for _, k := range slices.Sorted(maps.Keys(puts)) {
		add(simOp{scope: scope, key: k, value: puts[k]})
	}
	for _, k := range dels {
		add(simOp{scope: scope, key: k, gone: true})
	}
	fresh := ops[len(l.ops):]
	h.logs[h.id] = simLog{l.gen, ops}
	h.written++
	if !h.w.calm && h.w.rnd.IntN(60) == 0 {
		h.crash = true
	}
	for _, op := range fresh {
		h.follow(h.id, op, false) // the echo
	}
	return nil
}

// follow takes a change of a table, as the daemon hands it on.
func (h *simHost) follow(writer ident.HostID, op simOp, recovered bool) {
	if !h.up {
		return
	}
	if strings.HasPrefix(op.key, "bar/") {
		h.bars = append(h.bars, ident.HostID([]byte(op.key[len("bar/"):])))
		return
	}
	if h.barred[writer] {
		return
	}
	if recovered {
		h.svc.Recovered(op.scope, op.key, op.value, op.gone)
	}
	h.svc.OnChange(op.scope, writer, op.key, op.value, op.gone)
}

func (h *simHost) followBars() {
	bars := h.bars
	h.bars = nil
	for _, id := range bars {
		h.bar(id)
	}
}

func (h *simHost) bar(id ident.HostID) {
	if h.barred[id] {
		return
	}
	h.barred[id] = true
	if !h.svc.running {
		return
	}
	heir := h.id
	for _, o := range h.alive() {
		if o != id && o.Less(heir) {
			heir = o
		}
	}
	if err := h.svc.HostRemoved(id, heir == h.id); err != nil && !errors.Is(err, errDisk) && !errors.Is(err, ring.ErrStale) {
		panic(err)
	}
}

// show hands what h knows of a writer to o, as the state tables do.
func (h *simHost) show(o *simHost, writer ident.HostID) {
	defer o.followBars()
	src, dst := h.logs[writer], o.logs[writer]
	switch {
	case o.barred[writer] || !o.up || o.paused || len(src.ops) == 0:
	case dst.prefixOf(src):
		o.logs[writer] = src
		for _, op := range src.ops[len(dst.ops):] {
			o.follow(writer, op, writer == o.id)
		}
	case src.gen > dst.gen: // written anew by its writer
		before, after := dst.live(), src.live()
		o.logs[writer] = src
		for k, op := range sorted(before) {
			if _, ok := after[k]; !ok {
				op.gone, op.value = true, nil
				o.follow(writer, op, writer == o.id)
			}
		}
		for k, op := range sorted(after) {
			if old, ok := before[k]; !ok || old.uid != op.uid {
				o.follow(writer, op, writer == o.id)
			}
		}
	case src.gen == dst.gen && !src.prefixOf(dst) && writer == o.id:
		// Two histories of its own: it puts all again, above both.
		l := simLog{gen: dst.gen + 1}
		for k, op := range sorted(dst.live()) {
			o.w.uid++
			l.ops = append(l.ops, simOp{uid: o.w.uid, scope: k.scope, key: k.key, value: op.value})
		}
		o.logs[writer] = l
		for _, scope := range []uint32{0, simVNI} {
			o.svc.Forked(scope)
		}
	}
}

func (h *simHost) hears(o *simHost) bool {
	return h != o && o.up && !o.paused && !o.gone && !h.w.cut[[2]ident.HostID{o.id, h.id}]
}

func (h *simHost) alive() (out []ident.HostID) {
	for _, o := range h.w.hosts {
		if h.hears(o) && !h.barred[o.id] {
			out = append(out, o.id)
		}
	}
	return out
}

func (h *simHost) ask(to ident.HostID, body []byte) error {
	for _, o := range h.w.hosts {
		if o.id == to && h.w.rnd.IntN(8) != 0 {
			h.w.air = append(h.w.air, simMsg{h, o, slices.Clone(body)})
			if h.w.rnd.IntN(10) == 0 {
				h.w.air = append(h.w.air, simMsg{h, o, slices.Clone(body)})
			}
		}
	}
	return nil
}

// send shows o what h knows, or some of it.
func (w *world) send(h, o *simHost, all bool) {
	if h == o || !h.up || h.paused || h.gone || o.gone || !o.hears(h) {
		return
	}
	for _, x := range w.hosts {
		if all || w.rnd.IntN(4) != 0 {
			h.show(o, x.id)
		}
	}
}

func (w *world) deliver(m simMsg) {
	if m.to.up && !m.to.paused && m.to.hears(m.from) && !m.to.gone {
		_ = m.to.svc.HandleAsk(m.from.id, m.body)
	}
}

func (h *simHost) space(scope uint32) *space {
	if sc := h.svc.scopes[scope]; sc != nil && len(sc.spaces) > 0 {
		return sc.spaces[0]
	}
	return nil
}

func (h *simHost) String() string { return fmt.Sprintf("%s(%d)", h.id.Short(), h.id[1]) }

func (h *simHost) kill() {
	h.up, h.paused, h.crash = false, false, false
	h.w.n.Kills++
	h.w.n.Recalls += int(h.svc.Counts().Lapses)
}

func (h *simHost) save() { h.backup = maps.Clone(h.logs) }

// rollBack puts an older disk in: nothing that ran on the machine is there any more.
func (h *simHost) rollBack() {
	h.logs = maps.Clone(h.backup)
	clear(h.attached)
	h.lapsed = true
	h.w.n.Rollbacks++
	var friend *simHost // the only one it meets at first: that one may not know what was lost either
	if o := h.w.pick(); o != h && h.w.rnd.IntN(2) == 0 {
		friend = o
	}
	if h.w.rnd.IntN(3) != 0 {
		for _, o := range h.w.hosts {
			if o != friend {
				h.w.cut[[2]ident.HostID{h.id, o.id}], h.w.cut[[2]ident.HostID{o.id, h.id}] = true, true
			}
		}
	}
}
