package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weft-net/weft/bus"
)

const (
	busSubject = "b"
	natsPort   = "4222"
	redisPort  = "6379"
	// brokerStart is how long a broker may take to listen.
	brokerStart = 5 * time.Second
)

// joinWeft makes this process a member of the bus that the publisher is the seed of.
func joinWeft(ctx context.Context, o busOptions, member string, port int) (*bus.Bus, error) {
	return bus.Join(ctx, bus.Config{
		Name: "bench", Token: o.token, Member: member, Seeds: []string{o.peer}, Listen: port, Interface: o.dev,
	})
}

type weftPublisher struct{ p *bus.Publisher }

func publishWeft(ctx context.Context, o busOptions) (busPublisher, error) {
	b, err := joinWeft(ctx, o, "publisher", bus.SeedPort)
	if err != nil {
		return nil, err
	}
	p, err := b.Publisher(busSubject)
	if err != nil {
		return nil, err
	}
	if err := p.Ready(ctx, o.subscribers); err != nil {
		return nil, err
	}
	return weftPublisher{p}, await(ctx, 30*time.Second, func() error {
		hear := 0
		for _, m := range b.Members() {
			if m.Hears {
				hear++
			}
		}
		if o.multicast && hear < o.subscribers {
			return fmt.Errorf("%d of %d subscribers hear multicast", hear, o.subscribers)
		}
		return nil
	})
}

func (w weftPublisher) publish(block [][]byte) error {
	if len(block) == 1 {
		return w.p.Send(context.Background(), block[0])
	}
	_, err := w.p.SendBlock(context.Background(), block)
	return err
}

func (w weftPublisher) finish(last []byte) error { return w.p.Send(context.Background(), last) }

func subscribeWeft(ctx context.Context, o busOptions, ready func(), got func([]byte)) error {
	b, err := joinWeft(ctx, o, o.own, 0)
	if err != nil {
		return err
	}
	s, err := b.Subscribe(busSubject, bus.WithSlow(bus.SlowBlock), bus.WithLent())
	if err != nil {
		return err
	}
	ready()
	for m, err := range s.Messages(ctx) {
		if err != nil {
			return err
		}
		got(m.Payload)
	}
	return nil
}

type natsPublisher struct{ c *nats.Conn }

func connectNATS(ctx context.Context, o busOptions) (c *nats.Conn, err error) {
	err = await(ctx, brokerStart, func() error {
		c, err = nats.Connect("nats://" + net.JoinHostPort(o.peer, natsPort))
		return err
	})
	return c, err
}

func publishNATS(ctx context.Context, o busOptions) (busPublisher, error) {
	c, err := connectNATS(ctx, o)
	return natsPublisher{c}, err
}

func (n natsPublisher) publish(block [][]byte) error {
	for _, m := range block {
		if err := n.c.Publish(busSubject, m); err != nil {
			return err
		}
	}
	return nil
}

func (n natsPublisher) finish(last []byte) error {
	if err := n.c.Publish(busSubject, last); err != nil {
		return err
	}
	return n.c.Flush()
}

func subscribeNATS(ctx context.Context, o busOptions, ready func(), got func([]byte)) error {
	c, err := connectNATS(ctx, o)
	if err != nil {
		return err
	}
	s, err := c.Subscribe(busSubject, func(m *nats.Msg) { got(m.Data) })
	if err != nil {
		return err
	}
	if err := s.SetPendingLimits(-1, -1); err != nil { // never drop at the client
		return err
	}
	if err := c.Flush(); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// redisPublisher pipelines PUBLISH, as far ahead of the answers as redisAhead.
type redisPublisher struct {
	c        net.Conn
	buf      []byte
	sent     uint64
	answered atomic.Uint64
	moved    chan struct{}
}

const redisAhead = 16384

// Messages have one length, so what stands around them is always the same.
const (
	redisPublish = "*3\r\n$7\r\nPUBLISH\r\n$1\r\n" + busSubject + "\r\n$64\r\n"
	redisMessage = "*3\r\n$7\r\nmessage\r\n$1\r\n" + busSubject + "\r\n$64\r\n"
	redisSub     = "*3\r\n$9\r\nsubscribe\r\n$1\r\n" + busSubject + "\r\n:1\r\n"
)

func connectRedis(ctx context.Context, o busOptions) (c net.Conn, err error) {
	err = await(ctx, brokerStart, func() error {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(o.peer, redisPort))
		return err
	})
	return c, err
}

func publishRedis(ctx context.Context, o busOptions) (busPublisher, error) {
	c, err := connectRedis(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &redisPublisher{c: c, moved: make(chan struct{}, 1)}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			r.answered.Add(uint64(bytes.Count(buf[:n], []byte{'\n'})))
			if err != nil {
				r.answered.Store(1 << 62) // writing tells
			}
			select {
			case r.moved <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return r, nil
}

func (r *redisPublisher) publish(block [][]byte) error {
	r.buf = r.buf[:0]
	for _, m := range block {
		r.buf = append(append(append(r.buf, redisPublish...), m...), "\r\n"...)
	}
	r.until(redisAhead)
	r.sent += uint64(len(block))
	_, err := r.c.Write(r.buf)
	return err
}

func (r *redisPublisher) until(ahead uint64) {
	for r.sent > r.answered.Load()+ahead {
		<-r.moved
	}
}

func (r *redisPublisher) finish(last []byte) error {
	err := r.publish([][]byte{last})
	r.until(0)
	return err
}

func subscribeRedis(ctx context.Context, o busOptions, ready func(), got func([]byte)) error {
	c, err := connectRedis(ctx, o)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\n%s\r\n", busSubject); err != nil {
		return err
	}
	in := bufio.NewReaderSize(c, 64<<10)
	if answer, err := in.Peek(len(redisSub)); err != nil || string(answer) != redisSub {
		return fmt.Errorf("redis answers %q: %w", answer, err)
	}
	if _, err := in.Discard(len(redisSub)); err != nil {
		return err
	}
	ready()
	const whole = len(redisMessage) + messageSize + len("\r\n")
	for ctx.Err() == nil {
		m, err := in.Peek(whole)
		if err != nil {
			return err
		}
		got(m[len(redisMessage):][:messageSize])
		if _, err := in.Discard(whole); err != nil {
			return err
		}
	}
	return nil
}
