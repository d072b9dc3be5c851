package guard

import "context"

// Runner runs a command of the system and returns what it printed. It is a seam of its own: tests have none of the programs.
type Runner func(ctx context.Context, name string, args ...string) (string, error)

// Options of Open.
type Options struct {
	// Run replaces the way commands are run; nil is the system's.
	Run Runner
}
