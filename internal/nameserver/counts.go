package nameserver

import "sync/atomic"

// Names of what was not answered as asked; status and metrics show them as names_NAME.
const (
	dropReceive   = "receive"         // the socket failed
	dropForeign   = "foreign_source"  // from an address that is not the network's
	dropMalformed = "malformed"       // no query; told so where it has a header
	dropResponse  = "response"        // an answer that nobody asked for
	dropOperation = "operation"       // updates and the like
	dropSend      = "send"            // an answer that could not be sent
	dropTCPFull   = "tcp_full"        // a connection too many
	dropTCPSlow   = "tcp_slow"        // a connection whose query or answer took too long
	dropFull      = "upstream_full"   // too many wait for other servers
	dropSource    = "upstream_source" // too many from one source wait for other servers
	dropNoServer  = "upstream_none"   // the host has no resolver
	dropFailed    = "upstream_failed" // no resolver of the host answered
	dropForged    = "upstream_forged" // answered something that was not asked
	dropLoop      = "upstream_loop"   // came back to us by way of the host's resolvers
)

// Drops are all names of drops.
var Drops = []string{
	dropReceive, dropForeign, dropMalformed, dropResponse, dropOperation, dropSend, dropTCPFull, dropTCPSlow,
	dropFull, dropSource, dropNoServer, dropFailed, dropForged, dropLoop,
}

type counts struct {
	queries, forwarded atomic.Uint64
	drops              [14]atomic.Uint64 // as Drops
}

func (c *counts) drop(reason string) {
	for i, d := range Drops {
		if d == reason {
			c.drops[i].Add(1)
			return
		}
	}
}

// sent takes what a socket's write returned.
func (c *counts) sent(_ int, err error) {
	if err != nil {
		c.drop(dropSend)
	}
}

// Counts are what a Server did since it began.
type Counts struct {
	Queries   uint64            // that came
	Forwarded uint64            // that the host's resolvers were asked
	Drops     map[string]uint64 // by name
	Entries   int               // names in all tables
	Fullest   int               // the most in one table, of names.MaxEntries
	Waiting   int               // queries that wait for the host's resolvers, of MaxWaiting
}

// Counts returns what was done so far.
func (s *Server) Counts() Counts {
	c := Counts{Queries: s.counts.queries.Load(), Forwarded: s.counts.forwarded.Load(), Drops: make(map[string]uint64, len(Drops)+2), Waiting: s.forward.waitingNow()}
	for i, d := range Drops {
		c.Drops[d] = s.counts.drops[i].Load()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	c.Drops["record_bad"], c.Drops["record_full"] = 0, 0
	for _, n := range s.networks {
		n.mu.RLock()
		t := n.table.Counts()
		e := n.table.Entries()
		n.mu.RUnlock()
		c.Entries += e
		c.Fullest = max(c.Fullest, e)
		c.Drops["record_bad"] += t.Bad
		c.Drops["record_full"] += t.Full
	}
	return c
}
