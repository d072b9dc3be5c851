package bus

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/rmcast"
	"github.com/weft-net/weft/internal/subject"
)

const (
	// MaxRequests is how many requests of one member may wait for their answers at a time.
	MaxRequests = 16_384
	// settle is how long a request waits for a member that subscribes to its subject, counted from Join: so long may it take until
	// members have found each other. The interest of a member that is known is waited for as long.
	settle = time.Second
	// lastWords is how long a request waits for an answer of those who have gone.
	lastWords = 50 * time.Millisecond
	// inboxPrefix begins the subjects of answers, as with NATS.
	inboxPrefix = "_INBOX."
	// statusNobody is what answers in the name of others when none of these is there, as NATS servers do.
	statusNobody = "503"
)

// Headers of an answer that is a refusal, as the services of NATS have them.
const (
	headerError     = "Nats-Service-Error"
	headerErrorCode = "Nats-Service-Error-Code"
)

// Errors of requests.
var (
	// ErrNoResponders says that nobody is there who could answer: no member that can be reached subscribes to the subject, or those
	// that did have gone.
	ErrNoResponders = errors.New("bus: nobody is there to answer")
	// ErrRequests says that MaxRequests wait for answers.
	ErrRequests = errors.New("bus: too many requests at a time")
)

// Refused is the answer of a responder whose handler failed.
type Refused struct {
	Subject string // of the request
	Member  string // whose handler it was
	Reason  string
}

// Error says who refused and why.
func (r *Refused) Error() string {
	return fmt.Sprintf("bus: request on %q refused by %s: %s", r.Subject, r.Member, r.Reason)
}

// Request sends a request to those who subscribe to a subject, and returns the first answer. Each subscription outside of queue
// groups gets it, and one of each group. Give ctx an end: who has the request may never answer.
//
// Errors: ErrNoResponders, at once when it is known that nobody subscribes to the subject (in the first second after Join: when
// that is over); what ctx ends with, wrapped in an error that names the subject and who did not answer; *Refused; ErrRequests;
// those of Send. Of messages that a member does not get because it was cut off for long, requests are no exception.
//
// The first request on a subject makes a stream, and so does the first answer to a member: each costs about a round trip more
// than those that follow.
func (b *Bus) Request(ctx context.Context, subj string, payload []byte) (Message, error) {
	return b.RequestMessage(ctx, Outgoing{Subject: subj, Payload: payload})
}

// RequestMessage is Request with headers. o.Reply is set by it.
func (b *Bus) RequestMessage(ctx context.Context, o Outgoing) (Message, error) {
	if err := checkSubject(o.Subject, subject.Check); err != nil {
		return Message{}, fmt.Errorf("bus: request: %w", err)
	}
	c, err := b.ask(&o)
	if err != nil {
		return Message{}, fmt.Errorf("bus: request: %w", err)
	}
	defer b.asked.done(c)
	who, err := b.responders(ctx, o.Subject)
	if err != nil {
		return Message{}, err
	}
	p, err := b.requests.get(b, o.Subject)
	if err != nil {
		return Message{}, fmt.Errorf("bus: request on %q: %w", o.Subject, err)
	}
	err = p.SendMessage(ctx, o)
	b.requests.put(p)
	if err != nil {
		return Message{}, fmt.Errorf("bus: request on %q: %w", o.Subject, err)
	}
	return b.answer(ctx, c, o.Subject, who)
}

// responders returns who subscribes to a subject.
func (b *Bus) responders(ctx context.Context, subj string) ([]rmcast.ID, error) {
	began := time.Now()
	for {
		changed := b.changed.wait()
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, ErrClosed
		}
		who, unknown := b.node.Wanting(subj)
		lack := b.node.Lacks(b.asked.version, who) // they do not know yet where to answer
		b.subs.Match(subj, func(subject.Entry[*Subscription]) {
			if !slices.Contains(who, b.self) {
				who = append(who, b.self)
			}
		})
		b.mu.Unlock()
		left := time.Until(b.began.Add(settle))
		if len(unknown) > 0 {
			left = time.Until(began.Add(settle))
		}
		if len(lack) > 0 {
			left = time.Until(began.Add(settle))
		}
		switch {
		case len(who) > 0 && (len(lack) == 0 || left <= 0):
			return who, nil
		case left <= 0:
			return nil, fmt.Errorf("%w on %q", ErrNoResponders, subj)
		}
		wait := time.NewTimer(left)
		select {
		case <-changed:
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, fmt.Errorf("bus: request on %q: nobody is there to answer yet: %w", subj, ctx.Err())
		}
		wait.Stop()
	}
}

// answer waits for the first answer of those who have a request.
func (b *Bus) answer(ctx context.Context, c *call, subj string, who []rmcast.ID) (Message, error) {
	last := time.NewTimer(time.Hour)
	defer last.Stop()
	for gone := false; ; {
		changed := b.changed.wait()
		b.mu.Lock()
		who = slices.DeleteFunc(who, func(id rmcast.ID) bool { return id != b.self && !b.node.Reachable(id) })
		b.mu.Unlock()
		if len(who) == 0 && !gone { // what they said before may be on its way to us within this process
			gone = true
			last.Reset(lastWords)
		}
		select {
		case m := <-c.answers:
			status, fields := m.fields()
			if status == statusNobody { // this one has nobody to ask: others may
				who = slices.DeleteFunc(who, func(id rmcast.ID) bool { return id == rmcast.ID(m.Epoch) })
				continue
			}
			for _, f := range fields {
				if f.Name == headerError {
					return m, &Refused{Subject: subj, Member: m.Publisher, Reason: f.Value}
				}
			}
			return m, nil
		case <-last.C:
			return Message{}, fmt.Errorf("%w on %q any more", ErrNoResponders, subj)
		case <-changed:
		case <-b.life.Done():
			return Message{}, ErrClosed
		case <-ctx.Done():
			return Message{}, fmt.Errorf("bus: request on %q: no answer of %s: %w", subj, strings.Join(b.names(who), ", "), ctx.Err())
		}
	}
}

// asked are the requests that wait for answers. All answers come by one subscription, made for the first of them.
type asked struct {
	mu      sync.Mutex
	inbox   string // up to the number of a request
	sub     *Subscription
	version uint32 // of this member's interests, that says it; the bus's lock guards it
	number  uint64
	calls   map[string]*call
	late    uint64
}

// call is one of them.
type call struct {
	id      string
	answers chan Message
}

// maxAnswers is how many answers to one request wait to be judged; more are counted as late.
const maxAnswers = 64

// ask makes a call and writes into the request where to answer.
func (b *Bus) ask(o *Outgoing) (*call, error) {
	a := &b.asked
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sub == nil {
		id := hex.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(b.self)))
		a.inbox = inboxPrefix + id + "."
		sub, err := b.Subscribe(a.inbox + "*")
		if err != nil {
			return nil, err
		}
		b.mu.Lock()
		a.version = sub.version
		b.mu.Unlock()
		a.sub, a.calls = sub, map[string]*call{}
		go b.hear(sub) // it ends with the bus
	}
	if len(a.calls) >= MaxRequests {
		return nil, fmt.Errorf("%w: %d", ErrRequests, MaxRequests)
	}
	a.number++
	c := &call{id: strconv.FormatUint(a.number, 36), answers: make(chan Message, maxAnswers)}
	a.calls[c.id] = c
	o.Reply = a.inbox + c.id
	return c, nil
}

// hear gives answers to those who wait for them.
func (b *Bus) hear(sub *Subscription) {
	a := &b.asked
	for m, err := range sub.Messages(b.life) {
		if err != nil {
			continue // whose answer is lost waits in vain
		}
		a.mu.Lock()
		c := a.calls[m.Subject[len(a.inbox):]]
		a.mu.Unlock()
		taken := false
		if c != nil {
			select {
			case c.answers <- m:
				taken = true
			default:
			}
		}
		if !taken {
			a.mu.Lock()
			a.late++
			a.mu.Unlock()
		}
	}
}

func (a *asked) done(c *call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.calls, c.id)
}
