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
	Short = etherHeader + bodySize
	// bodySize of a frame, padding follows; AnswerSize of an answer.
	bodySize   = 1 + 1 + 4 + 8 + 16
	AnswerSize = 4 + 8 + 1
	version    = 1
)

// ErrFrame says that a frame or an answer is none.
var ErrFrame = errors.New("hearing: malformed frame")

// Frame asks who hears.
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

// Answer is what goes back on the link: VNI 4, round 8, long 1.
type Answer struct {
	VNI   uint32
	Round uint64
	Long  bool
}

// Append appends the answer's bytes.
func (a Answer) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, a.VNI)
	b = binary.BigEndian.AppendUint64(b, a.Round)
	return append(b, bit(a.Long))
}

// ParseAnswer reads an answer.
func ParseAnswer(b []byte) (Answer, error) {
	if len(b) != AnswerSize || b[12] > 1 {
		return Answer{}, ErrFrame
	}
	return Answer{VNI: binary.BigEndian.Uint32(b), Round: binary.BigEndian.Uint64(b[4:]), Long: b[12] == 1}, nil
}

func bit(v bool) byte {
	if v {
		return 1
	}
	return 0
}
