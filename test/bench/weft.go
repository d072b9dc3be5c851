package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// weft runs a daemon per host, and programs in a namespace of their own that is attached.
type weft struct {
	plain     bool
	multicast bool // native multicast on the underlay, which the bench's bridge carries as few networks do
	token     string
}

const plainNetwork = "bench"

func (f *weft) add(ctx context.Context, w *world, h *host) error {
	bin, err := weftBinary()
	if err != nil {
		return err
	}
	env := []string{"WEFT_RUN_DIR=" + filepath.Join(h.dir, "run"), "WEFT_STATE_DIR=" + filepath.Join(h.dir, "state")}
	for _, d := range []string{"run", "state"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o700); err != nil {
			return err
		}
	}
	up := []string{bin, "up", "--name", fmt.Sprintf("h%d", h.n)}
	if h.n > 1 {
		up = append(up, w.hosts[0].ip.String())
		if err := h.daemon(append(env, "WEFT_TOKEN="+f.token), up...); err != nil {
			return err
		}
	} else {
		if !f.multicast {
			up = append(up, "--underlay-group", "off")
		}
		if err := h.daemon(env, up...); err != nil {
			return err
		}
		if f.token, err = h.daemons[0].line(ctx, "weft1", 15*time.Second); err != nil {
			return err
		}
	}
	do := func(args ...string) (string, error) {
		return execute(ctx, env, append([]string{"ip", "netns", "exec", h.ns, bin}, args...)...)
	}
	network := "weft"
	if f.plain {
		if network = plainNetwork; h.n == 1 {
			if err := makePlain(ctx, h, do); err != nil {
				return err
			}
		}
	}
	h.inside = h.ns + "-in"
	if err := w.namespace(ctx, h.inside); err != nil {
		return err
	}
	return await(ctx, 20*time.Second, func() error {
		if err := h.daemons[0].ended(); err != nil {
			return err
		}
		out, err := do("attach", "--json", "--network", network, "--netns", "/run/netns/"+h.inside, "--name", fmt.Sprintf("a%d", h.n))
		if err != nil {
			return err
		}
		h.dev = "weft0"
		h.addr, err = parseAttachment([]byte(out))
		return err
	})
}

// settle sends a little to the group until the sender has found its way to the receivers: hosts listen for each other's
// multicast for some seconds, and a tree is set up once it is worth it.
func (f *weft) settle(ctx context.Context, s *stream) (trickle *process, err error) {
	n := len(s.receivers)
	if f.plain || n < 2 || !f.multicast && n <= 8 {
		return nil, nil
	}
	bin, err := weftBinary()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	beside := netip.AddrPortFrom(s.to.Addr(), s.to.Port()+1) // the same group, but not what receivers count
	trickle, err = start(s.from.inside, nil, self, "send", "--to", beside.String(), "--dev", s.from.dev, "--size", "64", "--pps", "100", "--time", "1h")
	if err != nil {
		return nil, err
	}
	return trickle, await(ctx, 60*time.Second, func() error {
		out, err := execute(ctx, []string{"WEFT_RUN_DIR=" + filepath.Join(s.from.dir, "run")}, "ip", "netns", "exec", s.from.ns, bin, "groups", "--json")
		if err != nil {
			return err
		}
		var all struct {
			Groups []struct {
				Group       string
				ByMulticast int `json:"by_multicast"`
				ByTree      int `json:"by_tree"`
			}
		}
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			return fmt.Errorf("weft groups: %w", err)
		}
		for _, g := range all.Groups {
			if g.Group == s.to.Addr().String() && (f.multicast && g.ByMulticast == n || !f.multicast && g.ByTree > 0) {
				return nil
			}
		}
		return fmt.Errorf("weft has not found its way to %d receivers: %.300s", n, out)
	})
}

// makePlain creates the network without encryption, once the daemon answers. A refusal is final.
func makePlain(ctx context.Context, h *host, do func(...string) (string, error)) error {
	err := await(ctx, 10*time.Second, func() error {
		_, err := do("networks")
		return errors.Join(err, h.daemons[0].ended())
	})
	if err != nil {
		return err
	}
	_, err = do("network", "create", plainNetwork, "--plain")
	return err
}

// parseAttachment returns the IPv4 address of what `weft attach --json` plugged in.
func parseAttachment(out []byte) (netip.Addr, error) {
	var at struct{ IPs []string }
	if err := json.Unmarshal(out, &at); err != nil {
		return netip.Addr{}, fmt.Errorf("weft attach: %w in %.80q", err, out)
	}
	for _, s := range at.IPs {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("weft attach: no IPv4 address in %.80q", out)
}

// weftBinary is WEFT_BIN or what `make build` made.
var weftBinary = sync.OnceValues(func() (string, error) {
	bin := os.Getenv("WEFT_BIN")
	if bin == "" {
		bin = filepath.Join("bin", "weft")
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err != nil {
		return "", fmt.Errorf("no weft to measure: %w (make bench builds it)", err)
	}
	return bin, nil
})

func weftVersion(ctx context.Context) (string, error) {
	bin, err := weftBinary()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, bin, "version").Output()
	if err != nil {
		return "", fmt.Errorf("weft version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if line == "" {
		return "", errors.New("weft version: it printed nothing")
	}
	return strings.TrimSpace(strings.TrimPrefix(line, "weft ")), nil
}
