package stream

import (
	"time"
)

// Bounds of what other hosts and strangers can make a Service hold.
const (
	// MaxStrangers bounds the connections that are not authenticated yet, MaxPerSource those of one source:
	// an IP address, or the relay that brings them.
	MaxStrangers = 256
	MaxPerSource = 16
	// HandshakeTime is how long a connection may stay unauthenticated.
	HandshakeTime = 5 * time.Second
	// MaxSessions bounds the sessions in all, MaxPerHost those with one host.
	MaxSessions = 2048
	MaxPerHost  = 8
	// MaxStreams bounds the streams of a session that the other host opened; each may hold Window bytes not yet read.
	MaxStreams = 128
	Window     = 1 << 20
	// MaxAccepted bounds the streams that wait for Accept.
	MaxAccepted = 256
	// MaxSplices bounds the pairs of streams relayed for others, MaxSplicesPerHost those asked for by one host.
	MaxSplices        = 256
	MaxSplicesPerHost = 32
	// MaxEndpoints and MaxRelays bound what is tried for one host.
	MaxEndpoints = 8
	MaxRelays    = 4

	// IdleTime closes a session without streams, which holds 100 kB and more: who is asked for all it knows (memberlist, each 30 s)
	// is another host each time. SpliceIdle closes a splice without traffic. Sessions through the splice send keepalives.
	IdleTime   = 10 * time.Second
	SpliceIdle = time.Minute

	dialTime      = 2 * time.Second  // for all endpoints, in parallel
	relayTime     = 5 * time.Second  // for one relay
	spliceTime    = 3 * time.Second  // for what a relay does of it
	openTime      = 5 * time.Second  // for the other host to take a stream
	keepAlive     = 10 * time.Second // a peer that vanished is noticed after twice this
	closeTime     = 30 * time.Second // a stream closed by one end only
	drainGrace    = 2 * time.Second
	janitorPeriod = time.Second
	backOffFirst  = 500 * time.Millisecond
	backOffMax    = 10 * time.Second
	upgradePeriod = 30 * time.Second // a relayed session is kept: is there a direct way now?
	acceptPause   = 50 * time.Millisecond
	maxTries      = 3
	unlimited     = 1 << 40 // hellos a second
)

// Names of counters.
const (
	CountSessions     = "sessions"      // agreed
	CountAccepted     = "accepted"      // streams taken from other hosts
	CountSpliced      = "spliced"       // streams relayed for others
	CountSplicedBytes = "spliced_bytes" // in both directions
	CountAcceptFailed = "accept_failed" // the system lacked something

	DropStrangers  = "strangers" // too many connections not authenticated
	DropMagic      = "magic"     // does not begin as weft does
	DropSilent     = "silent"    // no whole handshake in HandshakeTime
	DropHandshake  = "handshake" // wrong MAC, replay, not admitted, malformed
	DropSessions   = "sessions_full"
	DropStreams    = "streams_full"
	DropQueue      = "queue_full" // nobody calls Accept
	DropSplices    = "splices_full"
	DropSpliceIdle = "splice_idle"
	DropOperation  = "operation" // unknown, or not allowed there
)

// Counts and Drops are the names of all counters.
var (
	Counts = []string{CountSessions, CountAccepted, CountSpliced, CountSplicedBytes, CountAcceptFailed}
	Drops  = []string{
		DropStrangers, DropMagic, DropSilent,
		DropHandshake, DropSessions, DropStreams, DropQueue, DropSplices, DropSpliceIdle, DropOperation,
	}
)
