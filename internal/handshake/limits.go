package handshake

import "time"

// Bounds of what peers and strangers can make a Machine hold or do.
const (
	// MaxHalfOpen bounds the attempts we began and, apart, those we answered.
	MaxHalfOpen = 1024
	// HalfOpenAge is how long an answer is waited for.
	HalfOpenAge = 5 * time.Second
	// MaxSessions bounds the session indices in use.
	MaxSessions = 1 << 16
	// MaxReplays is how many answered hellos are remembered.
	MaxReplays = 1 << 16
	// DefaultLoad is the number of hellos a second answered without proof of address: at most a tenth of a core.
	DefaultLoad = 200
	// CookieAge is how long a cookie secret is used; its cookies are good for another CookieAge.
	CookieAge = 2 * time.Minute
	// SourceRate and SourceBurst bound the hellos per second of one proven source under load.
	SourceRate  = 20
	SourceBurst = 5
	// MaxSources bounds the table of proven sources.
	MaxSources = 4096
	// MaxBadSecrets bounds the table of sources with a wrong secret.
	MaxBadSecrets = 256
	// MaxSource bounds the text that names a source, in bytes; what is longer is cut.
	MaxSource = 64

	// MaxSuites, MaxBuild and MaxText bound what Info and Refusal carry, in bytes or entries.
	MaxSuites = 4
	MaxBuild  = 64
	MaxText   = 240
	maxCode   = 16
)

// Names of counters. All but the first three are also reasons of Output.Drop.
const (
	CountHellos  = "hello"   // hellos under a right MAC
	CountDone    = "done"    // sessions agreed
	CountCookies = "cookies" // cookies sent

	DropShort     = "short"      // too short or too long for its type
	DropType      = "type"       // no handshake datagram
	DropBadSecret = "bad_secret" // first contact under another secret or cluster
	DropBadMAC    = "bad_mac"    // any other wrong MAC
	DropVersion   = "version"    // another wire version; answered
	DropReplay    = "replay"     // a hello answered before
	DropLoad      = "load"       // answered by a cookie
	DropRate      = "rate"       // a proven source asks too often
	DropHalfOpen  = "half_open"  // table full
	DropSessions  = "sessions"   // table full
	DropNoise     = "noise"      // does not decrypt
	DropInfo      = "info"       // what it says of itself is malformed, or not signed
	DropUnknown   = "unknown"    // no such attempt
	DropRefused   = "refused"    // Admit or Known said no
)

// Counts and Drops are the names of all counters.
var (
	Counts = []string{CountHellos, CountDone, CountCookies}
	Drops  = []string{
		DropShort, DropType, DropBadSecret, DropBadMAC, DropVersion, DropReplay,
		DropLoad, DropRate, DropHalfOpen, DropSessions, DropNoise, DropInfo, DropUnknown, DropRefused,
	}
)
