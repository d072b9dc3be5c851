package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// tinc joins hosts as a switch does. All are connected with the first, which sends: what it floods goes straight to each.
type tinc struct{}

const tincPort = 655

func (tinc) add(ctx context.Context, w *world, h *host) error {
	bin, err := program("tincd")
	if err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("Name = h%d\nMode = switch\nDeviceType = tap\nInterface = ov0\nAddressFamily = ipv4\n", h.n)
	if h.n > 1 {
		conf += "ConnectTo = h1\n"
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	about := fmt.Sprintf("Address = %s\nPort = %d\n%s", h.ip, tincPort, public)

	// A folder of hosts of its own each, as on real machines: the first and the new one know each other.
	first := w.hosts[0]
	if err := os.MkdirAll(filepath.Join(h.dir, "hosts"), 0o700); err != nil {
		return err
	}
	files := map[string]string{
		filepath.Join(h.dir, "tinc.conf"):                          conf,
		filepath.Join(h.dir, "rsa_key.priv"):                       string(private),
		filepath.Join(h.dir, "hosts", fmt.Sprintf("h%d", h.n)):     about,
		filepath.Join(first.dir, "hosts", fmt.Sprintf("h%d", h.n)): about,
	}
	if h != first {
		known, err := os.ReadFile(filepath.Join(first.dir, "hosts", "h1"))
		if err != nil {
			return err
		}
		files[filepath.Join(h.dir, "hosts", "h1")] = string(known)
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := h.daemon(nil, bin, "-c", h.dir, "-D", "--pidfile="+filepath.Join(h.dir, "pid")); err != nil {
		return err
	}
	return w.overlayLink(ctx, h, "ov0", 1400)
}
