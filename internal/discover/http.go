package discover

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// maxSecret is the longest password or token in a file, in bytes.
const maxSecret = 4096

// errStatus is an answer that is none of success.
type errStatus struct {
	code int
	text string
}

func (e *errStatus) Error() string { return fmt.Sprintf("status %d: %s", e.code, e.text) }

// caller speaks JSON by HTTP with one of several equal servers: with the one that answered last as long as it does.
// It follows no redirect and heeds no proxy: what is asked was named by a person.
type caller struct {
	client *http.Client
	bases  []string // http://HOST:PORT
	at     int
}

// newCaller makes one; files are those for TLS.
func newCaller(scheme string, s spec) (*caller, error) {
	c := &caller{}
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSHandshakeTimeout: 3 * time.Second, MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}
	ca, cert, key := s.query.Get("ca"), s.query.Get("cert"), s.query.Get("key")
	switch {
	case scheme == "http" && ca+cert+key != "":
		return nil, errors.New("ca=, cert= and key= need TLS: consul+https:// or etcd+https://")
	case (cert == "") != (key == ""):
		return nil, errors.New("a certificate needs both: cert=FILE and key=FILE")
	}
	if scheme == "https" {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if ca != "" {
			pem, err := os.ReadFile(ca)
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			t.TLSClientConfig.RootCAs = x509.NewCertPool()
			if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("ca: no certificate in %s", ca)
			}
		}
		if cert != "" {
			t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(cert, key) // each time: they are renewed
				return &pair, err
			}
		}
	}
	c.client = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, h := range s.hosts {
		c.bases = append(c.bases, scheme+"://"+h)
	}
	return c, nil
}

// tryTime is how long one server has to answer.
const tryTime = 4 * time.Second

// call asks the servers in turn until one answers at all. header may be nil; body nil: nothing is sent. A status that is not
// success is an *errStatus.
func (c *caller) call(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	var first error
	for range c.bases {
		b, err := c.once(ctx, c.bases[c.at], method, path, header, body)
		var status *errStatus
		if err == nil || errors.As(err, &status) && status.code < 500 {
			return b, err
		}
		if first == nil {
			first = err
		}
		c.at = (c.at + 1) % len(c.bases)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

func (c *caller) once(ctx context.Context, base, method, path string, header http.Header, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(r.Header, header)
	resp, err := c.client.Do(r)
	if err != nil {
		return nil, unreached(base, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, unreached(base, err)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, fault("name the server that it points to", "%s sends elsewhere (%s), and redirects are not followed", base, shown(resp.Header.Get("Location")))
	case resp.StatusCode != http.StatusOK:
		return nil, &errStatus{resp.StatusCode, shown(strings.TrimSpace(string(b)))}
	case len(b) > maxAnswer:
		return nil, fault("another name, perhaps: nothing but hosts of weft belongs there", "%s answers with more than %d bytes", base, maxAnswer)
	}
	return b, nil
}

// unreached says in one sentence that a server does not answer, without the request that it did not answer.
func unreached(base string, err error) error {
	var ne net.Error
	var unknown x509.UnknownAuthorityError
	hint := "is it up, and its port open to this host?"
	why := err.Error()
	if i := strings.LastIndex(why, `": `); i >= 0 {
		why = why[i+3:]
	}
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		why = "no answer"
	case errors.As(err, &unknown):
		hint = "name the file with its authority's certificate: ca=FILE"
	}
	return fault(hint, "%s is not reached: %s", base, printable(why))
}

// printable is shown without quotes.
func printable(s string) string {
	s = shown(s)
	return strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`)
}

// decode reads an answer in JSON; who says what ought to have answered.
func decode(who string, b []byte, into any) error {
	if err := json.Unmarshal(b, into); err != nil {
		return fault("is it "+who+" that listens there?", "what answers is not %s: %s", who, shown(string(b[:min(len(b), 60)])))
	}
	return nil
}

// secret reads what is in a file, a line.
func secret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fault("the file must be there, for root to read", "%v", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	text := strings.TrimSpace(string(b))
	if err != nil || text == "" || len(b) > maxSecret || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fault("put the secret there, on one line", "%s: want a line of at most %d bytes", file, maxSecret)
	}
	return text, nil
}

func (c *caller) Close() error {
	c.client.CloseIdleConnections()
	return nil
}
