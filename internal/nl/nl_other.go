//go:build !linux

package nl

import "github.com/weft-net/weft/internal/netns"

// OS returns a System that refuses.
func OS() System { return unsupported{} }

type unsupported struct{}

func (unsupported) Open(netns.Namespace) (Handle, error) { return nil, ErrUnsupported }
