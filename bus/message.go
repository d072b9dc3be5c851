package bus

import "fmt"

// Message is one message.
type Message struct {
	Subject string
	// Payload must not be changed: others may read the same bytes. It stays valid for as long as it is referred to, and keeps up to
	// 256 KiB of its neighbours in memory; clone what is kept for long. Of a subscription WithLent it is valid until the next message.
	Payload []byte
	// Publisher is the name of the member that sent it (Config.Member), Epoch the number of that process.
	Publisher string
	Epoch     uint64
	// Number counts the messages of its publisher from 1: with Epoch it is a position to start from.
	Number uint64

	extra *extra // nil for most
}

// Lost says that messages were lost: From to To, both included, of one publisher of one process. Messages() yields it in their place.
type Lost struct {
	Subject   string // of the publisher
	Publisher string
	Epoch     uint64
	From, To  uint64
}

// Error says what was lost.
func (l *Lost) Error() string {
	return fmt.Sprintf("bus: lost messages %d to %d of %q from %s", l.From, l.To, l.Subject, l.Publisher)
}
