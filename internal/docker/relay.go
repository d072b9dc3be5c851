package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// Swarm takes no driver that is a socket of a host's, but one that Docker starts itself (a managed plugin). Relay is all that such a
// plugin has to be: it hands each call to the daemon of its host. It knows nothing, so it may be older than the daemon, and end at any time.

const (
	// relayTime bounds a call, the time for which a daemon is waited for included. Docker gives a plugin 30 s unless told otherwise
	// (docker plugin enable --timeout).
	relayTime = 25 * time.Second
	// relayPause is how long a daemon that does not answer is left alone.
	relayPause = 100 * time.Millisecond
	// maxAnswer bounds what a daemon answers, in bytes.
	maxAnswer = 1 << 20
)

// Relay hands Docker's calls to the plugin of a daemon.
type Relay struct {
	host string // the daemon's socket, as people know it
	log  *slog.Logger
	http http.Client
}

// NewRelay makes one for the socket of a daemon's plugin. host is the path by which people know it, for errors: a managed plugin
// has file systems of its own.
func NewRelay(socket, host string, log *slog.Logger) *Relay {
	var d net.Dialer
	return &Relay{host: host, log: log, http: http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		DisableKeepAlives: true, // the daemon closes each, and another one may go on with its socket
	}}}
}

// ServeHTTP answers Docker.
func (r *Relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Content-Type", contentType)
	if q.Method != http.MethodPost {
		write(w, http.StatusMethodNotAllowed, map[string]string{"Err": postOnly})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		write(w, http.StatusRequestEntityTooLarge, map[string]string{"Err": cutShort})
		return
	}
	name := strings.TrimPrefix(q.URL.Path, "/")
	if v, ok := fixed[name]; ok { // Docker asks for these when it starts, and does without the plugin if it gets none
		write(w, http.StatusOK, v)
		return
	}
	ctx, cancel := context.WithTimeout(q.Context(), relayTime)
	defer cancel()
	status, answer, err := r.hand(ctx, name, body)
	if err != nil {
		r.log.Warn("docker's call failed", "call", name, "err", err)
		write(w, http.StatusOK, failure(name, err))
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer) // whoever asked may have gone
}

// hand makes one call, again and again until the daemon has answered: one that it did answer, and that was lost, does no harm.
func (r *Relay) hand(ctx context.Context, name string, body []byte) (status int, answer []byte, err error) {
	why := errors.New("no answer")
	for {
		status, answer, err = r.post(ctx, name, body)
		switch {
		case err == nil && status != http.StatusServiceUnavailable:
			return status, answer, nil
		case err != nil && ctx.Err() == nil:
			why = err
		}
		pause := time.NewTimer(relayPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return 0, nil, fmt.Errorf("weft on this host has not answered at %s for %v (%w): weft status there says how it is; systemctl start weft, or weft up, starts it",
				r.host, relayTime, why)
		}
	}
}

func (r *Relay) post(ctx context.Context, name string, body []byte) (int, []byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://weft/"+name, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	a, err := r.http.Do(q)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) { // without the path, which is the plugin's own
			err = op.Err
		}
		return 0, nil, err
	}
	defer a.Body.Close()
	out, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	return a.StatusCode, out, err
}

// Serve answers calls until ctx ends; it closes l.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error { return serve(ctx, l, r, r.log) }
