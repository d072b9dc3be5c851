package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/dockerproxy"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/unixsock"
)

// proxyOptions are the flags of weft docker proxy.
type proxyOptions struct {
	host, network string
	ca, cert, key string // files: TLS
	insecure      bool
}

func (a *App) dockerProxy() *cobra.Command {
	var o proxyOptions
	c := &cobra.Command{
		Use: "proxy", Short: "Pass Docker's API on, and attach what is created through it to a network",
		Long: `Pass Docker's API on, and attach each container that is created through it to a network
of weft, beside what networks it has, before it can be started; it asks weft for names.
Containers of the host's network, of another container's, or of none, are left alone, and
nothing is ever removed. For those who start containers by the API, and name no network:

    weft docker proxy
    DOCKER_HOST=unix:///run/weft/docker.sock docker run -it IMAGE

Whoever reaches it is root on this host, as with Docker's own socket. So over TCP it asks
for certificates: --tlscacert, --tlscert and --tlskey, as dockerd does.

DOCKER_HOST says where Docker itself is.`,
		Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			return a.runProxy(ctx, o)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.host, "host", "H", "", "where it listens: unix:///PATH or tcp://ADDRESS:PORT (default unix://RUN_DIR/docker.sock)")
	f.StringVar(&o.network, "network", "weft", "network that containers are attached to, Docker's and weft's")
	f.StringVar(&o.ca, "tlscacert", "", "file with the certificates of those who sign clients'")
	f.StringVar(&o.cert, "tlscert", "", "file with its own certificate")
	f.StringVar(&o.key, "tlskey", "", "file with its private key")
	f.BoolVar(&o.insecure, "insecure-tcp", false, "let everybody who reaches the address be root here: TCP without certificates")
	return c
}

func (a *App) runProxy(ctx context.Context, o proxyOptions) error {
	if err := ident.CheckName("network", o.network); err != nil {
		return &usageError{err}
	}
	socket, err := dockerapi.Socket(a.env("DOCKER_HOST", ""))
	if err != nil {
		return &usageError{err}
	}
	if o.host == "" {
		o.host = "unix://" + filepath.Join(a.runDir, "docker.sock")
	}
	if o.host == "unix://"+socket {
		return usagef("-H %s: that is Docker's own socket, which DOCKER_HOST names", o.host)
	}
	l, err := o.listen()
	if err != nil {
		return err
	}
	defer l.Close()
	log := slog.New(slog.NewTextHandler(a.Err, nil))
	// Either may still be starting, as at boot: a reason to tell, not to end.
	if _, err := dockerapi.New(socket).Info(ctx); err != nil {
		log.Warn("requests will be refused for now", "err", err)
	}
	if _, err := a.namesOf(ctx, o.network); err != nil && !client.IsCode(err, client.CodeNotFound) {
		log.Warn("containers will be refused for now", "err", err)
	}
	p := dockerproxy.New(dockerproxy.Config{
		Socket: socket, Network: o.network, Log: log,
		Names: func(ctx context.Context) (dockerproxy.Names, error) { return a.namesOf(ctx, o.network) },
	})
	if _, err := fmt.Fprintf(a.Out, "what is created by DOCKER_HOST=%s is attached to network %s\n", o.host, o.network); err != nil {
		return err
	}
	return p.Serve(ctx, l)
}

// namesOf asks weft where a network's names are asked for.
func (a *App) namesOf(ctx context.Context, network string) (dockerproxy.Names, error) {
	d := a.client()
	defer d.Close()
	n, err := d.Network(ctx, network)
	if err != nil || n.DNS == "" {
		return dockerproxy.Names{}, err
	}
	return dockerproxy.Names{Servers: []string{n.DNS}, Search: []string{n.Domain}}, nil
}

// listen opens what -H says.
func (o proxyOptions) listen() (net.Listener, error) {
	secure := o.ca != "" || o.cert != "" || o.key != ""
	if path, ok := strings.CutPrefix(o.host, "unix://"); ok {
		switch {
		case !filepath.IsAbs(path) || !unixsock.Fits(path):
			return nil, usagef("-H %s: want unix:///PATH of at most 80 bytes", o.host)
		case secure || o.insecure:
			return nil, usagef("-H %s: TLS and --insecure-tcp are for tcp://ADDRESS:PORT", o.host)
		case unixsock.Answered(path):
			return nil, fmt.Errorf("another program answers at %s", path)
		}
		return unixsock.Listen(path, "")
	}
	addr, ok := strings.CutPrefix(o.host, "tcp://")
	if _, _, err := net.SplitHostPort(addr); !ok || err != nil {
		return nil, usagef("-H %s: want unix:///PATH or tcp://ADDRESS:PORT", o.host)
	}
	switch {
	case secure && o.insecure:
		return nil, usagef("--insecure-tcp is for TCP without certificates")
	case o.insecure:
		return net.Listen("tcp", addr)
	case o.ca == "" || o.cert == "" || o.key == "":
		return nil, usagef("-H %s: whoever reaches it is root on this host: give --tlscacert, --tlscert and --tlskey, or spell out --insecure-tcp", o.host)
	}
	c, err := o.tls()
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", addr, c)
}

// tls admits clients with a certificate that one of the given authorities has signed.
func (o proxyOptions) tls() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, fmt.Errorf("--tlscert %s, --tlskey %s: %w", o.cert, o.key, err)
	}
	text, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, fmt.Errorf("--tlscacert: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--tlscacert %s: %w", o.ca, errors.New("no certificate in it"))
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}, nil
}
