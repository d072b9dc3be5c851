package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/rig"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign writes NAME.pem and NAME-key.pem.
func (a *authority) sign(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	by, byKey := a.cert, a.key
	if by == nil {
		by, byKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), byKey)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + "-key.pem": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return out, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// TestDockerProxy: what is created through the proxy is in weft's network, too, on two hosts, and finds each other by name; all else is as with
// Docker itself: input, output, exit codes, logs that are followed. Over TCP only those with a certificate are answered.
func TestDockerProxy(t *testing.T) {
	e := engines(t, 2)
	docker := func(x engine, args ...string) rig.Result {
		t.Helper()
		return x.Exec(append([]string{"docker", "-H", "unix://" + filepath.Join(x.RunDir(), "proxy.sock")}, args...)...)
	}
	must := func(x engine, args ...string) string {
		t.Helper()
		r := docker(x, args...)
		if r.Code != 0 {
			t.Fatalf("%s: docker %q: %d %s%s", x.Name, args, r.Code, r.Stdout, r.Stderr)
		}
		return strings.TrimSpace(r.Stdout)
	}
	for _, x := range e {
		x.Host.Setenv("DOCKER_HOST=" + x.Where())
		p := x.StartWeft("docker", "proxy", "-H", "unix://"+filepath.Join(x.RunDir(), "proxy.sock"))
		p.ExpectLine("is attached to network weft", 10*time.Second)
	}
	must(e[0], "run", "-d", "--init=false", "--name", "web", rig.DockerImage, "sleep", "1000000")
	must(e[1], "run", "-d", "--init=false", "--name", "ask", rig.DockerImage, "sleep", "1000000")
	web := e[0].addr("web", "weft", "IPAddress")
	if bridge := e[0].addr("web", "bridge", "IPAddress"); bridge == "" || web == "" {
		t.Errorf("web has %q in weft's network and %q in Docker's own", web, bridge)
	}
	e[1].pings(t, "ask", web)
	resolves(t, e[1], "ask", "web", web)

	// As with Docker itself.
	r := e[0].Exec("sh", "-c", "echo hello | docker -H unix://"+filepath.Join(e[0].RunDir(), "proxy.sock")+" run --rm -i --init=false "+rig.DockerImage+
		` sh -c 'cat; ip -4 -o addr show; exit 7'`)
	if r.Code != 7 || !strings.Contains(r.Stdout, "hello") || !strings.Contains(r.Stdout, " 10.32.") {
		t.Errorf("docker run -i: %d %s%s", r.Code, r.Stdout, r.Stderr)
	}
	must(e[0], "run", "-d", "--init=false", "--name", "talks", rig.DockerImage, "sh", "-c", "while true; do echo tick; sleep 1; done")
	logs := e[0].Start("docker", "-H", "unix://"+filepath.Join(e[0].RunDir(), "proxy.sock"), "logs", "-f", "talks")
	logs.ExpectLine("^tick$", 10*time.Second)
	logs.ExpectLine("^tick$", 10*time.Second)
	if out := must(e[0], "run", "--rm", "--network", "none", rig.DockerImage, "ip", "-o", "link"); strings.Contains(out, "weft") {
		t.Errorf("a container without a network: %s", out)
	}
	if r := docker(e[0], "run", "--rm", "no-such-image-here:1"); r.Code != 125 {
		t.Errorf("no image: %d %s%s", r.Code, r.Stdout, r.Stderr)
	}

	// What weft cannot give is not created.
	e[0].Host.Kill9()
	refused(t, docker(e[0], "run", "-d", "--name", "none", rig.DockerImage, "sleep", "1"), 125, "weft", "weft up")
	if out := e[0].Must("ps", "-a", "-q", "--filter", "name=none"); out != "" {
		t.Errorf("left: %s", out)
	}
	e[0].Restart()

	// Over TCP.
	ca := newAuthority(t)
	ca.sign("server", &x509.Certificate{IPAddresses: []net.IP{e[0].IP.AsSlice()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	ca.sign("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	at := fmt.Sprintf("tcp://%s:12375", e[0].IP)
	refused(t, e[0].Weft("docker", "proxy", "-H", at), 2, "is root on this host", "--insecure-tcp")
	p := e[0].StartWeft("docker", "proxy", "-H", at, "--tlscacert", ca.file("ca.pem"), "--tlscert", ca.file("server.pem"), "--tlskey", ca.file("server-key.pem"))
	p.ExpectLine("is attached to network weft", 10*time.Second)
	with := []string{"docker", "-H", at, "--tlsverify", "--tlscacert", ca.file("ca.pem"), "--tlscert", ca.file("client.pem"), "--tlskey", ca.file("client-key.pem")}
	if r := e[1].Exec(append(with, "run", "-d", "--init=false", "--name", "far", rig.DockerImage, "sleep", "1000000")...); r.Code != 0 {
		t.Errorf("with a certificate: %s%s", r.Stdout, r.Stderr)
	}
	e[1].pings(t, "ask", e[0].addr("far", "weft", "IPAddress"))
	other := newAuthority(t)
	other.sign("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	for name, args := range map[string][]string{
		"plain":             {"docker", "-H", at, "version"},
		"no certificate":    {"docker", "-H", at, "--tls", "version"},
		"another authority": {"docker", "-H", at, "--tlsverify", "--tlscacert", ca.file("ca.pem"), "--tlscert", other.file("client.pem"), "--tlskey", other.file("client-key.pem"), "version"},
	} {
		if r := e[1].Exec(args...); r.Code == 0 || strings.Contains(r.Stdout, "Server:") {
			t.Errorf("%s: %d %s%s", name, r.Code, r.Stdout, r.Stderr)
		}
	}
}
