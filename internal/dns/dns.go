// Package dns reads DNS queries and writes answers to them.
//
// A query and its answer (RFC 1035 section 4.1); numbers are big-endian:
//
//	id 2 | QR 1 opcode 4 AA TC RD, RA Z AD CD rcode 4 | questions 2 | answers 2 | authority 2 | additional 2
//	name, type 2, class 2                                the question: one, always
//	name, type 2, class 2, TTL 4, length 2, data         a record
//	0, 41 2, UDP size 2, rcode 1 version 1 DO 1 0, length 2   EDNS(0) (RFC 6891): a record beside the others
//
// Only what a name service needs of the format is here: what comes from others is one question with its EDNS record, and
// what upstream servers answer is passed on, not read. Nothing allocates.
package dns

import "errors"

// Types of records and questions.
const (
	TypeA     uint16 = 1
	TypeNS    uint16 = 2
	TypeSOA   uint16 = 6
	TypePTR   uint16 = 12
	TypeHINFO uint16 = 13
	TypeTXT   uint16 = 16
	TypeAAAA  uint16 = 28
	TypeSRV   uint16 = 33 // RFC 2782
	typeOPT   uint16 = 41
	TypeANY   uint16 = 255
)

// ClassIN is the Internet, the one class there is.
const ClassIN uint16 = 1

// Rcode says how a query ended (RFC 1035 section 4.1.1; BADVERS: RFC 6891 section 9).
type Rcode uint16

// Rcodes.
const (
	NoError  Rcode = 0
	FormErr  Rcode = 1
	ServFail Rcode = 2
	NXDomain Rcode = 3
	NotImp   Rcode = 4
	Refused  Rcode = 5
	BadVers  Rcode = 16
)

// Sizes, in bytes.
const (
	HeaderLen = 12
	MaxName   = 255 // as it is on the wire
	maxLabel  = 63
	// MinUDP is how long an answer by UDP may be to who says nothing of it.
	MinUDP = 512
	// MaxUDP is how long an answer by UDP may be at most, whatever the other end takes: it fits every path that IPv6 allows, so
	// nothing is cut into fragments (DNS flag day 2020).
	MaxUDP = 1232
	// MaxTCP is what the length before a message by TCP can say.
	MaxTCP = 1<<16 - 1

	optLen = 11
)

// Flags of a header.
const (
	flagQR uint16 = 1 << 15
	flagAA uint16 = 1 << 10
	flagTC uint16 = 1 << 9
	flagRD uint16 = 1 << 8
	flagRA uint16 = 1 << 7
	flagAD uint16 = 1 << 5
	flagCD uint16 = 1 << 4

	flagDO = 1 << 15 // of the EDNS record
)

// Why a packet is no query that can be answered.
var (
	ErrShort    = errors.New("shorter than a header")
	ErrResponse = errors.New("an answer, not a query") // never answered: two servers would go on for ever
	ErrOpcode   = errors.New("an operation that is not a query")
	ErrForm     = errors.New("malformed")
)

func be16(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

func put16(b []byte, v uint16) { b[0], b[1] = byte(v>>8), byte(v) }

func append16(b []byte, v uint16) []byte { return append(b, byte(v>>8), byte(v)) }

func append32(b []byte, v uint32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
