package dockerapi_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/dockerapi/dockerapitest"
)

// TestFollow hears of changes until the engine ends, says what it never says, or nobody listens any more.
func TestFollow(t *testing.T) {
	e := dockerapitest.New(t)
	c := dockerapi.New(e.Socket)
	for _, x := range []struct{ last, want string }{
		{"", "it ended the connection"},
		{"<html>", `not an event of Docker's: "<html>"`},
		{`"` + strings.Repeat("x", 2<<20) + `"`, "token too long"},
	} {
		heard, ended := make(chan struct{}, 10), make(chan error, 1)
		go func() { ended <- c.Follow(t.Context(), func() { heard <- struct{}{} }) }()
		hear := func() {
			t.Helper()
			select {
			case <-heard:
			case err := <-ended:
				t.Fatal(err)
			case <-time.After(10 * time.Second):
				t.Fatal("nothing heard")
			}
		}
		hear()
		e.Tell(`{"Type":"container"}`)
		hear()
		e.Tell(x.last)
		if err := <-ended; err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("after %.20q: %v, want %s", x.last, err, x.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Follow(ctx, cancel)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := dockerapi.New("/nowhere/docker.sock").Follow(t.Context(), func() { t.Error("heard") }); err == nil || !strings.Contains(err.Error(), "is it running there?") {
		t.Errorf("no engine: %v", err)
	}
}
