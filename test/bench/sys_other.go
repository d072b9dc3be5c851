//go:build !linux

package main

import (
	"errors"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return nil }

func signalGroup(int, syscall.Signal) error { return errors.ErrUnsupported }

func kill(int) error { return errors.ErrUnsupported }

func lock(string) error { return errors.New("the benchmark needs Linux") }

func setBuffers(uintptr, int) error { return errors.ErrUnsupported }
