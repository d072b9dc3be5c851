// Package natsproto reads and writes the protocol that NATS servers speak with their clients
// (docs.nats.io/reference/reference-protocols/nats-protocol): lines of text, and after some of them as many bytes as the line says.
//
// It is a codec: bytes in, values out. Every length is bounded before anything is kept.
package natsproto

import (
	"bytes"
	"errors"
)

// Limits.
const (
	// MaxControlLine is the longest line, in bytes, its end not counted; nats-server's default.
	MaxControlLine = 4096
	// MaxPayload is the longest message in bytes, headers included; nats-server's default.
	MaxPayload = 1 << 20
	// maxSize bounds what a line may say before it is compared with a limit: nine digits.
	maxSize = 999_999_999
)

// Kind is what a client asks for.
type Kind uint8

// The operations of clients.
const (
	None Kind = iota
	Connect
	Pub
	HPub
	Sub
	Unsub
	Ping
	Pong
)

// Op is one operation. Its slices are parts of what was parsed.
type Op struct {
	Kind    Kind
	Subject []byte // Pub, HPub, Sub
	Reply   []byte // Pub, HPub; nil: none
	Queue   []byte // Sub; nil: none
	SID     []byte // Sub, Unsub
	Max     int    // Unsub: end after this many messages; 0: at once
	Header  []byte // HPub: from NATS/1.0 to the empty line, both included
	Payload []byte // Pub, HPub
	Options []byte // Connect: JSON
}

// Errors; each is the text by which a client is told. All end the connection.
var (
	ErrUnknown     = errors.New("Unknown Protocol Operation")    //nolint:staticcheck // the words of the protocol
	ErrArguments   = errors.New("Parser Error")                  //nolint:staticcheck // the words of the protocol
	ErrControlLine = errors.New("maximum control line exceeded") // in small letters: clients compare the text
	ErrPayload     = errors.New("Maximum Payload Violation")     //nolint:staticcheck // the words of the protocol
)

// crlf ends every line and every payload.
const crlf = "\r\n"

// Parse reads the operation that b begins with, and how many bytes it takes. When not all of it is there, n is 0 and need
// says how long b must be at least. maxPayload bounds what Pub and HPub may announce.
func Parse(b []byte, maxPayload int) (op Op, n, need int, err error) {
	end := bytes.IndexByte(b[:min(len(b), MaxControlLine+len(crlf))], '\n')
	if end < 0 {
		if len(b) >= MaxControlLine+len(crlf) {
			return op, 0, 0, ErrControlLine
		}
		return op, 0, len(b) + 1, nil
	}
	line := bytes.TrimSuffix(b[:end], []byte{'\r'})
	verb, rest := word(line)
	switch string(upper(verb)) {
	case "PUB":
		return message(Op{Kind: Pub}, b, rest, end+1, maxPayload)
	case "HPUB":
		return message(Op{Kind: HPub}, b, rest, end+1, maxPayload)
	case "SUB":
		op.Kind = Sub
		w, ok := words(rest)
		switch {
		case !ok || w.n < 2 || w.n > 3:
			return Op{}, 0, 0, ErrArguments
		case w.n == 3:
			op.Queue = w.at[1]
		}
		op.Subject, op.SID = w.at[0], w.at[w.n-1]
	case "UNSUB":
		op.Kind = Unsub
		w, ok := words(rest)
		if !ok || w.n < 1 || w.n > 2 {
			return Op{}, 0, 0, ErrArguments
		}
		op.SID = w.at[0]
		if w.n == 2 {
			if op.Max, ok = size(w.at[1]); !ok {
				return Op{}, 0, 0, ErrArguments
			}
		}
	case "PING":
		op.Kind = Ping
	case "PONG":
		op.Kind = Pong
	case "CONNECT":
		op.Kind, op.Options = Connect, bytes.TrimSpace(rest)
	default:
		return Op{}, 0, 0, ErrUnknown
	}
	if (op.Kind == Ping || op.Kind == Pong) && len(bytes.TrimSpace(rest)) > 0 {
		return Op{}, 0, 0, ErrArguments
	}
	return op, end + 1, 0, nil
}

// message reads the arguments and the bytes of PUB and HPUB; from is where the bytes begin.
func message(op Op, b, args []byte, from, maxPayload int) (_ Op, n, need int, err error) {
	w, ok := words(args)
	sizes := 1
	if op.Kind == HPub {
		sizes = 2
	}
	if !ok || w.n < 1+sizes || w.n > 2+sizes {
		return Op{}, 0, 0, ErrArguments
	}
	total, ok := size(w.at[w.n-1])
	header := 0
	if ok && op.Kind == HPub {
		header, ok = size(w.at[w.n-2])
	}
	switch {
	case !ok || header > total || op.Kind == HPub && header == 0:
		return Op{}, 0, 0, ErrArguments
	case total > maxPayload:
		return Op{}, 0, 0, ErrPayload
	}
	op.Subject = w.at[0]
	if w.n == 2+sizes {
		op.Reply = w.at[1]
	}
	end := from + total + len(crlf)
	if len(b) < end {
		return Op{}, 0, end, nil
	}
	if string(b[end-len(crlf):end]) != crlf {
		return Op{}, 0, 0, ErrArguments
	}
	op.Header, op.Payload = b[from:from+header:from+header], b[from+header:from+total:from+total]
	if op.Kind == HPub && !CheckHeader(op.Header) {
		return Op{}, 0, 0, ErrArguments
	}
	return op, end, 0, nil
}

// HeaderLine begins every block of headers.
const HeaderLine = "NATS/1.0"

// CheckHeader reports whether b is a block of headers as far as a server looks at it: its first line and its end.
func CheckHeader(b []byte) bool {
	return bytes.HasPrefix(b, []byte(HeaderLine)) && bytes.HasSuffix(b, []byte(crlf+crlf))
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// word returns the first word of a line and what follows it.
func word(line []byte) (w, rest []byte) {
	i := 0
	for i < len(line) && !blank(line[i]) {
		i++
	}
	return line[:i], line[i:]
}

// maxVerb is the length of CONNECT.
const maxVerb = 7

// upper returns a short word in capitals; a longer one is no verb.
func upper(w []byte) []byte {
	if len(w) > maxVerb {
		return nil
	}
	var out [maxVerb]byte
	for i, c := range w {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		out[i] = c
	}
	return out[:len(w)]
}

// list are the words of a line; no operation has more than four.
type list struct {
	at [4][]byte
	n  int
}

func words(line []byte) (l list, ok bool) {
	for {
		for len(line) > 0 && blank(line[0]) {
			line = line[1:]
		}
		if len(line) == 0 {
			return l, true
		}
		if l.n == len(l.at) {
			return l, false
		}
		l.at[l.n], line = word(line)
		l.n++
	}
}

// size reads a number as the protocol has them: digits only.
func size(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, n <= maxSize
}
