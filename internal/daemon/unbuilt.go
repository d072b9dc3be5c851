package daemon

import (
	"fmt"

	"github.com/weft-net/weft/internal/config"
)

// unbuilt refuses settings whose parts are not there yet: what was asked for is never left out in silence.
func unbuilt(c config.Up) error {
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"api", c.API != ""},
	} {
		if s.set {
			return usage{fmt.Errorf("setting %s: not built yet; leave it out", s.name)}
		}
	}
	return nil
}
