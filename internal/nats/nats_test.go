package nats

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/weft-net/weft/internal/broker"
)

const soon = 5 * time.Second

// serve runs a server and returns where.
func serve(t testing.TB, cfg Config) (*Server, string) {
	t.Helper()
	if cfg.Broker == nil {
		cfg.Broker = broker.New()
	}
	cfg.Name, cfg.Version = "h1", "v0"
	l, err := Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	s := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if st := s.Status(); st.Connections != 0 || st.Pending != 0 {
			t.Errorf("left: %+v", st)
		}
		if n := cfg.Broker.Stats().Subscriptions; n != 0 {
			t.Errorf("%d subscriptions left", n)
		}
	})
	return s, l.Addr().String()
}

// raw is a client that speaks the protocol by hand.
type raw struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func dial(t testing.TB, addr string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(4 * soon))
	r := &raw{t, c, bufio.NewReader(c)}
	r.expect("INFO {")
	return r
}

func (r *raw) send(text string) {
	r.t.Helper()
	if _, err := io.WriteString(r, text); err != nil {
		r.t.Fatal(err)
	}
}

// expect reads a line that begins so.
func (r *raw) expect(begin string) string {
	r.t.Helper()
	line, err := r.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, begin) {
		r.t.Fatalf("%q, %v; want %q", line, err, begin)
	}
	return line
}

func (r *raw) ended() {
	r.t.Helper()
	if b, err := io.ReadAll(r.in); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		r.t.Errorf("%q, %v; want the end", b, err)
	}
}

const hello = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n"

// What a client sends, and what it gets, as text.
func TestProtocol(t *testing.T) {
	for name, c := range map[string]struct{ in, out string }{
		"ping":            {hello + "PING\r\n", "PONG\r\n"},
		"verbose":         {"CONNECT {\"verbose\":true}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPING\r\n", "+OK\r\n+OK\r\nMSG a 1 1\r\nx\r\n+OK\r\n+OK\r\nPONG\r\n"},
		"before connect":  {"PING\r\nSUB a 1\r\nPING\r\n", "PONG\r\n+OK\r\nPONG\r\n"},
		"echo":            {hello + "SUB a.* 1\r\nSUB a.> q 2\r\nPUB a.b 2\r\nhi\r\n", "MSG a.b 1 2\r\nhi\r\nMSG a.b 2 2\r\nhi\r\n"},
		"no echo":         {"CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n", "PONG\r\n"},
		"reply":           {hello + "SUB a 1\r\nPUB a in.box 0\r\n\r\n", "MSG a 1 in.box 0\r\n\r\n"},
		"headers":         {hello + "SUB a 1\r\nHPUB a 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n", "HMSG a 1 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n"},
		"no headers":      {"CONNECT {\"verbose\":false}\r\nSUB a 1\r\nHPUB a 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n", "MSG a 1 2\r\nhi\r\n"},
		"no responders":   {hello + "SUB in.* 7\r\nPUB nobody in.1 0\r\n\r\n", "HMSG in.1 7 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"},
		"unsub max":       {hello + "SUB a 1\r\nUNSUB 1 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\nPING\r\n", "MSG a 1 1\r\n1\r\nMSG a 1 1\r\n2\r\nPONG\r\n"},
		"unsub max late":  {hello + "SUB a 1\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nUNSUB 1 2\r\nPUB a 1\r\n3\r\nPING\r\n", "MSG a 1 1\r\n1\r\nMSG a 1 1\r\n2\r\nPONG\r\n"},
		"same sid twice":  {hello + "SUB a 1\r\nSUB b 1\r\nPUB b 0\r\n\r\nPUB a 0\r\n\r\n", "MSG a 1 0\r\n\r\n"},
		"bad subject":     {hello + "PUB a.* 0\r\n\r\nSUB a..b 1\r\nPING\r\n", "-ERR 'Invalid Publish Subject'\r\n-ERR 'Invalid Subject'\r\nPONG\r\n"},
		"reserved":        {hello + "PUB $WEFT.interest 0\r\n\r\nPING\r\n", "-ERR 'Permissions Violation for Publish to \"$WEFT.interest\"'\r\nPONG\r\n"},
		"unknown":         {hello + "GET / HTTP/1.1\r\n", "-ERR 'Unknown Protocol Operation'\r\n"},
		"payload":         {hello + "PUB a 1048577\r\n", "-ERR 'Maximum Payload Violation'\r\n"},
		"control line":    {hello + "SUB " + strings.Repeat("a", 4200), "-ERR 'maximum control line exceeded'\r\n"},
		"size":            {hello + "PUB a b c d\r\n", "-ERR 'Parser Error'\r\n"},
		"options":         {"CONNECT nonsense\r\n", "-ERR 'Parser Error'\r\n"},
		"needs headers":   {"CONNECT {\"no_responders\":true}\r\n", "-ERR 'no responders requires headers to be enabled'\r\n"},
		"unsub of nobody": {hello + "UNSUB 99\r\nPING\r\n", "PONG\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := serve(t, Config{})
			r := dial(t, addr)
			r.send(c.in)
			got := make([]byte, len(c.out))
			if n, err := io.ReadFull(r.in, got); err != nil || string(got) != c.out {
				t.Fatalf("%q, %v; want %q", got[:n], err, c.out)
			}
			if strings.HasSuffix(c.out, "PONG\r\n") || !strings.HasPrefix(c.out, "-ERR") {
				r.send("PING\r\n")
				r.expect("PONG")
				return
			}
			r.ended()
		})
	}
}

func TestToken(t *testing.T) {
	s, addr := serve(t, Config{Token: "secret"})
	for _, in := range []string{"PING\r\n", "SUB a 1\r\n", "PUB a 100\r\n", "CONNECT {\"auth_token\":\"wrong\"}\r\n", "CONNECT {}\r\n", "CONNECT {\"user\":\"secret\"}\r\n"} {
		r := dial(t, addr)
		r.send(in)
		r.expect("-ERR 'Authorization Violation'")
		r.ended()
	}
	if n := s.Drops()["authorization"]; n != 6 {
		t.Errorf("%d counted", n)
	}
	r := dial(t, addr) // says nothing
	r.expect("-ERR 'Authentication Timeout'")
	r = dial(t, addr)
	r.send("CONNECT {\"auth_token\":\"secret\",\"verbose\":false}\r\nPING\r\n")
	r.expect("PONG")
}

// A client that reads nothing is told and disconnected; the others get everything.
func TestSlowConsumer(t *testing.T) {
	s, addr := serve(t, Config{MaxPending: 1 << 20})
	slow := dial(t, addr)
	slow.send(hello + "SUB a 1\r\nPING\r\n")
	slow.expect("PONG")
	good, err := client.Connect("nats://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	sub, err := good.SubscribeSync("a")
	if err != nil || good.Flush() != nil {
		t.Fatal(err)
	}
	pub, err := client.Connect("nats://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer pub.Close()
	payload := make([]byte, 16<<10)
	sent := 0
	for begin := time.Now(); s.Drops()["slow_consumer"] == 0; sent++ {
		if time.Since(begin) > 2*soon {
			t.Fatal("not disconnected")
		}
		if err := errors.Join(pub.Publish("a", payload), pub.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	for range sent {
		if _, err := sub.NextMsg(soon); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Drops()["unread_message"]; n == 0 {
		t.Error("what it did not read is not counted")
	}
	all, err := io.ReadAll(slow.in)
	if !strings.HasSuffix(string(all), "\r\n-ERR 'Slow Consumer'\r\n") {
		t.Errorf("%v, %d bytes, ending in %q", err, len(all), all[max(0, len(all)-60):])
	}
}

// connect makes clients of nats.go.
func connect(t *testing.T, addr string, options ...client.Option) *client.Conn {
	t.Helper()
	c, err := client.Connect("nats://"+addr, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRequestReply(t *testing.T) {
	_, addr := serve(t, Config{})
	a, b := connect(t, addr), connect(t, addr)
	old := connect(t, addr, client.UseOldRequestStyle())
	if _, err := a.Request("help", []byte("?"), soon); !errors.Is(err, client.ErrNoResponders) {
		t.Errorf("%v", err)
	}
	if _, err := old.Request("help", []byte("?"), soon); !errors.Is(err, client.ErrNoResponders) {
		t.Errorf("old style: %v", err)
	}
	if _, err := b.QueueSubscribe("help", "helpers", func(m *client.Msg) {
		out := client.NewMsg("")
		out.Header.Set("By", "b")
		out.Data = append([]byte("re: "), m.Data...)
		_ = m.RespondMsg(out)
	}); err != nil || b.Flush() != nil {
		t.Fatal(err)
	}
	for _, c := range []*client.Conn{a, old} {
		m, err := c.Request("help", []byte("me"), soon)
		if err != nil || string(m.Data) != "re: me" || m.Header.Get("By") != "b" {
			t.Errorf("%v %v", m, err)
		}
	}
	js, err := a.JetStream()
	if err == nil {
		_, err = js.AddStream(&client.StreamConfig{Name: "x"})
	}
	if !errors.Is(err, client.ErrJetStreamNotEnabled) && !errors.Is(err, client.ErrNoResponders) {
		t.Errorf("JetStream: %v", err)
	}
}

func TestQueueAndDrain(t *testing.T) {
	_, addr := serve(t, Config{})
	var mu sync.Mutex
	got := map[string]int{}
	var workers []*client.Conn
	for i := range 3 {
		c := connect(t, addr)
		if _, err := c.QueueSubscribe("job.>", "w", func(*client.Msg) {
			mu.Lock()
			got[fmt.Sprint(i)]++
			mu.Unlock()
		}); err != nil || c.Flush() != nil {
			t.Fatal(err)
		}
		workers = append(workers, c)
	}
	pub := connect(t, addr)
	const n = 3000
	for range n {
		if err := pub.Publish("job.1", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, c := range workers { // drained, each has what was sent to it
		if err := c.Drain(); err != nil {
			t.Fatal(err)
		}
	}
	for begin := time.Now(); slices.ContainsFunc(workers, func(c *client.Conn) bool { return !c.IsClosed() }); {
		if time.Since(begin) > soon {
			t.Fatal("not drained")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	sum := 0
	for i, k := range got {
		if sum += k; k < n/6 {
			t.Errorf("worker %s got %d of %d", i, k, n)
		}
	}
	if sum != n {
		t.Errorf("%d of %d", sum, n)
	}
}

// Long messages, many messages, on a socket of the file system.
func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "nats") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "nats.sock")
	l, err := Listen("unix:"+path, "root")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if _, err := Listen("unix:"+path, "root"); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a second listener: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- New(Config{Broker: broker.New()}).Serve(ctx, l) }()
	c := connect(t, "socket", client.SetCustomDialer(unixDialer(path)))
	sub, err := c.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 1<<20)
	_, _ = rand.Read(large)
	for i := range 20 {
		if err := c.Publish("large", large[:len(large)-i*40_000]); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(soon)
		if err != nil || string(m.Data) != string(large[:len(large)-i*40_000]) {
			t.Fatal(i, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:"+path, "root"); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
}

type unixDialer string

func (u unixDialer) Dial(string, string) (net.Conn, error) { return net.Dial("unix", string(u)) }

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	s, addr := serve(t, Config{Token: "s3", TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}})
	c := connect(t, addr, client.Secure(&tls.Config{RootCAs: roots}), client.Token("s3"))
	sub, err := c.SubscribeSync("a")
	if err != nil || c.Publish("a", []byte("sealed")) != nil {
		t.Fatal(err)
	}
	if m, err := sub.NextMsg(soon); err != nil || string(m.Data) != "sealed" {
		t.Error(m, err)
	}
	r := dial(t, addr)
	r.send("CONNECT {\"auth_token\":\"s3\"}\r\nPING\r\n")
	_, _ = io.ReadAll(r.in)
	for begin := time.Now(); s.Drops()["tls"] == 0; {
		if time.Since(begin) > soon {
			t.Fatal("spoke no TLS, and is not counted")
		}
	}
}

func TestAddresses(t *testing.T) {
	for addr, want := range map[string]struct{ ok, exposed bool }{
		"127.0.0.1:4222": {true, false}, "[::1]:4222": {true, false}, "10.0.0.1:4222": {true, true}, "0.0.0.0:4222": {true, true},
		"unix:/run/weft/nats.sock": {true, false}, "unix:nats.sock": {false, false}, "unix:/" + strings.Repeat("d", 90) + "/s": {false, false}, "localhost:4222": {false, false}, ":4222": {false, false}, "": {false, false},
	} {
		if err := CheckAddr(addr); (err == nil) != want.ok || Exposed(addr) != want.exposed {
			t.Errorf("%q: %v, exposed %v", addr, err, Exposed(addr))
		}
	}
}
