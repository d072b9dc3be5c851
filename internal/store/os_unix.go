//go:build unix

package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockDir takes the lock of a state directory. The kernel gives it back when the process ends, however it ends.
func lockDir(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }() // only read from
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock: %w", err)
		}
		b := make([]byte, 32)
		n, _ := f.ReadAt(b, 0) // none: the other has not written it yet
		pid := strings.TrimSpace(string(b[:n]))
		if _, err := strconv.Atoi(pid); err != nil {
			pid = "unknown"
		}
		return nil, fmt.Errorf("in use by another weft, pid %s: stop it, or choose another --state-dir", pid)
	}
	return f, nil
}

// sign writes our pid into a lock, for the message above only; a stale one does no harm.
func sign(lock io.Closer) error {
	f, ok := lock.(*os.File)
	if !ok {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return nil
}

// openNoFollow opens a file to read; a symbolic link is an error, and a pipe does not block.
func openNoFollow(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
}

// checkOwner refuses files of other users, and those that others may write.
func checkOwner(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("%w: it belongs to user %d, weft runs as user %d", ErrFile, st.Uid, uid)
	}
	if info.Mode().Perm()&0o022 != 0 && !info.IsDir() {
		return fmt.Errorf("%w: other users may write it (mode %04o), make it 0600", ErrFile, info.Mode().Perm())
	}
	return nil
}

// syncDir makes a rename or removal in a directory last.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
