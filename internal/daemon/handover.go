package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/handover"
	"github.com/weft-net/weft/internal/snapshot"
	"github.com/weft-net/weft/internal/tap"
	"github.com/weft-net/weft/internal/udp"
	"github.com/weft-net/weft/internal/vnet"
)

// A daemon makes room for another one, of a new version mostly, without losing a packet: the side of the one that runs.
// Until it has said Go it can go on as if nothing had happened; from then on it seals nothing, and ends without a word
// to others. The other side is in takeover.go, the order of messages in package snapshot.

const (
	greetTime  = 10 * time.Second // for the other to say what it wants
	loadTime   = 30 * time.Second // for the other to load; frames flow, requests wait
	adoptTime  = 3 * time.Second  // for the other to take the keys; frames wait
	drainTime  = 2 * time.Second  // for requests under way
	farewell   = time.Second      // for a reason to be heard
	lockPeriod = 20 * time.Millisecond
)

// predecessor hands a running System over.
type predecessor struct {
	s      *System
	ln     *apiserver.Listener
	server *apiserver.Server
}

// serve takes hand-over connections, one at a time, until l is closed. It returns the connection over which this host
// was handed over: nothing of it is this daemon's any more, but its descriptors.
func (p *predecessor) serve(l *handover.Listener) *handover.Conn {
	for {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.s.log.Error("hand-over is not possible any more", "err", err)
			}
			return nil
		}
		done, err := p.handOver(c)
		switch {
		case done && p.s.ctx.Err() == nil:
			return c
		case done: // asked to stop: its end is the answer
			return nil
		}
		if err != nil {
			p.s.log.Warn("not handed over, going on", "to_pid", c.PID(), "err", err)
		}
		_ = c.Close()
	}
}

// handOver goes through one hand-over; done says that the other daemon was told to go.
func (p *predecessor) handOver(c *handover.Conn) (done bool, err error) {
	_ = c.SetDeadline(time.Now().Add(greetTime))
	body, _, err := expect(c, snapshot.KindHello)
	if err != nil {
		return false, nil // somebody looked in
	}
	hello, err := snapshot.DecodeHello(body)
	if err != nil {
		return false, err
	}
	offer, err := p.offer(hello)
	if err != nil {
		return false, err
	}
	if err := c.Send(byte(snapshot.KindOffer), offer.Encode()); err != nil {
		return false, err
	}
	kind, _, _, err := c.Receive(snapshot.MaxText)
	switch {
	case err != nil:
		return false, nil // it does not want this host, and tells its user why
	case snapshot.Kind(kind) == snapshot.KindStop:
		p.s.log.Info("asked to stop by another weft, which cannot read what this one would hand over", "to_pid", c.PID(), "to_version", hello.Version)
		p.s.mu.Lock()
		p.s.awaited = c
		p.s.mu.Unlock()
		p.s.cancel()
		return true, nil
	case snapshot.Kind(kind) != snapshot.KindTake || offer.Format == 0:
		return false, fmt.Errorf("message of kind %d", kind)
	}
	p.s.log.Info("handing over", "to_pid", c.PID(), "to_version", hello.Version)
	if err := p.give(c); err != nil {
		_ = c.SetDeadline(time.Now().Add(farewell))
		_ = c.Send(byte(snapshot.KindAbort), []byte(err.Error())) // it may be gone
		return false, err
	}
	return true, nil
}

func (p *predecessor) offer(h snapshot.Hello) (snapshot.Offer, error) {
	s := p.s
	o := snapshot.Offer{
		Format: snapshot.Choose(h.Formats), Formats: []uint16{snapshot.Format}, Version: s.version, PID: os.Getpid(),
		Host: s.mesh.Self(), Name: s.cfg.Name, Cluster: s.id.Cluster, Port: s.cfg.Port, StateDir: s.cfg.StateDir, Notify: os.Getenv(notifySocket),
	}
	var err error
	if o.State, err = place(s.cfg.StateDir); err != nil {
		return o, err
	}
	o.Netns, err = place(ownNetns)
	return o, err
}

// give freezes, hands descriptors and state over, and says Go; or it fails, and all is as before.
func (p *predecessor) give(c *handover.Conn) error {
	if err := p.freeze(); err != nil {
		return err
	}
	err := p.giveFrozen(c)
	if err != nil {
		p.thaw()
	}
	return err
}

func (p *predecessor) giveFrozen(c *handover.Conn) error {
	_ = c.SetDeadline(time.Now().Add(loadTime))
	if err := p.sendPlan(c); err != nil {
		return err
	}
	if _, _, err := expect(c, snapshot.KindReady); err != nil {
		return fmt.Errorf("the other did not get ready: %w", err)
	}
	s := p.s
	s.mesh.Halt()
	s.cast.Pause()
	_ = c.SetDeadline(time.Now().Add(adoptTime))
	err := p.sendState(c)
	if err == nil {
		if _, _, err = expect(c, snapshot.KindAdopted); err != nil {
			err = fmt.Errorf("the other did not take the keys: %w", err)
		}
	}
	if err == nil {
		// The point of no return: five bytes, which the kernel takes or does not.
		if err = c.Send(byte(snapshot.KindGo), nil); err == nil {
			return nil
		}
	}
	s.mesh.Resume()
	s.cast.Resume()
	return err
}

func (p *predecessor) sendState(c *handover.Conn) error {
	st := snapshot.State{Stopped: time.Now().UnixNano()}
	var err error
	if st.Mesh, err = p.s.mesh.Export(); err != nil {
		return err
	}
	// After the links have gone silent: a sender key drawn from here on was offered to nobody.
	if st.Cast, err = p.s.cast.Export(); err != nil {
		return err
	}
	return c.Send(byte(snapshot.KindState), st.Encode())
}

// freeze ends what would change state that the other reads: requests wait, no network comes or goes, own tables stand.
func (p *predecessor) freeze() error {
	s := p.s
	p.ln.Halt()
	ctx, cancel := context.WithTimeout(s.ctx, drainTime)
	defer cancel()
	p.server.Quiet(ctx) // what is not done by then is what a kill would leave: the next daemon puts it in order
	s.haltDocker(ctx)
	if !s.lockTaking(ctx) {
		p.ln.Resume()
		p.server.Loud()
		s.resumeDocker()
		return errors.New("a network is being set up or removed here: try again")
	}
	if s.cleaned || s.ctx.Err() != nil {
		p.thaw()
		return errors.New("this host is going down")
	}
	if err := s.mesh.Freeze(); err != nil {
		p.thaw()
		return err
	}
	return nil
}

func (p *predecessor) thaw() {
	p.s.mesh.Unfreeze()
	p.s.taking.Unlock()
	p.ln.Resume()
	p.server.Loud()
	p.s.resumeDocker()
}

// lockTaking locks taking; false when ctx ended first.
func (s *System) lockTaking(ctx context.Context) bool {
	tick := time.NewTicker(lockPeriod)
	defer tick.Stop()
	for !s.taking.TryLock() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s.taking.TryLock() // requests may have taken all the time there was
		}
	}
	return true
}

// sendPlan sends the plan and the descriptors it names.
func (p *predecessor) sendPlan(c *handover.Conn) error {
	s := p.s
	var plan snapshot.Plan
	var files, ours []*os.File // ours: descriptors made for this
	defer func() {
		for _, f := range ours {
			_ = f.Close()
		}
	}()
	add := func(use snapshot.Use, name string, f *os.File, made bool, err error) error {
		if err != nil {
			return err
		}
		if f == nil {
			return errors.ErrUnsupported
		}
		if made {
			ours = append(ours, f)
		}
		files = append(files, f)
		plan.Descriptors = append(plan.Descriptors, snapshot.Descriptor{Use: use, Name: name})
		return nil
	}
	u, err := udp.File(s.conn)
	if err := add(snapshot.UseUDP, "", u, true, err); err != nil {
		return err
	}
	t, err := s.tcp.File()
	if err := add(snapshot.UseTCP, "", t, true, err); err != nil {
		return err
	}
	a, err := p.ln.File()
	if err := add(snapshot.UseAPI, "", a, true, err); err != nil {
		return err
	}
	if err := add(snapshot.UseLock, "", s.dir.Lock(), false, nil); err != nil {
		return err
	}
	if ln := s.plugin.Load(); ln != nil {
		d, err := ln.File()
		if err := add(snapshot.UseDocker, s.cfg.PluginSocket(), d, true, err); err != nil {
			return err
		}
	}
	for _, n := range s.localNetworks() {
		x := snapshot.Network{VNI: n.vni, Name: n.name, MTU: s.clusterMTU(), Plain: n.def.Plain}
		if !n.def.Plain {
			x.TAP = vnet.UplinkName(n.vni)
			dev := s.vnet.Device(n.vni)
			if dev == nil {
				return fmt.Errorf("network %s has no uplink", n.name)
			}
			f, err := tap.File(dev)
			if err := add(snapshot.UseTAP, x.TAP, f, false, err); err != nil {
				return err
			}
		}
		plan.Networks = append(plan.Networks, x)
	}
	if err := c.Send(byte(snapshot.KindPlan), plan.Encode()); err != nil {
		return err
	}
	for len(files) > 0 {
		n := min(len(files), handover.MaxDescriptors)
		if err := c.Send(byte(snapshot.KindDescriptors), nil, files[:n]...); err != nil {
			return err
		}
		files = files[n:]
	}
	return nil
}

// expect receives a message of a kind. An Abort is an error with the other's reason.
func expect(c *handover.Conn, want snapshot.Kind) ([]byte, []*os.File, error) {
	kind, body, files, err := c.Receive(snapshot.MaxMessage)
	if err != nil {
		return nil, nil, err
	}
	if snapshot.Kind(kind) == want {
		return body, files, nil
	}
	for _, f := range files {
		_ = f.Close()
	}
	if snapshot.Kind(kind) == snapshot.KindAbort {
		return nil, nil, aborted(body[:min(len(body), snapshot.MaxText)])
	}
	return nil, nil, fmt.Errorf("hand-over: message of kind %d, want %d", kind, want)
}

// aborted is the other end's reason.
type aborted []byte

func (a aborted) Error() string { return string(a) }
