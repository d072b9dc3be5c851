//go:build !unix

package daemon

import (
	"errors"

	"github.com/weft-net/weft/internal/snapshot"
)

// place fails: nothing is handed over on this system.
func place(string) (snapshot.Place, error) { return snapshot.Place{}, errors.ErrUnsupported }
