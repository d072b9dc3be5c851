package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/handover"
	"github.com/weft-net/weft/internal/snapshot"
	"github.com/weft-net/weft/internal/tap"
	"github.com/weft-net/weft/internal/udp"
)

// The side of the daemon that takes a running one's place. It seals nothing before it has heard Go: the keys are the
// other's until then.

const (
	planTime  = 15 * time.Second // for the other to freeze
	stateTime = 20 * time.Second // for the other to stop and tell its state
	goTime    = 10 * time.Second // more than the other waits: it says Abort when it goes on
	leaveTime = 5 * time.Second  // for the other to end what would undo our doing
	stopTime  = 30 * time.Second // for one that cannot hand over to stop

	notifySocket = "NOTIFY_SOCKET" // of systemd
	ownNetns     = "/proc/self/ns/net"
)

// errWidowed says that the other daemon died while it handed over: nobody runs this host.
var errWidowed = errors.New("the running weft ended while it handed over")

// inheritance is what a running daemon hands over to this one.
type inheritance struct {
	conn  *handover.Conn
	offer snapshot.Offer
	plan  snapshot.Plan
	files map[snapshot.Use]*os.File
	taps  map[string]*os.File
	pause time.Duration // while nobody read or sent
}

// inherit asks the daemon that runs here for its place; running is the error that says so. nil without an error: it has
// nothing that this one could read, and was asked to stop.
func (s *System) inherit(running error) (*inheritance, error) {
	c, err := handover.Dial(s.cfg.RunDir)
	if errors.Is(err, handover.ErrNobody) {
		return nil, fmt.Errorf("%w, and hands nothing over (it is starting, or of an older version): weft down first", running)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", running, err)
	}
	in := &inheritance{conn: c, files: map[snapshot.Use]*os.File{}, taps: map[string]*os.File{}}
	take, err := in.ask(s, running)
	switch {
	case err != nil:
		in.close()
		return nil, widowed(err)
	case !take:
		in.close()
		return nil, nil
	}
	return in, nil
}

// ask greets, compares, and receives what comes before the state; false when the other was asked to stop instead.
func (in *inheritance) ask(s *System, running error) (take bool, err error) {
	c := in.conn
	_ = c.SetDeadline(time.Now().Add(greetTime))
	hello := snapshot.Hello{Formats: snapshot.Readable(), Version: s.version}
	if err := c.Send(byte(snapshot.KindHello), hello.Encode()); err != nil {
		return false, err
	}
	body, _, err := expect(c, snapshot.KindOffer)
	if err != nil {
		return false, err
	}
	if in.offer, err = snapshot.DecodeOffer(body); err != nil {
		return false, err
	}
	if err := in.fits(s, running); err != nil {
		return false, err
	}
	if in.offer.Format == 0 {
		s.log.Warn("the running weft hands over in another format: it is stopped, and this one starts anew; traffic pauses", "pid", in.offer.PID, "version", in.offer.Version, "formats", in.offer.Formats)
		if err := c.Send(byte(snapshot.KindStop), nil); err != nil {
			return false, err
		}
		_ = c.SetDeadline(time.Now().Add(stopTime))
		_, _, _, _ = c.Receive(snapshot.MaxText) // its end is what is waited for
		return false, nil
	}
	_ = c.SetDeadline(time.Now().Add(planTime))
	if err := c.Send(byte(snapshot.KindTake), nil); err != nil {
		return false, err
	}
	return true, in.receive()
}

// fits refuses to take the place of a daemon that is not this host's, or differs in what cannot be taken over.
func (in *inheritance) fits(s *System, running error) error {
	o := &in.offer
	if o.Version == s.version && !s.cfg.Replace {
		return fmt.Errorf("%w: host %s, pid %d, version %s like this one; weft up --replace takes its place all the same", running, o.Name, o.PID, o.Version)
	}
	state, err := place(s.cfg.StateDir)
	if err != nil || state != o.State {
		return fmt.Errorf("%w: host %s, whose state is in %s, not in %s", running, o.Name, o.StateDir, s.cfg.StateDir)
	}
	netns, err := place(ownNetns)
	if err != nil || netns != o.Netns {
		return fmt.Errorf("%w: host %s, in another network namespace", running, o.Name)
	}
	if o.Port != s.cfg.Port {
		return fmt.Errorf("%w: host %s, on port %d; weft down first, to use port %d", running, o.Name, o.Port, s.cfg.Port)
	}
	token, err := s.token()
	if err != nil {
		return err
	}
	if token != nil && token.Cluster != o.Cluster {
		return fmt.Errorf("%w: host %s of cluster %s, the token is of cluster %s", running, o.Name, o.Cluster, token.Cluster)
	}
	return nil
}

// receive takes the plan and its descriptors.
func (in *inheritance) receive() error {
	body, _, err := expect(in.conn, snapshot.KindPlan)
	if err != nil {
		return err
	}
	if in.plan, err = snapshot.DecodePlan(body); err != nil {
		return err
	}
	for rest := in.plan.Descriptors; len(rest) > 0; {
		_, files, err := expect(in.conn, snapshot.KindDescriptors)
		if err != nil {
			return err
		}
		if len(files) == 0 || len(files) > len(rest) {
			for _, f := range files {
				_ = f.Close()
			}
			return fmt.Errorf("hand-over: %d descriptors, want 1 to %d", len(files), len(rest))
		}
		for i, f := range files {
			switch d := rest[i]; {
			case d.Use == snapshot.UseTAP && in.taps[d.Name] == nil:
				in.taps[d.Name] = f
			case in.files[d.Use] == nil:
				in.files[d.Use] = f
			default:
				_ = f.Close()
			}
		}
		rest = rest[len(files):]
	}
	for _, use := range []snapshot.Use{snapshot.UseUDP, snapshot.UseTCP, snapshot.UseAPI, snapshot.UseLock} {
		if in.files[use] == nil {
			return fmt.Errorf("hand-over: no descriptor for use %d", use)
		}
	}
	return nil
}

// close ends the connection and closes what nobody took.
func (in *inheritance) close() {
	_ = in.conn.Close()
	for _, f := range in.files {
		_ = f.Close()
	}
	for _, f := range in.taps {
		_ = f.Close()
	}
	clear(in.files)
	clear(in.taps)
}

// abort tells the other why it should go on.
func (in *inheritance) abort(err error) {
	_ = in.conn.SetDeadline(time.Now().Add(farewell))
	_ = in.conn.Send(byte(snapshot.KindAbort), []byte(err.Error())) // it may be gone
}

// sockets makes the underlay's socket and the listener of streams from what was handed over.
func (in *inheritance) sockets() (udp.Conn, *net.TCPListener, error) {
	conn, err := udp.Adopt(in.files[snapshot.UseUDP], udpOptions)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.FileListener(in.files[snapshot.UseTCP])
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("take over the listener of streams: %w", err), conn.Close())
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, nil, errors.Join(errors.New("take over the listener of streams: not of TCP"), l.Close(), conn.Close())
	}
	return conn, tcp, nil
}

// takeOver goes on where the other daemon stops: when it returns nil, frames flow through this process, and the other one
// has ended what it did to the kernel. The kernel's bridges, ports and rules are as the other left them.
func (s *System) takeOver() error {
	in := s.from
	err := s.load()
	if err == nil {
		err = in.conn.Send(byte(snapshot.KindReady), nil)
	}
	var st snapshot.State
	if err == nil {
		_ = in.conn.SetDeadline(time.Now().Add(stateTime))
		var body []byte
		if body, _, err = expect(in.conn, snapshot.KindState); err == nil {
			st, err = snapshot.DecodeState(body)
		}
	}
	if err == nil {
		err = s.adopt(st)
	}
	if err == nil {
		_ = in.conn.SetDeadline(time.Now().Add(goTime))
		err = in.conn.Send(byte(snapshot.KindAdopted), nil)
	}
	if err == nil {
		_, _, err = expect(in.conn, snapshot.KindGo)
	}
	if err != nil {
		in.abort(err)
		return widowed(err)
	}
	if err := s.mesh.Begin(); err != nil {
		return err
	}
	s.cast.Resume()
	in.pause = max(0, time.Since(time.Unix(0, st.Stopped)))
	s.log.Info("taken over", "from_version", in.offer.Version, "from_pid", in.offer.PID, "pause_ms", float64(in.pause.Microseconds())/1000)
	_ = in.conn.SetDeadline(time.Now().Add(leaveTime))
	_, _, _, _ = in.conn.Receive(snapshot.MaxText) // its end is what is waited for
	in.close()
	if os.Getenv(notifySocket) == "" && in.offer.Notify != "" {
		_ = os.Setenv(notifySocket, in.offer.Notify) // systemd started the other; it hears from the other that we follow
	}
	return nil
}

// load makes ready all that can be while the other still forwards.
func (s *System) load() error {
	if err := s.mesh.StartHalted(); err != nil {
		return err
	}
	s.cast.Pause()
	for _, n := range s.from.plan.Networks {
		f := s.from.taps[n.TAP]
		if n.Plain || f == nil {
			continue
		}
		dev, err := tap.Adopt(n.TAP, f)
		_ = f.Close() // the device has its own
		delete(s.from.taps, n.TAP)
		if err != nil {
			return err
		}
		if err := s.cast.AddNetwork(n.VNI, dev, n.MTU); err != nil {
			return errors.Join(err, dev.Close())
		}
		s.taps.Store(n.TAP, dev)
	}
	return nil
}

// adopt takes keys and paths, and builds the forwarding tables that go with them; nothing is sent.
func (s *System) adopt(st snapshot.State) error {
	if err := s.mesh.Adopt(st.Mesh); err != nil {
		return err
	}
	if err := s.cast.Adopt(st.Cast); err != nil {
		return err
	}
	for _, id := range s.mesh.Reachable() {
		if p := s.mesh.Peer(id); p != nil && p.Path() != nil {
			s.met[id] = p.Path().Session // they have our keys
		}
	}
	_, defs := s.definitions()
	for _, x := range s.from.plan.Networks {
		d := defs[x.Name]
		if x.Plain || d == nil {
			continue
		}
		n := &network{name: x.Name, vni: x.VNI, def: d.rec}
		if err := s.aim(n, s.look(n)); err != nil {
			return err
		}
		if err := s.cast.SetRate(n.vni, d.rec.Rate); err != nil {
			return err
		}
	}
	return nil
}

// carry gives a network's device to the datapath, which has it already when it was handed over.
func (s *System) carry(vni uint32, dev tap.Device, mtu int) error {
	if s.cast.Carries(vni, dev) {
		return nil
	}
	if s.from != nil {
		_ = s.cast.RemoveNetwork(vni) // handed over, but the device had to be made anew
	}
	return s.cast.AddNetwork(vni, dev, mtu)
}

// openTAP returns the TAP that was handed over, once, or makes one.
func (s *System) openTAP(name string) (tap.Device, error) {
	if d, ok := s.taps.LoadAndDelete(name); ok {
		return d.(tap.Device), nil
	}
	return tap.Open(name)
}

// kept are the networks that were handed over.
func (s *System) kept() []uint32 {
	if s.from == nil {
		return nil
	}
	var out []uint32
	for _, n := range s.from.plan.Networks {
		out = append(out, n.VNI)
	}
	return out
}

// handedOver says from whom this daemon took over, for status.
func (s *System) handedOver() *api.HandedOver {
	if s.from == nil {
		return nil
	}
	return &api.HandedOver{Version: s.from.offer.Version, PauseMS: float64(s.from.pause.Microseconds()) / 1000}
}

// widowed tells the other's death from its refusal.
func widowed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", errWidowed, err)
	}
	var why aborted
	if errors.As(err, &why) {
		return fmt.Errorf("the running weft goes on: %w", err)
	}
	return err
}

// listen is apiserver.Listen for one that waits for another daemon to end.
func listen(ctx context.Context, runDir string, patience time.Duration) (*apiserver.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(lockPeriod)
	defer tick.Stop()
	for {
		ln, err := apiserver.Listen(runDir)
		if !errors.Is(err, apiserver.ErrRunning) {
			return ln, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}
