package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/measure"
)

// Operations of an Agent.
const (
	// OpOpen opens the receiving ends; Interface is where groups are joined. It comes first, once.
	OpOpen = "open"
	// OpJoin joins Group, and leaves the one before; without Group it only leaves.
	OpJoin = "join"
	// OpPing sends Count pings to To, one in IntervalMS, and answers with Trips.
	OpPing = "ping"
	// OpTCP sends to To for DurationMS, at most MaxMbit, and answers with Transferred.
	OpTCP = "tcp"
	// OpSend sends a Flow to To, the group's port if To is one, and answers with Sent.
	OpSend = "send"
	// OpCount answers with the Tally of Run at a Port once no more comes.
	OpCount = "count"
)

// Ports of an Agent's receiving ends.
const (
	PortCount = 7777 // datagrams one by one
	PortSuper = 7778 // datagrams that the kernel may have joined
	PortGroup = 7779
	PortEcho  = 7780
	PortTCP   = 7781
)

// Bounds of a Request.
const (
	// MaxDuration is the longest that one request sends.
	MaxDuration = time.Minute
	// MaxRate is in datagrams per second, to one address or group.
	MaxRate = 1_000_000
	// maxLine bounds a request or a reply, in bytes.
	maxLine = 16 << 10
)

// Request asks an Agent for one thing; fields that an operation does not name are not looked at.
type Request struct {
	Op           string     `json:"op"`
	Interface    string     `json:"interface,omitempty"`
	Group        netip.Addr `json:"group,omitzero"`
	To           netip.Addr `json:"to,omitzero"`
	PayloadBytes int        `json:"payload_bytes,omitempty"`
	Rate         float64    `json:"rate,omitempty"` // datagrams per second
	DurationMS   int        `json:"duration_ms,omitempty"`
	Run          uint32     `json:"run,omitempty"`
	Super        bool       `json:"super,omitempty"`
	Port         int        `json:"port,omitempty"`
	Count        int        `json:"count,omitempty"`
	IntervalMS   int        `json:"interval_ms,omitempty"`
	MaxMbit      int        `json:"max_mbit,omitempty"`
}

// Reply answers a Request: one of its fields, or none where nothing is to be said.
type Reply struct {
	Error       string         `json:"error,omitempty"`
	Trips       *Trips         `json:"trips,omitempty"`
	Transferred *Transferred   `json:"transferred,omitempty"`
	Sent        *Sent          `json:"sent,omitempty"`
	Tally       *measure.Tally `json:"tally,omitempty"`
}

// Duration returns DurationMS.
func (r Request) Duration() time.Duration { return time.Duration(r.DurationMS) * time.Millisecond }

// Takes bounds how long the request may take, what drains included.
func (r Request) Takes() time.Duration {
	return r.Duration() + r.Duration()/4 + time.Duration(r.Count)*time.Duration(r.IntervalMS)*time.Millisecond + drainTime
}

// Check refuses what is out of bounds. It does not judge addresses: whoever asks for another does.
func (r Request) Check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s: "+format, append([]any{r.Op}, args...)...)
	}
	unicast := r.To.Is4() && !r.To.IsMulticast() && !r.To.IsUnspecified()
	timed := r.DurationMS > 0 && r.Duration() <= MaxDuration
	switch r.Op {
	case OpOpen:
	case OpJoin:
		if r.Group.IsValid() && !(r.Group.Is4() && r.Group.IsMulticast()) {
			return fail("%s is no IPv4 group", r.Group)
		}
	case OpPing:
		if !unicast || r.Count < 1 || r.Count > maxPings || r.IntervalMS < 1 || r.Count*r.IntervalMS > int(MaxDuration/time.Millisecond) {
			return fail("%d to %q, one in %d ms: want 1 to %d in at most %v, to an IPv4 address", r.Count, r.To, r.IntervalMS, maxPings, MaxDuration)
		}
	case OpTCP:
		if !unicast || !timed || r.MaxMbit < 0 {
			return fail("to %q for %v: want at most %v, to an IPv4 address", r.To, r.Duration(), MaxDuration)
		}
	case OpSend:
		if !r.To.Is4() || r.To.IsUnspecified() || !timed {
			return fail("to %q for %v: want at most %v, to an IPv4 address", r.To, r.Duration(), MaxDuration)
		}
		if !(r.Rate > 0 && r.Rate <= MaxRate) || r.PayloadBytes < measure.HeaderSize || r.PayloadBytes > maxPayload {
			return fail("%g datagrams of %d bytes a second: want at most %d, of %d to %d bytes", r.Rate, r.PayloadBytes, MaxRate, measure.HeaderSize, maxPayload)
		}
	case OpCount:
		if r.Port != PortCount && r.Port != PortSuper && r.Port != PortGroup {
			return fail("nothing is counted at port %d", r.Port)
		}
	default:
		return fmt.Errorf("no operation %q", r.Op)
	}
	return nil
}

// Lines reads values of one line of JSON each.
type Lines struct{ in *bufio.Scanner }

// NewLines reads from r. Lines of more than 16 KiB end it with an error.
func NewLines(r io.Reader) *Lines {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	return &Lines{s}
}

// Next decodes the next line into v, refusing fields that v lacks; io.EOF after the last.
func (l *Lines) Next(v any) error {
	if !l.in.Scan() {
		if err := l.in.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	return Decode(l.in.Bytes(), v)
}

// Decode reads one JSON value that fills all of b, refusing fields that v lacks.
func Decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	if d.More() {
		return errors.New("message: more than one value")
	}
	return nil
}

// WriteLine writes v as a line of JSON, in one call.
func WriteLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("message: %w", err)
	}
	if len(b) >= maxLine {
		return fmt.Errorf("message of %d bytes: want less than %d", len(b), maxLine)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
