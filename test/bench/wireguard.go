package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// wireguard is wireguard-go, every host a peer of every other.
type wireguard struct {
	keys map[*host]*ecdh.PrivateKey
}

const wireguardPort = 51820

// wireguardDev names the interface: its socket has the same name, in one folder for all namespaces.
func wireguardDev(h *host) string { return fmt.Sprintf("weftbench%d", h.n) }

func (g *wireguard) add(ctx context.Context, w *world, h *host) error {
	bin, err := program("wireguard")
	if err != nil {
		return err
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if g.keys == nil {
		g.keys = map[*host]*ecdh.PrivateKey{}
	}
	g.keys[h] = key
	dev := wireguardDev(h)
	if err := os.MkdirAll("/var/run/wireguard", 0o700); err != nil {
		return err
	}
	if err := h.daemon([]string{"LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1"}, bin, "-f", dev); err != nil {
		return err
	}
	if err := w.overlayLink(ctx, h, dev, 1420); err != nil {
		return err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "private_key=%s\nlisten_port=%d\n", hex.EncodeToString(key.Bytes()), wireguardPort)
	for _, p := range w.hosts {
		if p == h {
			continue
		}
		conf.WriteString(g.peer(p))
		if err := configure(ctx, wireguardDev(p), g.peer(h)); err != nil {
			return err
		}
	}
	return configure(ctx, dev, conf.String())
}

func (g *wireguard) peer(p *host) string {
	return fmt.Sprintf("public_key=%s\nendpoint=%s:%d\nallowed_ip=%s/32\n", hex.EncodeToString(g.keys[p].PublicKey().Bytes()), p.ip, wireguardPort, overlay(p.n))
}

// configure speaks wireguard-go's configuration protocol.
func configure(ctx context.Context, dev, settings string) error {
	return await(ctx, 5*time.Second, func() error {
		c, err := net.Dial("unix", "/var/run/wireguard/"+dev+".sock")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c, "set=1\n%s\n", settings); err != nil {
			return err
		}
		answer, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || strings.TrimSpace(answer) != "errno=0" {
			return fmt.Errorf("configure %s: answer %q, %w", dev, strings.TrimSpace(answer), err)
		}
		return nil
	})
}

func wireguardVersion(ctx context.Context) (string, error) {
	bin, err := program("wireguard")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "go", "version", "-m", bin).Output()
	if err != nil {
		return "", fmt.Errorf("go version -m %s: %w", bin, err)
	}
	m := regexp.MustCompile(`\tmod\tgolang\.zx2c4\.com/wireguard\t(\S+)`).FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s is not golang.zx2c4.com/wireguard", bin)
	}
	return string(m[1]), nil
}
