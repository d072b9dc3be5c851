//go:build !linux

package main

import (
	"errors"
	"io"
	"syscall"
	"time"
)

func ownGroup() *syscall.SysProcAttr { return nil }

func signalGroup(int, syscall.Signal) error { return errors.ErrUnsupported }

func kill(int) error { return errors.ErrUnsupported }

func lock(string) (io.Closer, error) { return nil, errors.New("the benchmark needs Linux") }

var began = time.Now()

func monotonic() int64 { return int64(time.Since(began)) }

func sleepUntil(at int64) { <-time.After(time.Duration(at - monotonic())) }
