// Package bench measures a network between hosts as attachments use it, and the cluster's bus.
//
// Every host that takes part has an Endpoint: asked over a stream, it plugs a load agent into the network as a temporary
// attachment, has it send and count, and tells what weft and the machine used of their processors. The host that was
// asked for the measurement holds a stream to each, its own included, and conducts (Run). A stream is a session: when it
// ends, for whatever reason at either end, agent, namespace, attachment and address go with it.
//
// On a stream, lines of JSON, one asked, one answered:
//
//	{"open":{"network":"weft","group":"239.193.7.7"}}   →
//	                                                    ←  {"opened":{"address":"10.32.0.2/20","mtu":1400,"engine":"sealed"}}
//	{"do":{"op":"send",...}}                            →     (package load)
//	                                                    ←  {"did":{"sent":{...}}}
//	{"usage":{}}                                        →
//	                                                    ←  {"usage":{"daemon_ns":1,"machine_ns":2,"boot":"..."}}
//	{"bus":{"op":"publish",...}}                        →     (bus.go; after {"open":{"bus":true}}, in place of do)
//	                                                    ←  {"bus":{"sent":1000,...}}
//	{"bye":{}}                                          →
//	                                                    ←  {"closed":{}}, when all is taken away
//
// Any answer may be {"refused":{...}} instead.
package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/load"
)

const (
	// openTime is how long a stream may take to say what it is for, plugTime how long a host may take for its attachment.
	openTime = 10 * time.Second
	plugTime = 20 * time.Second
	// writeTime bounds the writing of one line.
	writeTime = 10 * time.Second
	// lateTime is how long one that is just ending is waited for before another is refused.
	lateTime = 2 * time.Second
	// sessionTime bounds a whole measurement: all tests of the longest duration with all hosts take less.
	sessionTime = 3 * time.Hour
)

// Agent carries out requests; *load.Child is one.
type Agent interface {
	Do(ctx context.Context, r load.Request) (load.Reply, error)
	// Done is closed when the agent has ended.
	Done() <-chan struct{}
}

// Plug is an agent that is plugged into a network.
type Plug struct {
	Agent   Agent
	Address netip.Prefix // IPv4
	MTU     int          // of packets, in bytes
	Engine  string       // sealed or plain
	// Close ends the agent and takes its attachment away; what fails of it is the host's to tell.
	Close func()
}

// Host is what an Endpoint needs of the host it is on.
type Host struct {
	Name string
	// Plug plugs a new agent into a network that this host has. An *api.Error goes to who asked.
	Plug func(ctx context.Context, network string) (Plug, error)
	// Bus waits until this host is on the cluster's bus.
	Bus func(ctx context.Context) (Messages, error)
	// Off makes the endpoint refuse everything: the settings say so.
	Off bool
}

// Endpoint takes part in measurements, one at a time.
type Endpoint struct {
	host Host
	wg   sync.WaitGroup
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu     sync.Mutex // guards what follows
	closed bool
	by     string // the host that conducts; empty: none
	since  time.Time
	free   chan struct{} // closed when that has ended
}

// NewEndpoint makes one. Close ends it.
func NewEndpoint(h Host) *Endpoint {
	e := &Endpoint{host: h}
	e.ctx, e.stop = context.WithCancel(context.Background())
	return e
}

// Close ends what runs and waits until it is taken away.
func (e *Endpoint) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.wg.Wait()
}

// begin takes the only place there is, and end gives it back.
func (e *Endpoint) begin(ctx context.Context, by string) error {
	ctx, cancel := context.WithTimeout(ctx, lateTime)
	defer cancel()
	for {
		e.mu.Lock()
		busy, since, free := e.by, e.since, e.free
		switch {
		case e.host.Off:
			e.mu.Unlock()
			return api.Errorf(api.CodeRefused, "it takes part in no measurement: bench is off in its settings")
		case e.closed:
			e.mu.Unlock()
			return api.Errorf(api.CodeUnavailable, "it is going down")
		case busy == "":
			e.by, e.since, e.free = by, time.Now(), make(chan struct{})
			e.wg.Add(1)
			e.mu.Unlock()
			return nil
		}
		e.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return api.Errorf(api.CodeConflict, "it takes part in the measurement that host %s began %v ago: one at a time", busy, time.Since(since).Round(time.Second)).
				WithHint("try again when that has ended")
		}
	}
}

func (e *Endpoint) end() {
	e.mu.Lock()
	e.by = ""
	close(e.free)
	e.mu.Unlock()
	e.wg.Done()
}

// Serve takes part in the measurement that a host conducts over conn, until either ends it. It closes conn.
func (e *Endpoint) Serve(by string, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(e.ctx, sessionTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	_ = conn.SetReadDeadline(time.Now().Add(openTime))
	lines := load.NewLines(conn)
	var first ask
	if err := lines.Next(&first); err != nil {
		return // nothing that could be answered
	}
	_ = conn.SetReadDeadline(time.Time{})
	if ctx.Err() != nil {
		return
	}
	s := &session{e: e}
	if err := s.open(ctx, by, first); err != nil {
		_ = tell(conn, answer{Refused: refusalOf(err)})
		return
	}
	unplug := sync.OnceFunc(func() { s.plug.Close(); e.end() })
	defer unplug()
	asks := make(chan ask)
	go func() { // apart, so that the end of the stream is seen while a request is under way
		defer cancel()
		for {
			var a ask
			if lines.Next(&a) != nil {
				return
			}
			select {
			case asks <- a:
			case <-ctx.Done():
				return
			}
		}
	}()
	out := answer{Opened: &opened{Address: s.plug.Address, MTU: s.plug.MTU, Engine: s.plug.Engine}}
	for {
		if tell(conn, out) != nil {
			return
		}
		select {
		case a := <-asks:
			if a.Bye != nil {
				unplug()
				_ = tell(conn, answer{Closed: &struct{}{}})
				return
			}
			var err error
			if out, err = s.answer(ctx, a); err != nil {
				out = answer{Refused: refusalOf(err)}
			}
		case <-s.plug.Agent.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

func tell(conn net.Conn, a answer) error {
	_ = conn.SetWriteDeadline(time.Now().Add(writeTime))
	return load.WriteLine(conn, a)
}

// session is one measurement at this end.
type session struct {
	e     *Endpoint
	plug  Plug
	bus   *busEnd // in place of a network
	group netip.Addr
}

// open plugs in. After an error nothing is left of it.
func (s *session) open(ctx context.Context, by string, first ask) error {
	if first.Open == nil {
		return api.Errorf(api.CodeInvalid, "a measurement begins with what is to be measured")
	}
	if err := first.Open.check(); err != nil {
		return err
	}
	err := s.e.begin(ctx, by)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, plugTime)
	defer cancel()
	if first.Open.Bus {
		if s.bus, err = newBusEnd(ctx, s.e.host); err != nil {
			s.e.end()
			return err
		}
		s.plug = Plug{Agent: s.bus, Close: s.bus.close}
		return nil
	}
	p, err := s.e.host.Plug(ctx, first.Open.Network)
	if err != nil {
		s.e.end()
		return err
	}
	s.plug, s.group = p, first.Open.Group
	return nil
}

// answer does one thing. Requests may come from another host: they are checked here, whatever that host has checked.
func (s *session) answer(ctx context.Context, a ask) (answer, error) {
	switch {
	case a.Usage != nil:
		process, machine, boot, err := load.Used()
		if err != nil {
			return answer{}, err
		}
		return answer{Usage: &usage{DaemonNS: process.Nanoseconds(), MachineNS: machine.Nanoseconds(), Boot: boot}}, nil
	case a.Bus != nil && s.bus != nil:
		r, err := s.bus.answer(ctx, *a.Bus)
		if err != nil {
			return answer{}, err
		}
		return answer{Bus: &r}, nil
	case a.Do != nil && s.bus == nil:
		if err := s.check(*a.Do); err != nil {
			return answer{}, api.Errorf(api.CodeInvalid, "%w", err)
		}
		r, err := s.plug.Agent.Do(ctx, *a.Do)
		if err != nil {
			return answer{}, api.Errorf(api.CodeUnavailable, "%w", err)
		}
		return answer{Did: &r}, nil
	}
	return answer{}, api.Errorf(api.CodeInvalid, "nothing that this version can do was asked for")
}

// check lets an agent send only into its own network, packets that fit, and to no other group.
func (s *session) check(r load.Request) error {
	if err := r.Check(); err != nil {
		return err
	}
	switch r.Op {
	case load.OpOpen:
		return errors.New("the agent is open already")
	case load.OpJoin:
		if r.Group.IsValid() && r.Group != s.group {
			return fmt.Errorf("group %s is not the one of this measurement", r.Group)
		}
	case load.OpPing, load.OpTCP, load.OpSend:
		if r.To != s.group && !s.plug.Address.Contains(r.To) {
			return fmt.Errorf("%s is not in the network that is measured", r.To)
		}
		if r.PayloadBytes > s.plug.MTU-headers {
			return fmt.Errorf("datagrams of %d bytes do not fit packets of %d", r.PayloadBytes, s.plug.MTU)
		}
	}
	return nil
}

// headers of IPv4 and UDP, in bytes.
const headers = 28

// refusalOf makes any error fit to be told to another host.
func refusalOf(err error) *refusal {
	var e *api.Error
	if errors.As(err, &e) {
		return &refusal{Code: e.Code, Text: clip(e.Error()), Hint: clip(e.Hint)}
	}
	return &refusal{Code: api.CodeInternal, Text: clip(err.Error())}
}

// clip keeps texts well within a line.
func clip(s string) string {
	const most = 1000
	return s[:min(len(s), most)]
}
