package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weft-net/weft/bus"
)

// A service answers with its handler; with WithQueue others could share the work.
func ExampleBus_Respond() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Join(ctx, bus.Config{Name: "tools", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := b.Respond("text.upper", func(_ context.Context, m bus.Message) (bus.Outgoing, error) {
		if len(m.Payload) == 0 {
			return bus.Outgoing{}, errors.New("nothing to do")
		}
		return bus.Outgoing{Payload: bytes.ToUpper(m.Payload), Header: m.Header()}, nil
	}, bus.WithQueue("workers"))
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := b.RequestMessage(ctx, bus.Outgoing{Subject: "text.upper", Payload: []byte("weft"), Header: bus.Header{"Id": {"7"}}})
	fmt.Println(string(m.Payload), m.Header().Get("Id"), err)

	var refused *bus.Refused
	if _, err = b.Request(ctx, "text.upper", nil); errors.As(err, &refused) {
		fmt.Println("refused:", refused.Reason)
	}
	if _, err = b.Request(ctx, "text.lower", nil); errors.Is(err, bus.ErrNoResponders) {
		fmt.Println(err)
	}
	if err := r.Close(ctx); err != nil {
		fmt.Println(err)
	}
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// WEFT 7 <nil>
	// refused: nothing to do
	// bus: nobody is there to answer on "text.lower"
}

// A subscription answers by itself when it sees fit.
func ExampleBus_Answer() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Join(ctx, bus.Config{Name: "tools", Token: bus.NewToken(), NoMulticast: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	sub, err := b.Subscribe("time.*")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for m, err := range sub.Messages(ctx) {
			if err == nil && m.Reply() != "" {
				_ = b.Answer(ctx, m, bus.Outgoing{Payload: []byte("noon on " + m.Subject)}) // who does not get it asks again
			}
		}
	}()
	m, err := b.Request(ctx, "time.mars", nil)
	fmt.Println(string(m.Payload), err)
	if err := b.Close(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: noon on time.mars <nil>
}
