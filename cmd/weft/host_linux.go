package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/weft-net/weft/internal/cli"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/daemon"
	"github.com/weft-net/weft/internal/sdnotify"
)

// configFile is where a machine keeps what it always starts weft with.
const configFile = "/etc/weft/weft.yaml"

func up(ctx context.Context, o cli.UpOptions) error {
	cfg, err := load(o)
	if err != nil {
		return cli.Usage(err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = daemon.Run(ctx, cfg, daemon.Options{
		Version: versionOf(version, buildInfo), Log: logger(o.Stderr, cfg), Founded: o.Founded,
		Agent: cli.AgentArgs,
		// Best effort: without systemd nobody listens.
		Ready:      func() { _ = sdnotify.Send(sdnotify.Ready, sdnotify.Status("up")) },
		HandedOver: func(pid int) { _ = sdnotify.Send(sdnotify.MainPID(pid)) },
	})
	if daemon.IsUsage(err) {
		return cli.Usage(err)
	}
	return err
}

func clean(_ context.Context, o cli.CleanOptions) error {
	return daemon.Clean(o.RunDir, o.StateDir)
}

// load puts flags, environment, file and defaults together.
func load(o cli.UpOptions) (config.Up, error) {
	flags := map[string]config.Value{}
	for name, texts := range o.Flags {
		flags[name] = config.Value{Texts: texts, From: "--" + name}
	}
	if len(o.Hosts) > 0 {
		flags["seeds"] = config.Value{Texts: o.Hosts, From: "host"}
	}
	file, err := os.ReadFile(configFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config.Up{}, fmt.Errorf("configuration: %w", err)
	}
	return config.Load(file, configFile, o.Env, flags)
}

func logger(w io.Writer, cfg config.Up) *slog.Logger {
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // checked by config
	o := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
