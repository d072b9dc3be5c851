// Package cli is weft's command line: it translates commands into requests of the daemon and
// answers into tables or JSON.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/run"
)

// Exit codes; weft run has the command's own and those of package run.
const (
	ExitOK       = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitDegraded = 3 // the daemon works, but reaches nobody it should reach
)

// App is one call of the command line.
type App struct {
	Version string
	Args    []string // without the program's name
	Env     []string // NAME=VALUE
	In      io.Reader
	Out     io.Writer
	Err     io.Writer

	// Up runs this host until ctx ends or weft down stops it. Nil: not on this system.
	Up func(ctx context.Context, o UpOptions) error
	// Clean removes the bridges and attachments that a daemon left behind which no longer runs.
	Clean func(ctx context.Context, o CleanOptions) error

	// How long to wait for others; zero: the constants in status.go and detach.go.
	linkWait, joinWait time.Duration

	// systemctl stands for the program of this name; nil: the real one, where systemd is.
	systemctl func(ctx context.Context, args ...string) (string, error)

	// flags of every command
	runDir string
	json   bool
	// ran is set once a command's flags and arguments were found in order.
	ran bool
}

// CleanOptions say whose remains to remove.
type CleanOptions struct {
	RunDir   string
	StateDir string
}

// Directories where nothing says otherwise.
const (
	defaultRunDir   = client.DefaultRunDir
	defaultStateDir = "/var/lib/weft"
)

// Main runs the command and returns the exit code.
func (a *App) Main(ctx context.Context) int {
	if a.linkWait == 0 {
		a.linkWait = waitForLink
	}
	if a.joinWait == 0 {
		a.joinWait = waitForJoin
	}
	root := a.root()
	root.SetArgs(a.Args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if !a.ran {
		err = &usageError{err}
	}
	return a.fail(cmd, err)
}

// usageError is a mistake in the command line itself.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// degradedError is an answer that was given, and is not good.
type degradedError struct{ text string }

func (e *degradedError) Error() string { return e.text }

// fail tells a person what went wrong, in one line and its hints, and returns the exit code.
func (a *App) fail(cmd *cobra.Command, err error) int {
	var (
		usage    *usageError
		degraded *degradedError
		answered *client.Error
		ran      *run.Error
	)
	// Errors joined in the daemon have several lines; each is one of weft's.
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(a.Err, "weft: %s\n", strings.TrimRight(line, "\n"))
	}
	if errors.As(err, &answered) && answered.Hint != "" {
		fmt.Fprintf(a.Err, "hint: %s\n", answered.Hint)
	}
	switch {
	case errors.As(err, &ran):
		return ran.Code
	case errors.As(err, &usage):
		fmt.Fprintf(a.Err, "hint: %s --help\n", cmd.CommandPath())
		if cmd.Name() == "run" {
			return run.ExitFailed
		}
		return ExitUsage
	case client.IsCode(err, client.CodeInvalid):
		return ExitUsage
	case errors.As(err, &degraded):
		return ExitDegraded
	}
	return ExitFailed
}

func (a *App) root() *cobra.Command {
	version := false
	root := &cobra.Command{
		Use:   "weft",
		Short: "Multicast for networks that don't have it",
		Long: `weft gives multicast to networks that don't have it.

  first host    weft up                          prints a token
  other hosts   weft up HOST --token TOKEN
  programs      weft run -- COMMAND...           in a network with multicast
  check         weft status`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			dir, err := filepath.Abs(a.runDir)
			if err != nil {
				return fmt.Errorf("run directory %s: %w", a.runDir, err)
			}
			a.runDir = dir
			return nil
		},
		// Without it, cobra takes any word for an argument of the root and shows the help.
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("there is no command %s", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "weft", a.Version)
				return err
			}
			return cmd.Help()
		},
	}
	// By hand: cobra's own needs text/template, with which the linker has to keep every exported method there is.
	root.Flags().BoolVarP(&version, "version", "v", false, "version for weft")
	root.PersistentFlags().StringVar(&a.runDir, "run-dir", a.env("WEFT_RUN_DIR", defaultRunDir), "where the daemon's socket is (WEFT_RUN_DIR)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddGroup(
		&cobra.Group{ID: "host", Title: "This host:"},
		&cobra.Group{ID: "look", Title: "What is there:"},
		&cobra.Group{ID: "plug", Title: "Networks and what is plugged into them:"},
		&cobra.Group{ID: "bus", Title: "Messages:"},
		&cobra.Group{ID: "tool", Title: "Tools:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("host", a.up(), a.down(), a.status(), a.token(), a.connect(), a.forget())
	add("look", a.hosts(), a.host(), a.links(), a.networks(), a.attachments(), a.groups(), a.names(), a.ipam(), a.buses())
	add("plug", a.network(), a.run(), a.attach(), a.detach(), a.expose(), a.hide(), a.name(), a.service(), a.docker())
	add("bus", a.pub(), a.sub(), a.request(), a.bus())
	add("tool", a.ping(), a.bench(), a.chat(), a.send(), a.recv(), a.cni(), a.version())
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	a.mark(root)
	return root
}

// mark notes when a command begins to run: what fails before that is the command line's fault.
func (a *App) mark(c *cobra.Command) {
	if runE := c.RunE; runE != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			a.ran = true
			return runE(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		a.mark(sub)
	}
}

// env returns a variable of App.Env, or what to take without it.
func (a *App) env(name, otherwise string) string {
	for _, e := range a.Env {
		if v, ok := strings.CutPrefix(e, name+"="); ok && v != "" {
			return v
		}
	}
	return otherwise
}

// envWithout returns a copy of the environment without a variable.
func (a *App) envWithout(name string) []string {
	out := make([]string, 0, len(a.Env))
	for _, e := range a.Env {
		if !strings.HasPrefix(e, name+"=") {
			out = append(out, e)
		}
	}
	return out
}

func (a *App) client() *client.Client { return client.Dial(client.SocketPath(a.runDir)) }

// interruptible ends the context at Ctrl-C and SIGTERM. Commands that only ask die of them.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// print writes v as JSON if asked to, else calls table.
func (a *App) print(v any, table func(w io.Writer)) error {
	if !a.json {
		w := newTable(a.Out)
		table(w)
		return w.Flush()
	}
	return a.printJSON(v)
}

func (a *App) printJSON(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// done says what was done: to programs in JSON, to people in a line.
func (a *App) done(format string, args ...any) error {
	if a.json {
		return a.printJSON(map[string]bool{"done": true})
	}
	_, err := fmt.Fprintf(a.Out, format+"\n", args...)
	return err
}

// path names a command in errors, which begin with the program's name anyway.
func path(cmd *cobra.Command) string { return strings.TrimPrefix(cmd.CommandPath(), "weft ") }

// words refuses other numbers of arguments, naming what is wanted.
func words(least, most int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("%s: %s is missing", path(cmd), want)
		case most >= 0 && len(args) > most && most == 0:
			return fmt.Errorf("%s takes no argument, but was given %s", path(cmd), args[0])
		case most >= 0 && len(args) > most:
			return fmt.Errorf("%s: one argument too many: %s", path(cmd), args[most])
		}
		return nil
	}
}

// nouns makes a command that only has commands of its own.
func nouns(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s: one of its commands is missing", path(cmd))
		}
		return usagef("%s has no command %s", path(cmd), args[0])
	}}
	c.AddCommand(commands...)
	return c
}
