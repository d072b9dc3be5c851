//go:build !unix

package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// lockFile is a lock by existence: one that a crash left must be removed by hand.
type lockFile struct {
	*os.File
	path string
}

// Close removes the lock.
func (l lockFile) Close() error { return errors.Join(l.File.Close(), os.Remove(l.path)) }

func lockDir(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		pid, _ := os.ReadFile(path) // only to name it
		return nil, fmt.Errorf("in use by another weft, pid %.20q: stop it, or, when there is none, remove %s", pid, path)
	}
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(f, os.Getpid()); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return lockFile{f, path}, nil
}

// sign does nothing: the lock was made with its maker's name.
func sign(io.Closer) error { return nil }

func openNoFollow(path string) (*os.File, error) { return os.Open(path) }

func checkOwner(fs.FileInfo) error { return nil }

func syncDir(string) error { return nil }
