//go:build !linux

package load

import (
	"errors"
	"net"
	"syscall"
	"time"
)

var errSystem = errors.New("needs Linux")

func limitRate(*net.TCPConn, uint64) error { return errSystem }

func isolated() (*syscall.SysProcAttr, error) { return nil, errSystem }

const self = ""

// Used fails on this system.
func Used() (process, machine time.Duration, boot string, err error) { return 0, 0, "", errSystem }
