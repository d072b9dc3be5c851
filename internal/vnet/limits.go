package vnet

import "time"

// Limits.
const (
	MaxVNI = 1<<24 - 1
	MinMTU = 1280 // the least that IPv6 allows (RFC 8200 section 5)
	MaxMTU = 9000

	// MaxAttachments is how many attachments a host holds: a Linux bridge has 1,023 ports.
	MaxAttachments = 1000
	// MaxAddrs is how many addresses one attachment gets.
	MaxAddrs = 16
	// MaxWanted is how many groups of other hosts are programmed per network. With the
	// attachments' own limit it stays below the bridge's table (nl.GroupTable).
	MaxWanted = 16384
	// MaxRemotes is how many attachments of other hosts are programmed per network.
	MaxRemotes = 65536
	// MaxMemberships is how many memberships of a network are published.
	MaxMemberships = 65536
	// maxInner is how far weftN is counted.
	maxInner = 64
	// maxState is how many bytes of saved state are read back.
	maxState = 16 << 20
)

const (
	// debounce is how long after the first hint the memberships are read: a repeated
	// report may delete an entry and add it again.
	debounce = 50 * time.Millisecond
	// reachTries is how often a container is looked for to which a subnet is new: once a second, for longer than Docker takes
	// to move the interface that it was told of before.
	reachTries = 30
	// recheck is how often all is read without a hint: no notification tells that the
	// kernel switched snooping off, nor that a source's timer ended.
	recheck = 5 * time.Second
)
