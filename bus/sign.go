package bus

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/weft-net/weft/internal/buskey"
	"github.com/weft-net/weft/internal/rmcast"
)

// MaxTrust is how many keys Config.Trust names at most.
const MaxTrust = 1024

// identity is what this process signs with; nil: nothing. Each call makes another, for the epoch of a process must be its alone.
func (c *Config) identity(k *buskey.Bus) (*buskey.Identity, error) {
	if c.Sign == nil {
		return nil, nil
	}
	var salt [buskey.SaltSize]byte
	_, _ = rand.Read(salt[:]) // never fails (Go 1.24)
	id, err := k.Identity(c.Sign, salt)
	if err != nil {
		return nil, fmt.Errorf("%w: Sign: %w", ErrConfig, err)
	}
	return id, nil
}

// checkTrust refuses what are no keys. A list that came out empty is no wish to trust everybody.
func (c *Config) checkTrust() error {
	var err error
	switch {
	case c.Trust != nil && len(c.Trust) == 0:
		err = errors.New("no key: name one, or leave it nil to take everybody's messages")
	case len(c.Trust) > MaxTrust:
		err = fmt.Errorf("%d keys, at most %d", len(c.Trust), MaxTrust)
	}
	for i, k := range c.Trust {
		if len(k) != ed25519.PublicKeySize {
			err = fmt.Errorf("key %d has %d bytes, an Ed25519 public key has %d", i, len(k), ed25519.PublicKeySize)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: Trust: %w", ErrConfig, err)
	}
	return nil
}

// takes says whose messages are taken; nil: everybody's.
func (c *Config) takes() func(rmcast.Member) bool {
	if c.Trust == nil && !c.RequireSigned {
		return nil
	}
	trusted := map[buskey.Public]bool{}
	for _, k := range c.Trust {
		trusted[buskey.Public(k)] = true
	}
	return func(m rmcast.Member) bool { return m.Signs && (len(trusted) == 0 || trusted[m.Key]) }
}
