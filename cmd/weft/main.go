// Command weft runs a host of a weft cluster and talks to it; see docs/design.md.
package main

import (
	"cmp"
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/cli"
	"github.com/weft-net/weft/internal/cni"
)

// version is set by the linker for releases; see versionOf for what others show.
var version string

// init keeps main on the process's first thread: weft run gives it namespaces of its own, and the
// daemon finds those of the first thread under /proc/PID/ns, too.
func init() { runtime.LockOSThread() }

func main() {
	if cni.Called(os.Args, os.Environ()) {
		runtime.UnlockOSThread()
		os.Exit(plugin().Main(context.Background()))
	}
	args := cli.TakeArgs(os.Args)
	if !slices.Contains(args, "run") {
		runtime.UnlockOSThread()
	}
	app := &cli.App{
		Version: versionOf(version, buildInfo),
		Args:    args[1:],
		Env:     os.Environ(),
		In:      os.Stdin,
		Out:     os.Stdout,
		Err:     os.Stderr,
		Up:      up,
		Clean:   clean,
	}
	os.Exit(app.Main(context.Background()))
}

// plugin is this process as a runtime of containers calls it.
func plugin() *cni.Plugin {
	return &cni.Plugin{
		Env: os.Environ(), In: os.Stdin, Out: os.Stdout, Host: cni.Kernel{},
		Dial: func(runDir string) cni.Weft {
			return client.Dial(client.SocketPath(cmp.Or(runDir, os.Getenv("WEFT_RUN_DIR"), client.DefaultRunDir)))
		},
	}
}

var buildInfo = debug.ReadBuildInfo

// versionOf returns the release, else the module's version, else the commit it was built from.
func versionOf(release string, read func() (*debug.BuildInfo, bool)) string {
	if release != "" {
		return release
	}
	info, ok := read()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = "-" + s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return "devel" + commit + dirty
}
