package test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/bus"
)

// busVariable makes this test binary a member of a bus instead of a run of tests.
const busVariable = "WEFT_TEST_BUS"

// busProgram runs a member: publish TOKEN SEED RECEIVERS HEARING MESSAGES RATE [CONFIRM], subscribe TOKEN SEED MESSAGES, or member TOKEN SEED
// EXPECTED (busCommanded), counter TOKEN SEED KIB (busCounter), hostile TOKEN SEED (busHostile). SEED "-": none, and listen where seeds are asked.
func busProgram() bool {
	role := os.Getenv(busVariable)
	if role == "" {
		return false
	}
	if role == "worker" {
		if err := busWorker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return true
	}
	a := os.Args[1:]
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(times(10, 30))*time.Minute) // no longer than make bus-hostile, make bus-storm have
	defer cancel()
	host, _ := os.Hostname()
	cfg := bus.Config{Name: "test", Token: a[0], Member: fmt.Sprintf("%s %s/%d", role, host, os.Getpid())}
	if a[1] == "-" {
		cfg.Listen = bus.SeedPort
	} else {
		cfg.Seeds = []string{a[1]}
	}
	b, err := bus.Join(ctx, cfg)
	if err == nil {
		switch role {
		case "publish":
			confirm := bus.All
			if len(a) > 6 {
				confirm = number(a[6])
			}
			err = busPublish(ctx, b, number(a[2]), number(a[3]), number(a[4]), number(a[5]), confirm)
		case "subscribe":
			err = busSubscribe(ctx, b, number(a[2]))
		case "member":
			err = busCommanded(ctx, b, number(a[2]))
		case "counter":
			err = busCounter(ctx, b, number(a[2]))
		case "hostile":
			err = busHostile(ctx, b, a[0])
		}
		err = errors.Join(err, b.Close(ctx))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// chain is what publisher and subscribers must agree on: a hash over all messages in their order.
type chain struct {
	hash.Hash
	n int
}

func (c *chain) add(payload []byte) {
	var l [4]byte
	binary.BigEndian.PutUint32(l[:], uint32(len(payload)))
	_, _ = c.Write(l[:])
	_, _ = c.Write(payload)
	c.n++
}

func (c *chain) String() string { return fmt.Sprintf("%d %x", c.n, c.Sum(nil)[:8]) }

// busPublish waits for receivers, and for as many to hear its multicast, and sends; rate is in messages a second, 0: all it can.
func busPublish(ctx context.Context, b *bus.Bus, receivers, hearing, messages, rate, confirm int) error {
	p, err := b.Publisher("load.x")
	if err != nil {
		return err
	}
	go busPaths(ctx, b)
	if err := p.Ready(ctx, receivers); err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n := 0
		for _, m := range b.Members() {
			if m.Hears {
				n++
			}
		}
		if n >= hearing {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d hear multicast", n, hearing)
		}
	}
	_, _ = fmt.Fprintln(os.Stdout, "ready")
	c := chain{Hash: sha256.New()}
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4000)
	start := time.Now()
	for i := range messages {
		size := 64
		if i%1000 == 0 {
			size = len(buf)
		}
		for j := 0; j < 64; j += 8 {
			binary.BigEndian.PutUint64(buf[j:], r.Uint64())
		}
		if rate > 0 && i%(rate/100) == 0 {
			<-tick.C
		}
		c.add(buf[:size])
		if err := p.Send(ctx, buf[:size]); err != nil {
			return err
		}
	}
	if err := p.Wait(ctx, confirm); err != nil {
		return err
	}
	took := time.Since(start)
	by := map[bus.Path]int{}
	for _, m := range b.Members() {
		by[m.Path]++
	}
	_, _ = fmt.Fprintf(os.Stdout, "paths: %d udp, %d tcp, %d member\n", by[bus.PathUDP], by[bus.PathTCP], by[bus.PathMember])
	st := p.Stats()
	_, _ = fmt.Fprintf(os.Stdout, "sent %v in %v, repaired %.2f of data, %d packets, %d NACKs for %d packets\n", &c, took.Round(time.Millisecond),
		float64(st.RepairBytes)/float64(st.Bytes), st.Packets, st.Nacks, st.NackedPackets)
	return nil
}

// busPaths tells by which way members are reached that are not, or not any more, by UDP.
func busPaths(ctx context.Context, b *bus.Bus) {
	for e := range b.Events(ctx) {
		if e.Kind == bus.PathChanged || e.Kind == bus.Joined && e.Member.Path != bus.PathUDP {
			_, _ = fmt.Fprintf(os.Stdout, "path of %s: %s %s\n", e.Member.Name, e.Member.Path, e.Member.Via)
		}
	}
}

func busSubscribe(ctx context.Context, b *bus.Bus, messages int) error {
	s, err := b.Subscribe("load.*", bus.WithSlow(bus.SlowBlock))
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, "subscribed")
	c := chain{Hash: sha256.New()}
	var last time.Time
	var longest time.Duration
	for m, err := range s.Messages(ctx) {
		if err != nil {
			return err // a loss
		}
		now := time.Now()
		if !last.IsZero() {
			longest = max(longest, now.Sub(last))
		}
		last = now
		if c.add(m.Payload); c.n == messages {
			break
		}
	}
	dropped := b.Stats().Dropped
	keys := slices.DeleteFunc([]string{"forged", "duplicate", "replayed", "malformed"}, func(k string) bool { return dropped[k] == 0 })
	_, _ = fmt.Fprintf(os.Stdout, "got %v, longest silence %d ms", &c, longest.Milliseconds())
	for _, k := range keys {
		_, _ = fmt.Fprintf(os.Stdout, ", %s %d", k, dropped[k])
	}
	_, _ = fmt.Fprintln(os.Stdout)
	// The publisher waits for all to confirm: stay until it goes. Its goodbye may be lost with a member that was to pass it on, and went first.
	brief, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for e := range b.Events(brief) {
		if (e.Kind == bus.Left || e.Kind == bus.MemberUnreachable) && strings.HasPrefix(e.Member.Name, "publish") {
			break
		}
	}
	return nil
}
