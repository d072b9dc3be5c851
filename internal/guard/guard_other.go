//go:build !linux

package guard

import "context"

// Guard is only on Linux.
type Guard struct{}

var _ Filter = (*Guard)(nil)

// Open returns ErrUnsupported.
func Open(Options) (*Guard, error) { return nil, ErrUnsupported }

func (*Guard) Apply(Desired) error                             { return ErrUnsupported }
func (*Guard) AddPort(Port) error                              { return ErrUnsupported }
func (*Guard) RemovePort(string) error                         { return ErrUnsupported }
func (*Guard) Counters() (map[string]Counter, error)           { return nil, ErrUnsupported }
func (*Guard) Keep(context.Context, func(reason string)) error { return ErrUnsupported }
func (*Guard) Remove() error                                   { return ErrUnsupported }
func (*Guard) ForwardError() error                             { return ErrUnsupported }
