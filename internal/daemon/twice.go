package daemon

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/store"
)

// twice keeps a file of the state directory in the run directory too. What is plugged in here lives as long as the run directory, which
// a boot empties: longer than a state directory that somebody removes while programs run on. The copy is of one cluster and of no other.
//
//	0       8            16         48
//	+-------+------------+----------+------+
//	| magic | cluster id | SHA-256  | file |
//	+-------+------------+----------+------+
type twice struct {
	dir     store.Dir
	name    string
	path    string // of the copy
	cluster ident.ClusterID
	log     *slog.Logger
}

const (
	twiceMagic = "weftcp1\n"
	maxTwice   = 16 << 20 // bytes of a copy
)

func (s *System) twice(name string) twice {
	return twice{dir: s.dir, name: name, path: filepath.Join(s.cfg.RunDir, name+".copy"), cluster: s.id.Cluster, log: s.log}
}

// Load returns what was saved last; the copy where the state directory has nothing, nil where neither has.
func (t twice) Load() ([]byte, error) {
	b, err := t.dir.Load(t.name)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	b, err = t.recall()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		t.log.Warn("copy of lost state not used", "file", t.path, "err", err)
		return nil, nil
	}
	t.log.Warn("the state directory has nothing of what is plugged in here: taken from the copy", "file", t.path)
	return b, nil
}

func (t twice) recall() ([]byte, error) {
	f, err := os.Open(t.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(f, maxTwice+1))
	if err != nil {
		return nil, err
	}
	return t.decode(b)
}

func (t twice) encode(b []byte) []byte {
	sum := sha256.Sum256(b)
	out := append([]byte(twiceMagic), t.cluster[:]...)
	return append(append(out, sum[:]...), b...)
}

func (t twice) decode(b []byte) ([]byte, error) {
	head := len(twiceMagic) + len(t.cluster)
	switch {
	case len(b) > maxTwice:
		return nil, fmt.Errorf("more than %d bytes", maxTwice)
	case len(b) < head+sha256.Size || !bytes.HasPrefix(b, []byte(twiceMagic)):
		return nil, errors.New("not a copy of ours")
	case !bytes.Equal(b[len(twiceMagic):head], t.cluster[:]):
		return nil, errors.New("of another cluster: what was plugged into its networks is unplugged")
	}
	body := b[head+sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[head:head+sha256.Size]) {
		return nil, errors.New("checksum wrong")
	}
	return body, nil
}

// Save replaces the file, and then its copy. Without a copy all is well until the state directory is lost, so that is a warning.
func (t twice) Save(b []byte) error {
	if err := t.dir.Save(t.name, b); err != nil {
		return err
	}
	if err := t.copy(b); err != nil {
		t.log.Warn("no copy of what is plugged in here", "err", err)
	}
	return nil
}

func (t twice) copy(b []byte) error {
	next := t.path + ".tmp"
	if err := os.WriteFile(next, t.encode(b), 0o600); err != nil {
		return err
	}
	return os.Rename(next, t.path)
}
