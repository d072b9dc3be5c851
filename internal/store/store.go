// Package store keeps small pieces of state on disk, each in a file that is replaced as a whole or not at all.
//
// A file is its header and its payload; all integers are big-endian:
//
//	0       8         10        26       28                  32
//	+-------+---------+---------+--------+-------------------+--------+------+---------+
//	| magic | version | HostID  | name n | length of payload | CRC32C | name | payload |
//	+-------+---------+---------+--------+-------------------+--------+------+---------+
//
// The checksum covers everything but itself. The HostID is the owner's: state that was copied from another host is
// refused, for two hosts with one state would speak with one voice. A file of a newer format is refused and never
// overwritten. Nothing is repaired in silence: Load says what is wrong with a file, at which byte, and what to do.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/weft-net/weft/internal/ident"
)

// Dir is a place for named pieces of state. Names are 1 to 64 of a-z, 0-9, '-', '.' and begin with a letter.
type Dir interface {
	// Load returns what was saved last; errors.Is(err, fs.ErrNotExist) when nothing was.
	Load(name string) ([]byte, error)
	// Save replaces what was saved under name. When it returns nil the bytes are on the disk; when it fails, what was
	// saved before is intact.
	Save(name string, b []byte) error
	// Remove removes name; it is no error when there is none.
	Remove(name string) error
	// Names returns the names that have been saved, sorted.
	Names() ([]string, error)
	// Quarantine puts a file that cannot be read out of the way, and returns where it is now.
	Quarantine(name string) (string, error)
	// SetOwner says whose state it is: Save writes the id, Load refuses files of others. Until it is called Load takes
	// any file, for the keys that the id follows from are in one, and Save refuses all.
	SetOwner(id ident.HostID)
}

// Kinds of fault in a file; each error of Load that is not one of the system's wraps one.
var (
	ErrShort    = errors.New("cut short")
	ErrChecksum = errors.New("checksum wrong")
	ErrNotWeft  = errors.New("not a weft state file")
	ErrNewer    = errors.New("written by a newer weft")
	ErrOwner    = errors.New("another host's file")
	ErrName     = errors.New("saved under another name")
	ErrLength   = errors.New("too long")
	ErrFile     = errors.New("not a regular file of ours")
)

// MaxPayload bounds a file, in bytes.
const MaxPayload = 512 << 20

const (
	format     = 1
	headerSize = 36
	offName    = 26 // offsets of fields
	offLength  = 28
	offCRC     = 32
	maxName    = 64
)

var (
	magic      = [8]byte{'w', 'e', 'f', 't', 's', 't', '\r', '\n'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// FormatError is a file's fault: where it is and what it is.
type FormatError struct {
	Offset int // the first byte that is wrong
	Err    error
	Detail string
}

// Error returns one line.
func (e *FormatError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%v at byte %d", e.Err, e.Offset)
	}
	return fmt.Sprintf("%v at byte %d: %s", e.Err, e.Offset, e.Detail)
}

// Unwrap returns the kind of fault.
func (e *FormatError) Unwrap() error { return e.Err }

// CheckName refuses names that could be anything else than a file of ours.
func CheckName(name string) error {
	ok := len(name) > 0 && len(name) <= maxName && name[0] >= 'a' && name[0] <= 'z'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.'
	}
	if !ok {
		return fmt.Errorf("store: name %.80q: use 1 to %d of a-z, 0-9, '-' and '.', a letter first", name, maxName)
	}
	return nil
}

// Encode returns the bytes of a file.
func Encode(owner ident.HostID, name string, payload []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(name)+len(payload))
	copy(b, magic[:])
	binary.BigEndian.PutUint16(b[8:], format)
	copy(b[10:], owner[:])
	binary.BigEndian.PutUint16(b[offName:], uint16(len(name)))
	binary.BigEndian.PutUint32(b[offLength:], uint32(len(payload)))
	b = append(append(b, name...), payload...)
	binary.BigEndian.PutUint32(b[offCRC:], sum(b))
	return b
}

// sum is the checksum of a file, its own field left out.
func sum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:offCRC], castagnoli), castagnoli, b[headerSize:])
}

// Decode reads a file: its owner, name and payload, which shares b. It does not judge owner and name. Errors are *FormatError.
func Decode(b []byte) (owner ident.HostID, name string, payload []byte, err error) {
	bad := func(off int, kind error, detail string, args ...any) (ident.HostID, string, []byte, error) {
		return ident.HostID{}, "", nil, &FormatError{Offset: off, Err: kind, Detail: fmt.Sprintf(detail, args...)}
	}
	for i := range min(len(magic), len(b)) {
		if b[i] != magic[i] {
			return bad(i, ErrNotWeft, "it does not begin as one")
		}
	}
	if len(b) < 10 {
		return bad(len(b), ErrShort, "the header has %d bytes", headerSize)
	}
	// The version comes before all that a newer format may have changed.
	if v := binary.BigEndian.Uint16(b[8:]); v > format {
		return bad(8, ErrNewer, "format %d, this weft reads up to %d", v, format)
	} else if v == 0 {
		return bad(8, ErrNotWeft, "format 0")
	}
	if len(b) < headerSize {
		return bad(len(b), ErrShort, "the header has %d bytes", headerSize)
	}
	n, size := int(binary.BigEndian.Uint16(b[offName:])), int64(binary.BigEndian.Uint32(b[offLength:]))
	if n > maxName || size > MaxPayload {
		return bad(offName, ErrLength, "name of %d and payload of %d bytes", n, size)
	}
	switch want := int64(headerSize+n) + size; {
	case int64(len(b)) < want:
		return bad(len(b), ErrShort, "%d bytes, want %d", len(b), want)
	case int64(len(b)) > want:
		return bad(int(want), ErrLength, "%d bytes, want %d", len(b), want)
	}
	if got, want := sum(b), binary.BigEndian.Uint32(b[offCRC:]); got != want {
		return bad(offCRC, ErrChecksum, "%08x, want %08x", want, got)
	}
	return ident.HostID(b[10:26]), string(b[headerSize : headerSize+n]), b[headerSize+n:], nil
}

// advice says what to do about a fault.
func advice(err error) string {
	switch {
	case errors.Is(err, ErrNewer):
		return "install that version again, or start with another --state-dir"
	case errors.Is(err, ErrOwner):
		return "each host needs its own state: on a copied host, empty this directory"
	case errors.Is(err, ErrFile):
		return "put a regular file of weft's user there, or move it away"
	default:
		return "restore it from a backup, or move it away"
	}
}
