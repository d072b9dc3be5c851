package state

import (
	"time"

	"github.com/weft-net/weft/internal/wire"
)

// Limits of what one table may hold. A writer keeps the first group; a reader enforces the second, which leaves
// room for a table that is being cleaned or caught up with.
const (
	MaxKey     = 200      // bytes of a key, at least 1
	MaxValue   = 16 << 10 // bytes of a value
	MaxEntries = 8192     // live entries of a (writer, scope)
	MaxLive    = 1 << 20  // bytes of live entries of a (writer, scope), as they are encoded

	maxTableEntries = 2 * MaxEntries
	maxTableBytes   = 4 << 20

	MaxWriters = 2000      // tables of a scope: their vector fits one message
	MaxScopes  = 1024      // scopes a host holds, and scopes it keeps a withdrawn table of: the digest fits one message
	MaxTotal   = 256 << 20 // bytes of blocks in all tables together, unless Config says otherwise
)

// Sizes of blocks in bytes.
const (
	// MaxBlock bounds one block: the largest entry and the block's own fields fit.
	MaxBlock = 20 << 10
	// blockTarget is where a writer closes a block. A message of one block then crosses any path in one datagram
	// (wire.MinPath less the seal, a relay envelope and the message's own header), and one loss costs one block.
	blockTarget = wire.MinPath - wire.LinkHeader - wire.Tag - wire.RelayTotal - 16
)

// Cleaning: a writer cleans when its blocks exceed cleanFactor times the live entries plus cleanSlack.
const (
	cleanFactor = 2
	cleanSlack  = 8 << 10
	// Each commit cleans at most cleanStep times what it adds, plus cleanLeast: smooth, and still faster than
	// garbage is made. (At the threshold at least half of the log is garbage, so 2 would do on average.)
	cleanStep  = 4
	cleanLeast = 4 << 10
)

// Limits and times of the protocol.
const (
	// MaxMessage is the largest message in bytes: a link's plaintext less its kind byte.
	MaxMessage = wire.MaxPlain - 1
	// partTarget is where a message of an answer is closed: see blockTarget.
	partTarget = blockTarget + answerHeader + 2
	// maxAsked is the number of tables in one request.
	maxAsked = 256
	// maxWants is the number of tables known to be behind at a time; further claims wait for the next digest.
	maxWants = 4096
	// maxSources is how many peers are remembered as holders of what a table lacks.
	maxSources = 4
	// pushLimit is the number of bytes pushed unasked; of more only the version is told.
	pushLimit = 4 << 10

	// An answer's size follows what the path carries: halved when one is lost, doubled when one arrives.
	answerLeast  = 1 << 10
	answerFirst  = 16 << 10
	answerMost   = MaxMessage
	answerBudget = 8 << 20 // bytes per second that one peer may draw, and the burst

	digestEvery = time.Second
	// A push may be lost and the change be the last for hours: its version is told again after these times.
	hintFirst, hintAgain = 300 * time.Millisecond, 1500 * time.Millisecond
	// requestTimeout is doubled with every second loss in a row, up to requestMost.
	requestTimeout = 500 * time.Millisecond
	requestMost    = 2 * time.Second
	// partTimeout follows each message of an answer: the rest comes at once or not at all.
	partTimeout = 250 * time.Millisecond
)
