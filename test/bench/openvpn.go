package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// openvpn is a server on the first host, which passes frames on between the others.
type openvpn struct {
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
}

func (o *openvpn) add(ctx context.Context, w *world, h *host) error {
	bin, err := program("openvpn")
	if err != nil {
		return err
	}
	if err := o.certify(h); err != nil {
		return err
	}
	args := []string{
		bin, "--dev", "ov0", "--dev-type", "tap", "--proto", "udp4", "--data-ciphers", "AES-256-GCM", "--verb", "1",
		"--ca", filepath.Join(h.dir, "ca"), "--cert", filepath.Join(h.dir, "cert"), "--key", filepath.Join(h.dir, "key"),
		"--keepalive", "10", "60",
	}
	if h.n == 1 {
		args = append(args, "--mode", "server", "--tls-server", "--dh", "none", "--client-to-client", "--lport", "1194")
	} else {
		args = append(args, "--client", "--nobind", "--remote", w.hosts[0].ip.String(), "1194", "--remote-cert-tls", "server")
	}
	if err := h.daemon(nil, args...); err != nil {
		return err
	}
	return w.overlayLink(ctx, h, "ov0", 1400)
}

// certify writes the host's key and certificates. The first call makes the authority.
func (o *openvpn) certify(h *host) error {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(h.n) + 1), Subject: pkix.Name{CommonName: fmt.Sprintf("h%d", h.n)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if h.n == 1 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if err := o.found(now); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, o.ca, key.Public(), o.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, kind string
		bytes      []byte
	}{{"ca", "CERTIFICATE", o.ca.Raw}, {"cert", "CERTIFICATE", cert}, {"key", "PRIVATE KEY", private}} {
		if err := os.WriteFile(filepath.Join(h.dir, f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.bytes}), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (o *openvpn) found(now time.Time) error {
	var err error
	if o.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weft benchmark"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, o.key.Public(), o.key)
	if err != nil {
		return err
	}
	o.ca, err = x509.ParseCertificate(raw)
	return err
}
