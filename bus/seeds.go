package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/ident"
)

// MaxSeeds bounds the seeds of a member, those of Config among them.
const MaxSeeds = 256

// seedLookup is how long a name of a seed is looked up, seedAgain and seedSoon how often: sooner while one is not found.
const (
	seedLookup = 10 * time.Second
	seedAgain  = time.Minute
	seedSoon   = 2 * time.Second
)

func splitSeed(s string) (host string, port int, err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String(), SeedPort, nil
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		if s == "" {
			return "", 0, errors.New("an empty seed")
		}
		return s, SeedPort, nil //nolint:nilerr // a name without a port
	}
	if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 || host == "" {
		return "", 0, fmt.Errorf("seed %q: want HOST or HOST:PORT", s)
	}
	return host, port, nil
}

// AddSeed has one more member asked for others, as if it were in Config.Seeds: from now on for as long as this process is a member.
// One that is known already is no error. It returns at once. Errors: ErrConfig for what is no seed and for more than MaxSeeds, ErrClosed.
func (b *Bus) AddSeed(seed string) error {
	if _, _, err := splitSeed(seed); err != nil {
		return fmt.Errorf("%w: AddSeed: %w", ErrConfig, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return ErrClosed
	case slices.Contains(b.seeds, seed):
		return nil
	case len(b.seeds) >= MaxSeeds:
		return fmt.Errorf("%w: AddSeed: at most %d seeds", ErrConfig, MaxSeeds)
	}
	b.seeds = append(b.seeds, seed)
	select {
	case b.seeded <- struct{}{}:
	default:
	}
	return nil
}

// Accept replaces the tokens that members may have beside this one's own (Config.Accept), while the bus runs. Members that are
// here under a token that is not accepted any more stay until they leave; newcomers under it get no answer. This member's own token
// is what it joined with until it joins anew.
func (b *Bus) Accept(tokens ...string) error {
	keys, err := b.cfg.keys(tokens)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.node.SetKeys(keys)
	if b.edges != nil {
		return b.edges.SetKeys(keys)
	}
	return nil
}

// keys returns the keys of the bus's token and of others that are accepted.
func (c *Config) keys(accept []string) (keys []*buskey.Bus, err error) {
	if len(accept) > 7 {
		return nil, fmt.Errorf("%w: Accept: at most 7 tokens", ErrConfig)
	}
	for i, t := range append([]string{c.Token}, accept...) {
		tok, err := ident.ParseToken(t)
		if err != nil {
			what := "Token"
			if i > 0 {
				what = "Accept"
			}
			return nil, fmt.Errorf("%w: %s: %w; NewToken makes one", ErrConfig, what, err)
		}
		k, err := buskey.New(tok, c.Name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// seek looks names of seeds up, when they are told, and every minute, or sooner while one is not found.
func (b *Bus) seek(ctx context.Context) {
	for {
		b.mu.Lock()
		seeds := slices.Clone(b.seeds)
		b.mu.Unlock()
		again := seedAgain
		for _, s := range seeds {
			host, port, err := splitSeed(s)
			if err != nil {
				continue
			}
			look, cancel := context.WithTimeout(ctx, seedLookup)
			addrs, err := net.DefaultResolver.LookupNetIP(look, "ip", host)
			cancel()
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				b.log.Warn("seed not found", "seed", s, "error", err)
				again = seedSoon
				continue
			}
			now := time.Now()
			b.mu.Lock()
			for _, a := range addrs {
				b.node.AddSeed(now, netip.AddrPortFrom(a.Unmap(), uint16(port)))
			}
			b.mu.Unlock()
			b.wake()
		}
		wait := time.NewTimer(again)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		case <-b.seeded:
			wait.Stop()
		}
	}
}
