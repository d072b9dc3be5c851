package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/natsproto"
	"github.com/weft-net/weft/internal/subject"
)

const (
	leastRead = 4 << 10  // the reading buffer at first
	mostRead  = 64 << 10 // and in a stream of messages; a longer one gets its own
	// ease is how long a publisher waits at most when a receiver on this host is pressed: so that one connection does not
	// make a slow consumer of another that reads as fast as it can.
	ease = 5 * time.Millisecond
)

// conn is a client's connection.
type conn struct {
	s      *Server
	nc     net.Conn
	id     uint64
	router *broker.Router
	signal chan struct{} // there is something to write

	// The reader's own.
	options   natsproto.Options
	connected bool
	refused   bool // the operation at hand
	msg       broker.Message

	pings int         // the writer's own
	heard atomic.Bool // something came since the last ping

	mu      sync.Mutex // guards all below
	name    string
	headers bool
	subs    map[string]*sub
	spent   []*sub // have had all they wanted
	out     []byte
	waiting uint64        // messages in out
	writing int           // bytes that are being written
	wait    chan struct{} // closed and replaced when they are
	ended   bool
}

// serve speaks with a client until either ends it.
func (c *conn) serve(ctx context.Context) {
	plain := c.nc
	defer func() { _ = plain.Close() }()
	info := c.s.info(c)
	_ = c.nc.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := c.nc.Write(natsproto.AppendInfo(nil, &info)); err != nil {
		return
	}
	if c.s.cfg.TLS != nil {
		t := tls.Server(c.nc, c.s.cfg.TLS)
		hello, cancel := context.WithTimeout(ctx, authTime)
		err := t.HandshakeContext(hello)
		cancel()
		if err != nil {
			c.s.drops[dropTLS].Add(1)
			c.s.log.Debug("a NATS client spoke no TLS", "from", plain.RemoteAddr().String(), "err", err)
			return
		}
		c.mu.Lock()
		c.nc = t
		c.mu.Unlock()
	}
	c.options = natsproto.Options{Verbose: true, Echo: true} // until it says otherwise, as nats-server
	c.mu.Lock()
	if c.s.cfg.Token != "" && !c.ended {
		_ = c.nc.SetReadDeadline(time.Now().Add(authTime))
	}
	c.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(c.write)
	err := c.read(ctx)
	c.close(err)
	writer.Wait()
	for _, sb := range c.takeSubs() {
		c.s.cfg.Broker.Unsubscribe(sb.Subscription)
	}
	c.discard()
}

// close ends the connection for what the reader met.
func (c *conn) close(err error) {
	var timeout net.Error
	switch {
	case errors.Is(err, natsproto.ErrPayload):
		c.end(err.Error(), dropPayload)
	case errors.Is(err, errRefused):
		c.end(err.Error(), dropAuth)
	case errors.Is(err, errHeaders), errors.Is(err, natsproto.ErrUnknown), errors.Is(err, natsproto.ErrArguments), errors.Is(err, natsproto.ErrControlLine):
		c.end(err.Error(), dropProtocol)
	case errors.As(err, &timeout) && timeout.Timeout() && !c.connected && c.s.cfg.Token != "":
		c.end("Authentication Timeout", dropAuth)
	default: // it hung up, or this side ended it already
		c.end("", -1)
	}
	c.s.log.Debug("a NATS client has gone", "client", c.id, "err", err)
}

func (c *conn) takeSubs() []*sub {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*sub
	for _, sb := range c.subs {
		out = append(out, sb)
	}
	c.subs = map[string]*sub{}
	return out
}

var (
	errRefused = errors.New("Authorization Violation")                      //nolint:staticcheck // the words of the protocol
	errHeaders = errors.New("no responders requires headers to be enabled") // the client said it wants one without the other
	errEnded   = errors.New("ended from this side")
)

// read takes operations until the connection ends, and returns why.
func (c *conn) read(ctx context.Context) error {
	buf := make([]byte, leastRead)
	have := 0
	for {
		most := natsproto.MaxPayload
		if !c.connected && c.s.cfg.Token != "" {
			most = 0 // strangers get no memory
		}
		at, need, filled := 0, 0, have == len(buf)
		for at < have {
			op, n, want, err := natsproto.Parse(buf[at:have], most)
			if err != nil {
				if most == 0 {
					return errRefused
				}
				return err
			}
			if n == 0 {
				need = want
				break
			}
			if err := c.do(ctx, &op); err != nil {
				return err
			}
			at += n
			if most == 0 && c.connected {
				most = natsproto.MaxPayload
			}
		}
		have = copy(buf, buf[at:have])
		switch {
		case need > mostRead && need > len(buf):
			buf = grown(buf[:have], need)
		case need > len(buf) || filled && len(buf) < mostRead:
			buf = grown(buf[:have], min(max(2*len(buf), need), mostRead))
		case len(buf) > mostRead && need <= mostRead && have <= mostRead:
			buf = grown(buf[:have], mostRead)
		}
		n, err := c.nc.Read(buf[have:])
		have += n
		if n > 0 {
			c.heard.Store(true)
		}
		if err != nil && n == 0 {
			return err
		}
	}
}

func grown(b []byte, size int) []byte {
	out := make([]byte, size)
	copy(out, b)
	return out
}

// do carries an operation out; an error ends the connection.
func (c *conn) do(ctx context.Context, op *natsproto.Op) error {
	if !c.connected && c.s.cfg.Token != "" && op.Kind != natsproto.Connect {
		return errRefused
	}
	switch op.Kind {
	case natsproto.Connect:
		if err := c.connect(op.Options); err != nil {
			return err
		}
	case natsproto.Ping:
		c.say(natsproto.PongLine)
		return c.running()
	case natsproto.Pong:
		return c.running()
	case natsproto.Pub, natsproto.HPub:
		if err := c.publish(ctx, op); err != nil {
			return err
		}
	case natsproto.Sub:
		if err := c.subscribe(ctx, op); err != nil {
			return err
		}
	case natsproto.Unsub:
		c.unsubscribe(string(op.SID), op.Max)
	case natsproto.None:
	}
	if c.options.Verbose && !c.refused {
		c.say(natsproto.OK)
	}
	c.refused = false
	return nil
}

// running is an error once this side has ended the connection.
func (c *conn) running() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return errEnded
	}
	return nil
}

func (c *conn) connect(options []byte) error {
	o, err := natsproto.ParseOptions(options)
	if err != nil {
		return natsproto.ErrArguments
	}
	if !c.s.authorized(o) {
		return errRefused
	}
	if o.NoResponders && !o.Headers {
		return errHeaders
	}
	o.Token, o.Password = "", ""
	first := !c.connected
	c.options, c.connected = o, true
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, c.name = o.Headers, o.Name[:min(len(o.Name), 128)]
	if first && !c.ended {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	c.s.log.Debug("a NATS client came", "client", c.id, "name", c.name, "lang", o.Lang, "version", o.Version)
	return nil
}

func (c *conn) publish(ctx context.Context, op *natsproto.Op) error {
	c.msg = broker.Message{Reply: op.Reply, Header: op.Header, Payload: op.Payload}
	var o broker.Options
	if !c.options.Echo {
		o.Without = c
	}
	res, err := c.router.Publish(ctx, op.Subject, &c.msg, o)
	switch {
	case errors.Is(err, broker.ErrReserved):
		c.refuse("Permissions Violation for Publish to \""+string(op.Subject)+"\"", dropSubject)
		return nil
	case errors.Is(err, broker.ErrSubject):
		c.refuse("Invalid Publish Subject", dropSubject)
		return nil
	case err != nil: // those on this host have it
		c.s.drops[dropUnsent].Add(1)
	}
	if !res.Wanted && len(op.Reply) > 0 && c.options.NoResponders {
		c.nobody(op.Reply)
	}
	if res.Pressed != nil {
		t := time.NewTimer(ease)
		select {
		case <-res.Pressed:
		case <-t.C:
		}
		t.Stop()
	}
	return c.running()
}

// refuse tells a client that one operation was not carried out, and goes on.
func (c *conn) refuse(text string, kind drop) {
	c.s.drops[kind].Add(1)
	c.refused = true
	c.say(string(natsproto.AppendError(nil, text)))
}

func (c *conn) subscribe(ctx context.Context, op *natsproto.Op) error {
	sb := &sub{sid: string(op.SID)}
	pattern := string(op.Subject)
	if err := subject.CheckPattern(pattern); err != nil {
		c.refuse("Invalid Subject", dropSubject)
		return nil
	}
	c.mu.Lock()
	_, there := c.subs[sb.sid]
	c.mu.Unlock()
	if there { // as nats-server takes it: the first one stays
		return nil
	}
	bs, err := c.s.cfg.Broker.Subscribe(ctx, pattern, string(op.Queue), c, sb)
	switch {
	case errors.Is(err, broker.ErrFull):
		c.refuse("maximum subscriptions exceeded", dropSubs)
		return nil
	case err != nil:
		c.refuse("Invalid Subject", dropSubject)
		return nil
	}
	c.mu.Lock()
	sb.Subscription = bs
	c.subs[sb.sid] = sb
	c.mu.Unlock()
	return c.running()
}

// unsubscribe ends a subscription, at once or after a number of messages since it began.
func (c *conn) unsubscribe(sid string, most int) {
	c.mu.Lock()
	sb := c.subs[sid]
	if sb == nil {
		c.mu.Unlock()
		return
	}
	if most > sb.got {
		sb.max = most
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.forget(sb)
}
