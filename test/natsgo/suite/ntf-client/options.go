package testservice

import (
	"crypto/tls"
	"errors"
	"regexp"
	"strings"
	"time"
)

// options are what a test wants of a server.
type options struct {
	needs string // what weft's listener does not have
	token string // clients must show it
	tls   bool
	sans  []string
}

// CreateOption is one wish.
type CreateOption func(*options)

// wants makes an option of a snippet of nats-server's configuration. One of comments only wants nothing.
func wants(what, body string) CreateOption {
	return func(o *options) {
		for line := range strings.Lines(body) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				o.needs = what + ": " + line
				return
			}
		}
	}
}

var tokenOnly = regexp.MustCompile(`^\s*authorization:?\s*\{\s*token:\s*"([^"]+)"\s*\}\s*$`)

// WithAuthorization wants a token, which weft has, or users, or what these may do.
func WithAuthorization(body string) CreateOption {
	if m := tokenOnly.FindStringSubmatch(body); m != nil {
		return func(o *options) { o.token = m[1] }
	}
	return wants("authorization", body)
}

// WithAccounts wants accounts.
func WithAccounts(body string) CreateOption { return wants("accounts", body) }

// WithSystemAccount wants one.
func WithSystemAccount(body string) CreateOption { return wants("a system account", body) }

// WithJetStream wants it.
func WithJetStream(body string) CreateOption { return wants("JetStream", body) }

// WithWebSocket wants a second listener.
func WithWebSocket(body string) CreateOption { return wants("a WebSocket listener", body) }

// WithLeafNode wants one.
func WithLeafNode(body string) CreateOption { return wants("leaf nodes", body) }

// WithTopLevel wants something of nats-server's configuration.
func WithTopLevel(body string) CreateOption { return wants("a configuration of nats-server", body) }

// WithTLSTimeout wants another than weft's.
func WithTLSTimeout(d time.Duration) CreateOption { return wants("a time for TLS", d.String()) }

// TLSOpt is one wish about TLS.
type TLSOpt func(*tlsOptions)

type tlsOptions struct {
	serverOnly bool
	needs      string
	sans       []string
}

// WithGeneratedTLS wants TLS, with certificates of clients unless TLSServerOnly is among the wishes.
func WithGeneratedTLS(opts ...TLSOpt) CreateOption {
	return func(o *options) {
		t := tlsOptions{}
		for _, opt := range opts {
			opt(&t)
		}
		o.tls, o.sans = true, t.sans
		switch {
		case t.needs != "":
			o.needs = t.needs
		case !t.serverOnly:
			o.needs = "certificates of clients"
		}
	}
}

// TLSServerOnly wants no certificates of clients.
func TLSServerOnly() TLSOpt { return func(t *tlsOptions) { t.serverOnly = true } }

// TLSMutual wants them.
func TLSMutual() TLSOpt { return func(t *tlsOptions) { t.serverOnly = false } }

// TLSSANs says for which names.
func TLSSANs(names ...string) TLSOpt { return func(t *tlsOptions) { t.sans = names } }

// TLSHandshakeFirst wants TLS before the first line.
func TLSHandshakeFirst() TLSOpt { return func(t *tlsOptions) { t.needs = "TLS before INFO" } }

// TLSTimeout wants another than weft's.
func TLSTimeout(time.Duration) TLSOpt { return func(t *tlsOptions) { t.needs = "a time for TLS" } }

// TLSConfig is for clients that show certificates.
func TLSConfig(*Instance) (*tls.Config, error) {
	return nil, errors.New("needs certificates of clients")
}
