// Package ntf stands in for the one that starts nats-server inside the tests of NATS's Go client: here the servers are
// weft's, and started by the package ntf-client beside this one.
package ntf

import (
	"context"
	"errors"
)

// Options of New.
type Options struct{ AdvertiseHost string }

// Service is never made.
type Service struct{}

// New refuses.
func New(context.Context, Options) (*Service, error) {
	return nil, errors.New("TESTER_NATS_URL is not set: make test-nats sets it")
}

// Port is here for the compiler.
func (*Service) Port() int { return 0 }

// Close is here for the compiler.
func (*Service) Close() {}
