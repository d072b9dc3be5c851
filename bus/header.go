package bus

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/envelope"
	"github.com/weft-net/weft/internal/natsproto"
	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

// MaxHeader is the longest block of headers in bytes, as NATS writes it: 12, and for each value its name, itself and 4.
const MaxHeader = rmcast.MaxHeaders - envelope.MaxReply - 2

// ErrHeader is wrapped by errors that name a header.
var ErrHeader = errors.New("bus: bad header")

// Header are names and their values, as NATS has them: names are compared as they are written, and have any number of values,
// which keep their order. Names are one or more printable ASCII characters without a colon; values are without control
// characters, and blanks around them are not kept.
type Header map[string][]string

// Get returns the first value of a name, or "".
func (h Header) Get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set makes a value the only one of a name.
func (h Header) Set(name, value string) { h[name] = []string{value} }

// Add gives a name one more value.
func (h Header) Add(name, value string) { h[name] = append(h[name], value) }

// append writes the block that NATS clients read; names are sorted.
func (h Header) append(b []byte) ([]byte, error) {
	if len(h) == 0 {
		return b, nil
	}
	var fields []natsproto.Field
	size := len(natsproto.HeaderLine) + 4
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
			return b, fmt.Errorf("%w name %.64q: printable ASCII without colon and blanks", ErrHeader, name)
		}
		for _, v := range h[name] {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return b, fmt.Errorf("%w %.64s: control characters in the value", ErrHeader, name)
			}
			fields = append(fields, natsproto.Field{Name: name, Value: v})
			size += len(name) + len(v) + 4
		}
	}
	if size > MaxHeader {
		return b, fmt.Errorf("%w: %w: headers of %d bytes, at most %d", ErrHeader, ErrTooLarge, size, MaxHeader)
	}
	return natsproto.AppendHeader(b, fields), nil
}

// Outgoing is a message to send that is more than a payload.
type Outgoing struct {
	// Subject matches the publisher's; empty: the publisher's own.
	Subject string
	// Reply is a subject on which an answer is wanted; empty: none is. Request sets it.
	Reply   string
	Header  Header
	Payload []byte
}

// head returns what goes with the message beside subject and payload; nil for nothing.
func (o *Outgoing) head() ([]byte, error) {
	if o.Reply == "" && len(o.Header) == 0 {
		return nil, nil
	}
	var e envelope.Envelope
	if o.Reply != "" {
		if err := checkSubject(o.Reply, subject.Check); err != nil {
			return nil, fmt.Errorf("reply: %w", err)
		}
		e.Reply = []byte(o.Reply)
	}
	var err error
	if e.Header, err = o.Header.append(nil); err != nil {
		return nil, err
	}
	return envelope.Append(nil, e), nil
}

// reservedPrefix begins subjects that the daemons of a cluster keep to themselves.
const reservedPrefix = "$WEFT."

func reserved(subj string) bool { return strings.HasPrefix(subj, reservedPrefix) }

// checkSubject has the error of a subject or pattern that is too long wrap ErrTooLarge as well, and refuses what is weft's own.
func checkSubject(s string, check func(string) error) error {
	err := check(s)
	if err == nil && reserved(s) {
		return fmt.Errorf("%w %q: what begins with %s is weft's own", ErrSubject, s, reservedPrefix)
	}
	if err != nil && len(s) > subject.MaxLength {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

// extra is what few messages have.
type extra struct {
	reply  string
	header []byte
}

// extraOf reads what goes with a message; nil when it makes no sense.
func (f *feed) extraOf(head []byte) *extra {
	e, err := envelope.Decode(head)
	if err == nil && e.Reply != nil {
		err = subject.Check(string(e.Reply))
	}
	if err != nil {
		f.malformed(err)
		return nil
	}
	return &extra{reply: string(e.Reply), header: e.Header}
}

// Reply is the subject on which an answer is wanted, or "". Bus.Answer answers.
func (m *Message) Reply() string {
	if m.extra == nil {
		return ""
	}
	return m.extra.reply
}

// Header returns the headers, nil if there are none. They are read at each call, and the caller's own.
func (m *Message) Header() Header {
	_, fields := m.fields()
	if len(fields) == 0 {
		return nil
	}
	h := make(Header, len(fields))
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	return h
}

// fields returns the status that a NATS server may have put before the headers, and these.
func (m *Message) fields() (status string, fields []natsproto.Field) {
	if m.extra == nil || len(m.extra.header) == 0 {
		return "", nil
	}
	status, fields, _ = natsproto.ParseHeader(m.extra.header)
	return status, fields
}
