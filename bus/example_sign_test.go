package bus_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/weft-net/weft/bus"
)

// A publisher that signs, and a subscriber that takes messages of that one only. The key is made once, and kept where the publisher runs; others get its public half.
func Example_signed() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	token := bus.NewToken()
	feed, err := bus.Join(ctx, bus.Config{Name: "quotes", Token: token, NoMulticast: true, Member: "feed", Sign: private})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer feed.Close(ctx)
	seed := fmt.Sprintf("127.0.0.1:%d", feed.Addr().Port())
	desk, err := bus.Join(ctx, bus.Config{
		Name: "quotes", Token: token, NoMulticast: true, Member: "desk", Seeds: []string{seed}, Trust: []ed25519.PublicKey{public},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer desk.Close(ctx)

	sub, err := desk.Subscribe("quotes.*")
	if err != nil {
		fmt.Println(err)
		return
	}
	pub, err := feed.Publisher("quotes.eu")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pub.Ready(ctx, 1); err != nil {
		fmt.Println(err)
		return
	}
	if err := pub.Send(ctx, []byte("101.5")); err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s from %s: %s\n", m.Subject, m.Publisher, m.Payload)
		break
	}
	for _, m := range desk.Members() {
		fmt.Println(m.Name, "signs with the key that is trusted:", public.Equal(m.Key))
	}
	// Output:
	// quotes.eu from feed: 101.5
	// feed signs with the key that is trusted: true
}
