package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weft-net/weft/bus"
)

// Two processes would do what two members do here; the second finds the first by its address.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	token := bus.NewToken()
	a, err := bus.Join(ctx, bus.Config{Name: "quotes", Token: token, Member: "exchange", NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	seed := fmt.Sprintf("127.0.0.1:%d", a.Addr().Port())
	b, err := bus.Join(ctx, bus.Config{Name: "quotes", Token: token, Seeds: []string{seed}, NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	sub, err := b.Subscribe("quotes.*")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := a.Publisher("quotes.eu")
	if err == nil {
		err = pub.Ready(ctx, 1) // one receiver in another process
	}
	for i := 1; i <= 3 && err == nil; i++ {
		err = pub.Send(ctx, fmt.Appendf(nil, "price %d", i))
	}
	if err == nil {
		err = a.Close(ctx) // what was sent arrives before it returns
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s from %s: %s\n", m.Subject, m.Publisher, m.Payload)
		if m.Number == 3 {
			break
		}
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// quotes.eu from exchange: price 1
	// quotes.eu from exchange: price 2
	// quotes.eu from exchange: price 3
}

// Wait says who has not confirmed.
func ExamplePublisher_Wait() {
	ctx := context.Background()
	b, err := bus.Join(ctx, bus.Config{Name: "cache", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := b.Publisher("cache.invalid")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pub.Send(ctx, []byte("user/17")); err != nil {
		fmt.Println(err)
		return
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	err = pub.Wait(short, 2) // two receivers shall have it
	var u *bus.Unconfirmed
	if errors.As(err, &u) {
		fmt.Printf("%d of 2 confirmed\n", u.Confirmed)
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: 0 of 2 confirmed
}

// A loss is an error in the place of what was lost, and the loop goes on.
func ExampleSubscription_Messages() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Join(ctx, bus.Config{Name: "telemetry", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	sub, err := b.Subscribe("telemetry.>", bus.WithSlow(bus.SlowDrop))
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := b.Publisher("telemetry.>") // a subscription in the same process gets it, too
	if err == nil {
		err = pub.SendTo(ctx, "telemetry.engine.2", []byte("93 C"))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range sub.Messages(ctx) {
		var lost *bus.Lost
		switch {
		case errors.As(err, &lost):
			fmt.Printf("%s: %d messages lost\n", lost.Subject, lost.To-lost.From+1)
			continue
		case err != nil:
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s\n", m.Subject, m.Payload)
		break
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: telemetry.engine.2: 93 C
}
