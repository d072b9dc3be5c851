// Package discover finds the hosts of a cluster through what the cluster's machines already have: Consul, etcd, DNS, the local segment,
// a program, or Docker's Swarm.
//
// A source is asked for addresses and, where it can keep some, told this host's own. What it says is a hint and no more: hosts prove
// to each other that they are of one cluster by the handshake, whoever told them of one another. So a source that lies, falls silent
// or is lost costs at most a few packets to wrong addresses; hosts that have met need it no more. Nothing secret is ever in one.
package discover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weft-net/weft/internal/ident"
)

// Bounds.
const (
	// MaxSources is how many sources a host may have.
	MaxSources = 8
	// MaxFound is how many addresses are taken from one source.
	MaxFound = 256
	// MaxOwn is how many addresses of its own a host registers.
	MaxOwn = 8
	// maxAnswer is the longest answer of a source, in bytes.
	maxAnswer = 1 << 20
	// maxText is the longest text of a source that is shown to people, in bytes.
	maxText = 200
)

// Self is what a host says of itself.
type Self struct {
	ID    ident.HostID
	Addrs []netip.AddrPort // where others reach it, best first; at most MaxOwn
	Port  uint16           // where it listens
	// Looking says that it has reached nobody: others should answer soon, where the source is one of hosts that hear each other.
	Looking bool
}

// Source is one place where hosts are found. Its methods are called by one goroutine at a time; each returns when its context ends.
type Source interface {
	// Find returns the addresses that the source has, this host's own perhaps among them. They are checked and at most MaxFound; what
	// was left out is counted in Refused. An error that a person can do something about is an *Error.
	Find(ctx context.Context) (Found, error)
	// Register keeps this host's addresses at the source until it has not been called for Lease; ErrReadOnly where there is no such thing.
	Register(ctx context.Context, self Self) error
	// Withdraw takes back what was registered.
	Withdraw(ctx context.Context) error
	// Close lets go of sockets and connections; what is registered stays.
	Close() error
}

// Found is what a source had to say.
type Found struct {
	Addrs   []netip.AddrPort
	Refused int    // addresses that are none, or none that a host can have; and those beyond MaxFound
	Why     string // of the first one refused
	// Alive says that a host put each of them there itself not long ago. Else it is a list that somebody made, of hosts that may never have run.
	Alive bool
}

// ErrReadOnly says that nothing can be registered at a source.
var ErrReadOnly = errors.New("nothing is registered there")

// Error is what went wrong with a source, in one sentence, and what may be done about it.
type Error struct {
	Text, Hint string
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Text }

// fault makes an *Error.
func fault(hint, format string, args ...any) error {
	return &Error{Text: fmt.Sprintf(format, args...), Hint: hint}
}

// readOnly is the half of a source at which nothing is registered.
type readOnly struct{}

func (readOnly) Register(context.Context, Self) error { return ErrReadOnly }
func (readOnly) Withdraw(context.Context) error       { return nil }
func (readOnly) Close() error                         { return nil }
