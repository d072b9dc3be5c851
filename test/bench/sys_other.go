//go:build !linux

package main

import (
	"errors"
	"io"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return nil }

func signalGroup(int, syscall.Signal) error { return errors.ErrUnsupported }

func kill(int) error { return errors.ErrUnsupported }

func lock(string) (io.Closer, error) { return nil, errors.New("the benchmark needs Linux") }
