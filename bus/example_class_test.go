package bus_test

import (
	"context"
	"fmt"
	"time"

	"github.com/weft-net/weft/bus"
)

// What is worth nothing a moment later: the publisher never waits, and what did not come is counted.
func ExampleWithClass() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Join(ctx, bus.Config{Name: "sensors", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	sub, err := b.Subscribe("temperature")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := b.Publisher("temperature", bus.WithClass(bus.BestEffort))
	if err == nil {
		err = pub.Send(ctx, []byte("21 C"))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range sub.Messages(ctx) {
		fmt.Printf("%s, %d missed, %v\n", m.Payload, sub.Missed(), err)
		break
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: 21 C, 0 missed, <nil>
}

// Of prices only the last of each counts: who comes late has them at once.
func ExampleWithClass_lastValue() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Join(ctx, bus.Config{Name: "prices", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := b.Publisher("price.*", bus.WithClass(bus.LastValue))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range [][2]string{{"price.sap", "210"}, {"price.ibm", "254"}, {"price.sap", "211"}} {
		if err := pub.SendTo(ctx, p[0], []byte(p[1])); err != nil {
			fmt.Println(err)
		}
	}
	sub, err := b.Subscribe("price.>")
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range sub.Messages(ctx) {
		fmt.Println(m.Subject, string(m.Payload), err)
		if m.Subject == "price.sap" {
			break
		}
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// price.ibm 254 <nil>
	// price.sap 211 <nil>
}

// A publisher that must not wait says what to do when receivers are a window behind.
func ExampleWithFull() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Join(ctx, bus.Config{Name: "metrics", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	// A subscription that blocks, holds 64 KiB and is not read.
	if _, err := b.Subscribe("load", bus.WithSlow(bus.SlowBlock), bus.WithLimit(64<<10)); err != nil {
		fmt.Println(err)
	}
	for _, full := range []bus.WhenFull{bus.WouldBlock, bus.Drop, bus.Block} {
		pub, err := b.Publisher("load", bus.WithFull(full))
		if err != nil {
			fmt.Println(err)
			return
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		for err == nil && pub.Dropped() == 0 {
			err = pub.Send(short, make([]byte, 1000))
		}
		fmt.Println(err, pub.Dropped())
		cancel()
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// bus: receivers are behind by a whole window 0
	// <nil> 1
	// bus: send: context deadline exceeded 0
}
