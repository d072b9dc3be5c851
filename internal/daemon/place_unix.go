//go:build unix

package daemon

import (
	"fmt"
	"os"
	"syscall"

	"github.com/weft-net/weft/internal/snapshot"
)

// place tells two paths of one file from two files.
func place(path string) (snapshot.Place, error) {
	info, err := os.Stat(path)
	if err != nil {
		return snapshot.Place{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return snapshot.Place{}, fmt.Errorf("%s: no device and inode", path)
	}
	return snapshot.Place{Device: uint64(st.Dev), Inode: st.Ino}, nil //nolint:unconvert // of another size on other systems
}
