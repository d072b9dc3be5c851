// Command server is weft's listener for NATS clients and a broker without a bus, in a process of its own: what the tests of
// NATS's own Go client connect to. It ends when its standard input does.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/weft-net/weft/internal/broker"
	"github.com/weft-net/weft/internal/nats"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "natsgo server:", err)
		os.Exit(1)
	}
}

func run() error {
	addr := flag.String("addr", "127.0.0.1:0", "where to listen")
	token := flag.String("token", "", "what clients must show")
	cert := flag.String("cert", "", "certificate; with it, TLS is asked for")
	key := flag.String("key", "", "its key")
	flag.Parse()
	cfg := nats.Config{Broker: broker.New(), Name: "natsgo", Version: "test", Token: *token, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return err
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	l, err := nats.Listen(*addr, "")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if _, err := fmt.Fprintln(os.Stdout, l.Addr()); err != nil {
		return err
	}
	return nats.New(cfg).Serve(ctx, l)
}
