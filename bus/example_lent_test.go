package bus_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/weft-net/weft/bus"
)

// A reader that looks at millions of messages and keeps none: what it is lent costs the collector nothing.
func ExampleWithLent() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Join(ctx, bus.Config{Name: "ticks", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	sub, err := b.Subscribe("price", bus.WithLent())
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := b.Publisher("price")
	if err != nil {
		fmt.Println(err)
		return
	}
	for price := range uint64(1000) {
		if err := pub.Send(ctx, binary.BigEndian.AppendUint64(nil, price)); err != nil {
			fmt.Println(err)
		}
	}
	sum := uint64(0)
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		sum += binary.BigEndian.Uint64(m.Payload) // m.Payload is another's in the next turn
		if m.Number == 1000 {
			break
		}
	}
	fmt.Println(sum)
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: 499500
}
