// Package sealedtcp seals a connection under keys that a handshake has agreed: records, and the packets of the handshake itself.
//
//	records: [length 2][sealed, at most MaxRecord+16]
//
// Package stream puts yamux into them, package edge datagrams.
package sealedtcp

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/weft-net/weft/internal/handshake"
	"github.com/weft-net/weft/internal/seal"
)

const (
	// MaxRecord is the plaintext of a record in bytes.
	MaxRecord  = 16 << 10
	maxRecords = 1 << 32 // of one key; the session ends before, after 64 TiB
	recordTag  = 16
)

var (
	errRecord = errors.New("forged or damaged record")
	errSpent  = errors.New("key spent")
	// ErrLength says that what claims to be a packet of a handshake is longer than any is.
	ErrLength = errors.New("a length that no handshake has")
)

// Conn seals a connection in both directions. One goroutine may read while one other writes.
//
// A record cannot be left out, repeated or moved: its number is the nonce. A connection cut between
// two records looks like its end; streams above see a session without a farewell, and say so.
type Conn struct {
	net.Conn
	out, in     cipher.AEAD
	sent, taken uint64
	wbuf        []byte
	rbuf        []byte
	rest        []byte // of the record read last, a part of rbuf
	held        []byte // a frame's header that waits for its body
	nonceOut    [12]byte
	nonceIn     [12]byte
}

// New seals a connection with the keys of a handshake's result.
func New(c net.Conn, r *handshake.Result) (*Conn, error) {
	out, err := seal.NewAEAD(r.Suite, r.SendKey[:])
	if err != nil {
		return nil, err
	}
	in, err := seal.NewAEAD(r.Suite, r.RecvKey[:])
	if err != nil {
		return nil, err
	}
	return &Conn{
		Conn: c, out: out, in: in,
		wbuf: make([]byte, 0, 2+MaxRecord+recordTag), rbuf: make([]byte, 2+MaxRecord+recordTag),
	}, nil
}

func putNonce(b *[12]byte, n uint64) []byte {
	binary.BigEndian.PutUint64(b[4:], n)
	return b[:]
}

// Confirm sends the empty record by which the initiator proves to hold the key.
func (c *Conn) Confirm() error {
	if err := c.seal(nil); err != nil {
		return err
	}
	return c.flush()
}

// Confirmed waits for it.
func (c *Conn) Confirmed() error {
	p, err := c.next()
	if err == nil && len(p) != 0 {
		err = errRecord
	}
	return err
}

// Write seals p in as many records as it needs.
//
// yamux writes the header of a data frame and its body apart. The header is held back until the body comes, so
// that one frame costs one record and one system call. The order of bytes is not changed.
func (c *Conn) Write(p []byte) (int, error) {
	if len(c.held) == 0 && isDataHeader(p) {
		c.held = append(c.held[:0], p...)
		return len(p), nil
	}
	rest := p
	if len(c.held) > 0 {
		n := min(len(rest), MaxRecord-len(c.held))
		c.held = append(c.held, rest[:n]...)
		rest = rest[n:]
		err := c.seal(c.held)
		c.held = c.held[:0]
		if err != nil {
			return 0, err
		}
	}
	for len(rest) > 0 {
		n := min(len(rest), MaxRecord)
		if cap(c.wbuf)-len(c.wbuf) < 2+n+recordTag {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
		if err := c.seal(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// isDataHeader reports whether p is the header of a yamux data frame that has a body:
// version 0, type 0 (data), flags 2, stream 4, length 4.
func isDataHeader(p []byte) bool {
	return len(p) == 12 && p[0] == 0 && p[1] == 0 && binary.BigEndian.Uint32(p[8:]) > 0
}

// seal appends a record to wbuf, which has room for it.
func (c *Conn) seal(p []byte) error {
	if c.sent >= maxRecords {
		return errSpent
	}
	at := len(c.wbuf)
	c.wbuf = binary.BigEndian.AppendUint16(c.wbuf, uint16(len(p)+recordTag))
	c.wbuf = c.out.Seal(c.wbuf, putNonce(&c.nonceOut, c.sent), p, c.wbuf[at:at+2])
	c.sent++
	return nil
}

func (c *Conn) flush() error {
	_, err := c.Conn.Write(c.wbuf)
	c.wbuf = c.wbuf[:0]
	return err
}

// Read returns bytes of the next record that has any.
func (c *Conn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if len(p) == 0 {
			return 0, nil
		}
		rest, err := c.next()
		if err != nil {
			return 0, err
		}
		c.rest = rest
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// next reads and opens a record; io.EOF only between two.
func (c *Conn) next() ([]byte, error) {
	if c.taken >= maxRecords {
		return nil, errSpent
	}
	if _, err := io.ReadFull(c.Conn, c.rbuf[:2]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(c.rbuf))
	if n < recordTag || n > MaxRecord+recordTag {
		return nil, fmt.Errorf("%w: %d bytes", errRecord, n)
	}
	body := c.rbuf[2 : 2+n]
	if _, err := io.ReadFull(c.Conn, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	p, err := c.in.Open(body[:0], putNonce(&c.nonceIn, c.taken), body, c.rbuf[:2])
	if err != nil {
		return nil, errRecord
	}
	c.taken++
	return p, nil
}

// ReadPacket reads [length 2][packet] of at most limit bytes: a part of a handshake.
func ReadPacket(c net.Conn, limit int) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(n[:]))
	if size > limit {
		return nil, ErrLength
	}
	b := make([]byte, size)
	_, err := io.ReadFull(c, b)
	return b, err
}
