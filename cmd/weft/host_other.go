//go:build !linux

package main

import (
	"context"

	"github.com/weft-net/weft/internal/cli"
)

// What it takes to run a host; nil on systems that cannot.
var (
	up    func(context.Context, cli.UpOptions) error
	clean func(context.Context, cli.CleanOptions) error
)
