package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/store"
)

// Files in the state directory.
const (
	fileIdentity = "identity"
	fileOwn      = "own"    // own blocks of the state tables
	fileOthers   = "others" // a copy of other hosts' blocks: who they are, where to find them
	fileAttach   = "attachments"
	fileDocker   = "docker" // which of Docker's networks, addresses and endpoints is which
	fileSwarm    = "swarm"  // where Docker is that follows the cluster's wishes for a Swarm
)

// identity is who this host is; written once, when it founds or joins.
type identity struct {
	Keys    []byte          `cbor:"1,keyasint"`
	Cluster ident.ClusterID `cbor:"2,keyasint"`
	Secret  ident.Secret    `cbor:"3,keyasint"` // of the token it came with
	Name    string          `cbor:"4,keyasint"`
	Founder bool            `cbor:"5,keyasint,omitempty"`
	Seeds   []string        `cbor:"6,keyasint,omitempty"`
	// Founding stays until the cluster's first records are on disk. Nobody has the token before.
	Founding bool `cbor:"7,keyasint,omitempty"`
	// Discover are the sources by which it finds others, as people write them.
	Discover []string `cbor:"8,keyasint,omitempty"`
	// Ephemeral: this host comes and goes, and owns no addresses. It is so from its first start on.
	Ephemeral bool `cbor:"9,keyasint,omitempty"`
}

func loadIdentity(dir store.Dir) (identity, ident.Keys, error) {
	var id identity
	b, err := dir.Load(fileIdentity)
	if err != nil {
		return id, ident.Keys{}, err
	}
	if err := decode("identity", b, &id); err != nil {
		return id, ident.Keys{}, fmt.Errorf("state file %s: %w", fileIdentity, err)
	}
	keys, err := ident.KeysFromSeed(id.Keys)
	if err != nil {
		return id, ident.Keys{}, fmt.Errorf("state file %s: %w", fileIdentity, err)
	}
	return id, keys, nil
}

// usage marks errors of how weft was called: exit code 2.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// IsUsage reports whether an error is about how weft was called.
func IsUsage(err error) bool {
	var u usage
	return errors.As(err, &u)
}

// settle decides who this host is: it resumes, founds or joins. fresh says that the identity is
// new or changed and must be saved once everything else has proved possible. Seeds and sources that are not given stay as they were.
func settle(dir store.Dir, cfg config.Up, token *ident.Token) (id identity, keys ident.Keys, fresh bool, err error) {
	name, seeds, discover := cfg.Name, cfg.Seeds, cfg.Discover
	id, keys, err = loadIdentity(dir)
	switch {
	case err == nil:
		if token != nil && token.Cluster != id.Cluster {
			return id, keys, false, fmt.Errorf("this host belongs to cluster %s, the token to cluster %s: leave the one first (weft down --leave), or use another --state-dir", id.Cluster, token.Cluster)
		}
		if cfg.Ephemeral && !id.Ephemeral {
			return id, keys, false, usage{errors.New("--ephemeral: this host is in the cluster as one that stays, and owns addresses: weft down --leave gives them back, then join with --ephemeral")}
		}
		if name != "" && name != id.Name {
			id.Name, fresh = name, true
		}
		if len(seeds) > 0 && !slices.Equal(seeds, id.Seeds) {
			id.Seeds, fresh = seeds, true
		}
		if next := withoutOff(discover); len(discover) > 0 && !slices.Equal(next, id.Discover) {
			id.Discover, fresh = next, true
		}
		if token != nil && token.Secret != id.Secret {
			id.Secret, fresh = token.Secret, true // rotated since a join that did not succeed
		}
		return id, keys, fresh, nil
	case !errors.Is(err, fs.ErrNotExist):
		return id, keys, false, err
	case token == nil && len(seeds) > 0:
		return id, keys, false, usage{fmt.Errorf("joining %s needs the cluster's token (`weft token` on one of its hosts): give --token-file FILE, WEFT_TOKEN or --token", seeds[0])}
	case token != nil && len(seeds) == 0 && len(withoutOff(discover)) == 0:
		return id, keys, false, usage{errors.New("a token, but no host to join: weft up HOST... --token T, or --discover SOURCE")}
	}
	founder := token == nil
	if founder && cfg.Ephemeral {
		return id, keys, false, usage{errors.New("--ephemeral: this host would found a cluster, which takes one that stays: leave it out here, or name a host to join and give the token")}
	}
	if founder {
		t := ident.NewToken()
		token = &t
	}
	if name == "" {
		if name, err = hostname(); err != nil {
			return id, keys, false, usage{err}
		}
	}
	if keys, err = ident.NewKeys(); err != nil {
		return id, keys, false, err
	}
	id = identity{Keys: keys.Seed(), Cluster: token.Cluster, Secret: token.Secret, Name: name, Founder: founder, Founding: founder, Ephemeral: cfg.Ephemeral, Seeds: seeds, Discover: withoutOff(discover)}
	return id, keys, true, nil
}

// withoutOff is what is left of a setting that may say off, alone.
func withoutOff(sources []string) []string {
	if slices.Equal(sources, []string{"off"}) {
		return nil
	}
	return sources
}

// hostname returns the machine's name, as a host of weft may be called.
func hostname() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("own name: %w (give --name)", err)
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	if err := ident.CheckName("hostname", name); err != nil {
		return "", fmt.Errorf("%w; give --name", err)
	}
	return name, nil
}
