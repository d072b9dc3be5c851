package hearing

import (
	"encoding/binary"
	"errors"

	"github.com/weft-net/weft/internal/ident"
)

// EtherType of the frames: the first of those for local experiments (IEEE 802).
const EtherType = 0x88b5

// group is where frames go: bridges never forward it to other ports (IEEE 802.1Q table 8-1, nearest bridge), so that
// attachments see none.
var group = [6]byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}

// Sizes in bytes.
const (
	etherHeader = 14
	// Short is the length of a short frame.
	Short    = etherHeader + bodySize
	bodySize = 1 + 1 + 4 + 8 + 16 // padding follows
	noteSize = 1 + 4 + 8
	version  = 1
)

// ErrFrame says that a frame or a note is none.
var ErrFrame = errors.New("hearing: malformed frame")

// Frame is what is to be heard.
//
//	0             14        15      16     20      28       44
//	+-------------+---------+-------+------+-------+--------+---------+
//	| Ethernet 14 | version | long? | VNI  | round | HostID | padding |
//	+-------------+---------+-------+------+-------+--------+---------+
type Frame struct {
	VNI   uint32
	Round uint64
	From  ident.HostID
	Long  bool
}

// Append appends the frame with a source MAC, padded to size bytes.
func (f Frame) Append(b []byte, source [6]byte, size int) []byte {
	at := len(b)
	b = append(b, group[:]...)
	b = append(b, source[:]...)
	b = binary.BigEndian.AppendUint16(b, EtherType)
	b = append(b, version, bit(f.Long))
	b = binary.BigEndian.AppendUint32(b, f.VNI)
	b = binary.BigEndian.AppendUint64(b, f.Round)
	b = append(b, f.From[:]...)
	return append(b, make([]byte, max(0, size-(len(b)-at)))...)
}

// ParseFrame reads a frame, Ethernet header included.
func ParseFrame(b []byte) (Frame, error) {
	if len(b) < Short || binary.BigEndian.Uint16(b[12:]) != EtherType || b[14] != version || b[15] > 1 {
		return Frame{}, ErrFrame
	}
	return Frame{VNI: binary.BigEndian.Uint32(b[16:]), Round: binary.BigEndian.Uint64(b[20:]), From: ident.HostID(b[28:44]), Long: b[15] == 1}, nil
}

// Note goes on the link: a question what was heard of a round, or the report.
//
//	0       1     5       13
//	+-------+-----+-------+
//	| flags | VNI | round |   flags: 1 a report, 2 short was heard, 4 long was heard
//	+-------+-----+-------+
type Note struct {
	VNI         uint32
	Round       uint64
	Report      bool
	Short, Long bool // of a report
}

// Append appends the note's bytes.
func (n Note) Append(b []byte) []byte {
	b = append(b, bit(n.Report)|bit(n.Short)<<1|bit(n.Long)<<2)
	b = binary.BigEndian.AppendUint32(b, n.VNI)
	return binary.BigEndian.AppendUint64(b, n.Round)
}

// ParseNote reads a note.
func ParseNote(b []byte) (Note, error) {
	if len(b) != noteSize || b[0] > 7 || b[0]&1 == 0 && b[0] != 0 {
		return Note{}, ErrFrame
	}
	return Note{
		VNI: binary.BigEndian.Uint32(b[1:]), Round: binary.BigEndian.Uint64(b[5:]),
		Report: b[0]&1 != 0, Short: b[0]&2 != 0, Long: b[0]&4 != 0,
	}, nil
}

func bit(v bool) byte {
	if v {
		return 1
	}
	return 0
}
