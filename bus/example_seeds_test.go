package bus_test

import (
	"context"
	"fmt"
	"time"

	"github.com/weft-net/weft/bus"
)

// A member that knew of nobody is told of another later.
func ExampleBus_AddSeed() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	token := bus.NewToken()
	a, err := bus.Join(ctx, bus.Config{Name: "cache", Token: token, Member: "first", NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := bus.Join(ctx, bus.Config{Name: "cache", Token: token, Member: "second", NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := b.AddSeed(fmt.Sprintf("127.0.0.1:%d", a.Addr().Port())); err != nil {
		fmt.Println(err)
	}
	for e := range b.Events(ctx) {
		fmt.Println(e.Member.Name, e.Kind)
		break
	}
	for _, m := range []*bus.Bus{a, b} {
		if err := m.Close(ctx); err != nil {
			fmt.Println(err)
		}
	}
	// Output: first joined
}

// A token is changed while members run: all accept the new one, then each is restarted with it.
func ExampleBus_Accept() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	token, next := bus.NewToken(), bus.NewToken()
	a, err := bus.Join(ctx, bus.Config{Name: "cache", Token: token, NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := a.Accept(next); err != nil { // 1. everywhere
		fmt.Println(err)
	}
	seed := fmt.Sprintf("127.0.0.1:%d", a.Addr().Port())
	b, err := bus.Join(ctx, bus.Config{ // 2. one after the other
		Name: "cache", Token: next, Accept: []string{token}, Seeds: []string{seed}, Member: "restarted", NoMulticast: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for e := range a.Events(ctx) {
		fmt.Println(e.Member.Name, e.Kind)
		break
	}
	if err := b.Accept(); err != nil { // 3. when all have the new one
		fmt.Println(err)
	}
	for _, m := range []*bus.Bus{b, a} {
		if err := m.Close(ctx); err != nil {
			fmt.Println(err)
		}
	}
	// Output: restarted joined
}
