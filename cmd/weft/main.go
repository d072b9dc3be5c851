// Command weft runs a host of a weft cluster and talks to it; see docs/design.md.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/daemon"
)

func main() {
	flags := map[string]config.Value{}
	for _, a := range os.Args[1:] {
		k, v, _ := strings.Cut(a, "=")
		f := flags[k]
		f.From = k
		f.Texts = append(f.Texts, v)
		flags[k] = f
	}
	u, err := config.Load(nil, "", os.Environ(), flags)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := daemon.Run(ctx, u, daemon.Options{Version: "dev", Log: l, Stdout: os.Stdout}); err != nil {
		fmt.Fprintln(os.Stderr, "weft:", err)
		os.Exit(1)
	}
}
