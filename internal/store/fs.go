package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/weft-net/weft/internal/ident"
)

const (
	fileSuffix = ".weft"
	tempPrefix = ".new-" // a file being written; it is no state until renamed
	badPrefix  = "bad-"  // a file put out of the way
	lockName   = "lock"
)

// FS is a Dir on disk. It holds the directory's lock until Close. Its methods may be called from any goroutine.
type FS struct {
	path string
	mu   sync.Mutex // one writer at a time; guards owner
	own  ident.HostID
	lock io.Closer
}

var _ Dir = (*FS)(nil)

// Open makes the directory if need be (mode 0700), locks it for the life of the process, and removes what an
// interrupted Save left. A directory in use is an error that names the process.
func Open(path string) (*FS, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := checkOwner(info); err != nil {
		return nil, fmt.Errorf("state directory %s: %w", path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(path, 0o700); err != nil {
			return nil, fmt.Errorf("state directory: it is open to other users: %w", err)
		}
	}
	lock, err := lockDir(filepath.Join(path, lockName))
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", path, err)
	}
	d := &FS{path: path, lock: lock}
	if err := d.Claim(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// Adopt opens the directory under the lock of another process, which handed it over (Lock) and goes on using the
// directory until Claim is called. The FS owns lock.
func Adopt(path string, lock *os.File) (*FS, error) {
	there, err := os.Stat(filepath.Join(path, lockName))
	if err == nil {
		var info fs.FileInfo
		if info, err = lock.Stat(); err == nil && !os.SameFile(there, info) {
			err = errors.New("the lock handed over is of another directory")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("state directory %s: take over: %w", path, err)
	}
	return &FS{path: path, lock: lock}, nil
}

// Claim makes this process the one that writes: it removes what an interrupted Save left, and names itself in the lock.
func (d *FS) Claim() error {
	return errors.Join(sign(d.lock), d.clean())
}

// Lock returns the open lock, for Adopt in another process; nil on systems that don't hand over. It stays the FS's.
func (d *FS) Lock() *os.File {
	f, _ := d.lock.(*os.File)
	return f
}

// clean removes files that a Save did not finish.
func (d *FS) clean() error {
	names, err := d.list()
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, tempPrefix) {
			if err := os.Remove(filepath.Join(d.path, n)); err != nil {
				return fmt.Errorf("state directory: remove an unfinished file: %w", err)
			}
		}
	}
	return nil
}

// Path returns the directory.
func (d *FS) Path() string { return d.path }

// Close gives the lock back. Saving after it is an error of the caller's.
func (d *FS) Close() error { return d.lock.Close() }

// SetOwner is Dir.SetOwner.
func (d *FS) SetOwner(id ident.HostID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own = id
}

func (d *FS) file(name string) string { return filepath.Join(d.path, name+fileSuffix) }

// Load is Dir.Load.
func (d *FS) Load(name string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.load(name)
	return b, explain(d.file(name), err)
}

// explain makes the one line that says which file, what is wrong and what to do.
func explain(path string, err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return err // the system's own words name the file
	}
	return fmt.Errorf("state file %s: %w; %s", path, err, advice(err))
}

func (d *FS) load(name string) ([]byte, error) {
	b, err := readFile(d.file(name))
	if err != nil {
		return nil, err
	}
	owner, saved, payload, err := Decode(b)
	switch {
	case err != nil:
		return nil, err
	case saved != name:
		return nil, &FormatError{Offset: headerSize, Err: ErrName, Detail: fmt.Sprintf("%.80q", saved)}
	case !d.own.IsZero() && owner != d.own:
		return nil, &FormatError{Offset: 10, Err: ErrOwner, Detail: fmt.Sprintf("of host %s, this host is %s", owner, d.own)}
	}
	return payload, nil
}

// readFile reads a regular file of ours; it follows no link and opens nothing that could block or act.
func readFile(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := checkFile(info); err != nil {
		return nil, err
	}
	f, err := openNoFollow(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(info, opened) {
		return nil, fmt.Errorf("%w: it was exchanged while it was opened", ErrFile)
	}
	const limit = headerSize + maxName + MaxPayload
	if opened.Size() > limit {
		return nil, &FormatError{Offset: limit, Err: ErrLength, Detail: fmt.Sprintf("%d bytes", opened.Size())}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// checkFile refuses what is no regular file, belongs to another user, or can be written by others.
func checkFile(info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%w: it is a symbolic link", ErrFile)
	case info.IsDir():
		return fmt.Errorf("%w: it is a directory", ErrFile)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: it is a %s", ErrFile, info.Mode().Type())
	}
	return checkOwner(info)
}

// Save is Dir.Save: a temporary file, fsync, rename, fsync of the directory.
func (d *FS) Save(name string, b []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if len(b) > MaxPayload {
		return fmt.Errorf("save %s: %d bytes: %w", name, len(b), ErrLength)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.own.IsZero() {
		return fmt.Errorf("save %s: the owner is not set", name)
	}
	path := d.file(name)
	if err := d.mayReplace(path); err != nil {
		return explain(path, err)
	}
	if err := d.replace(path, Encode(d.own, name, b)); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

// mayReplace refuses to overwrite what a newer weft or another host wrote, and what is no file of ours. A damaged file
// may be replaced.
func (d *FS) mayReplace(path string) error {
	b, err := readHead(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	if _, _, _, err := Decode(b); errors.Is(err, ErrNewer) {
		return err
	}
	if len(b) == headerSize && [8]byte(b[:8]) == magic {
		if owner := ident.HostID(b[10:26]); owner != d.own {
			return &FormatError{Offset: 10, Err: ErrOwner, Detail: fmt.Sprintf("of host %s, this host is %s", owner, d.own)}
		}
	}
	return nil
}

// readHead reads a file's header, or less when there is less.
func readHead(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := checkFile(info); err != nil {
		return nil, err
	}
	f, err := openNoFollow(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	b := make([]byte, headerSize)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return b[:n], nil
}

func (d *FS) replace(path string, b []byte) (err error) {
	f, err := os.CreateTemp(d.path, tempPrefix+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // closed already, or of no interest any more
			_ = os.Remove(f.Name()) // gone already when the rename was done; else Open removes it
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(d.path)
}

// Remove is Dir.Remove.
func (d *FS) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Remove(d.file(name)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(d.path)
}

// Names is Dir.Names.
func (d *FS) Names() ([]string, error) {
	all, err := d.list()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range all {
		if n, ok := strings.CutSuffix(n, fileSuffix); ok && CheckName(n) == nil {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (d *FS) list() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Quarantine is Dir.Quarantine: the file is renamed to bad-NAME.N beside it, N being the first that is free.
func (d *FS) Quarantine(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := 1; ; i++ {
		to := filepath.Join(d.path, fmt.Sprintf("%s%s.%d", badPrefix, name, i))
		if _, err := os.Lstat(to); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := os.Rename(d.file(name), to); err != nil {
			return "", err
		}
		return to, syncDir(d.path)
	}
}
