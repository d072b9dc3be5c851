package edge

import "time"

// Bounds of what other members and strangers can make a Set hold.
const (
	// MaxEdges bounds the connections, MaxPerMember those with one member: both ends may dial at once.
	MaxEdges     = 512
	MaxPerMember = 3
	// MaxStrangers bounds the connections that are not authenticated yet, MaxPerSource those of one address.
	MaxStrangers = 64
	MaxPerSource = 16
	// MaxDials bounds the connections that are being made.
	MaxDials = 32
	// HandshakeTime is how long a connection may stay unauthenticated.
	HandshakeTime = 5 * time.Second
	// MaxFrame is the longest datagram in bytes.
	MaxFrame = 9216
	// MaxQueue is how many bytes may wait in an edge for the kernel to take them; what comes on top is dropped. Two publishers
	// that are ahead by as much as they may fit in.
	MaxQueue = 5 << 19
	// maxUnsent is how many bytes the kernel takes of an edge beyond what it has sent, where it can be told. A millisecond or more of a fast
	// connection, so that it is never idle while the writer wakes up, and little of a slow one.
	maxUnsent = 256 << 10

	dialTime    = 2 * time.Second
	writeTime   = 10 * time.Second // for the kernel to take what has been queued: then the other end does not read
	newer       = time.Second      // by how much a connection must be younger to be preferred for that
	surplus     = 3 * time.Second  // without a byte: then an edge that has a better one beside it ends
	period      = time.Second      // of the janitor
	pause       = 50 * time.Millisecond
	maxHello    = 2048
	keepSpare   = 64 << 10 // a longer buffer that was not needed so often in a row is given back
	spareRounds = 64
	unlimited   = 1 << 40 // hellos a second: strangers are bounded by connection, and TCP has proved their address
)

// Names of counters.
const (
	CountDialled  = "dialled"  // edges made from here
	CountAccepted = "accepted" // and from there
	CountEnded    = "ended"
	CountRxBytes  = "rx_bytes" // of datagrams
	CountTxBytes  = "tx_bytes"

	DropStrangers = "strangers" // too many connections not authenticated
	DropMagic     = "magic"     // does not begin as weft does
	DropSilent    = "silent"    // no whole handshake in HandshakeTime
	DropHandshake = "handshake" // another token or bus, replay, malformed
	DropEdges     = "edges_full"
	DropDials     = "dials_full"
	DropQueue     = "queue_full"  // datagrams: the other end, or the way to it, is slower than what is sent
	DropTooLong   = "too_long"    // datagrams
	DropNoEdge    = "no_edge"     // datagrams for a member without an edge
	DropMalformed = "malformed"   // frames; the edge ends
	DropAccept    = "accept"      // the system lacked something
	DropDial      = "dial_failed" // nobody there, or no answer
)

// Names are those of all counters.
var Names = []string{
	CountDialled, CountAccepted, CountEnded, CountRxBytes, CountTxBytes, DropStrangers, DropMagic, DropSilent, DropHandshake, DropEdges,
	DropDials, DropQueue, DropTooLong, DropNoEdge, DropMalformed, DropAccept, DropDial,
}
