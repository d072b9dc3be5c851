package rmcast

import "time"

// Version of the wire; hellos of another are refused by silence and counted.
const Version = 1

// Types of datagrams: the first byte. They differ from those of package wire.
const (
	TypeHello   = 0x40
	TypeControl = 0x41
	TypeData    = 0x42
	TypeParity  = 0x44
)

// Bounds. None can be exceeded by what comes from outside.
const (
	// MaxMembers a member knows; more are not taken. Each costs about 3 kB.
	MaxMembers = 16384
	// MaxInterests of one member.
	MaxInterests = 2048
	// MaxStreams that a member receives of one other.
	MaxStreams = 4096
	// MaxMessage is the longest message in bytes, subject and headers included.
	MaxMessage = 16 << 20
	// MaxHeaders is the longest block of headers: 1 MiB and what goes with it.
	MaxHeaders = 1<<20 + 1<<10
	// MinDatagram and MaxDatagram bound the UDP payload that packets fill.
	MinDatagram = 512
	MaxDatagram = 8972
	// DefaultDatagram fits an Ethernet MTU of 1500 with room for a tunnel or two.
	DefaultDatagram = 1400
	// MaxTrain is the most packets that leave in one go, MaxTrainBytes their length.
	MaxTrain      = 44
	MaxTrainBytes = 62 << 10
	// maxGaps is how many separate gaps a stream may have before packets further ahead are not taken.
	maxGaps = 2048
	// maxAhead is how many packets beyond the next are taken.
	maxAhead = 1 << 16
	// maxNackRanges and maxNackPackets bound one NACK.
	maxNackRanges  = 96
	maxNackPackets = 1024
	// maxWindow bounds a window in bytes; maxSlots its packets.
	maxWindow = 256 << 20
	maxSlots  = 1 << 18
	// slotCost is what a packet costs beside its bytes when windows are counted.
	slotCost = 128
	// maxAnswered bounds the strangers-to-be that we answered lately.
	maxAnswered = 1024
	// maxGroups bounds the queue groups of a stream on many subjects, MaxDeals those of one subject.
	maxGroups = 2048
	MaxDeals  = 255
	// maxRoutes is how many subjects of a stream are remembered with who of which queue groups wants them.
	maxRoutes = 1024
	// maxWeight bounds what a subscription of a queue group weighs.
	maxWeight = 1<<16 - 1
	// controlRoom is what records may fill in one control packet: every path carries it.
	controlRoom = 1100
)

// DefaultView is how many members one seeks that publishes nothing: up to so many everyone knows everyone.
const DefaultView = 256

// Defaults of windows, in bytes.
const (
	DefaultWindow  = 16 << 20
	DefaultHistory = 4 << 20
)

// Times.
const (
	// backoffLeast and backoffMost: how long a gap waits before it is asked for, at random.
	backoffLeast = 500 * time.Microsecond
	backoffMost  = 4 * time.Millisecond
	// toldWait is how much longer a gap waits of which only a heartbeat to this member tells: that comes to another socket than multicast,
	// where packets may wait for the processor. To ask for them costs them once more, for all.
	toldWait = 10 * time.Millisecond
	// nackAgain is when an unanswered NACK is repeated at the earliest (two round trips, where that is longer), then after
	// twice that and so on, up to nackMax.
	nackAgain = 10 * time.Millisecond
	nackMax   = 200 * time.Millisecond
	// maxRTT is the longest round trip that is believed.
	maxRTT = time.Second
	// peerAfter is how many tries go to the publisher before others are asked as well.
	peerAfter = 5
	// peerAnyway is how many NACKs for one packet go to a publisher that shows that it lives, and does not answer, before others are asked as
	// well; unheardAfter, for how long: it may gather what is asked for (parityBlocked).
	peerAnyway   = 16
	unheardAfter = parityBlocked + 100*time.Millisecond
	// repairHold is how soon a member repairs one packet of another again: an answer on its way is not sent twice.
	repairHold = 6 * time.Millisecond
	// ackDelay is how long a receiver may keep what it has to itself.
	ackDelay = 20 * time.Millisecond
	// beatFirst doubles to beatLast: heartbeats while not all have confirmed the tail.
	beatFirst = 20 * time.Millisecond
	beatLast  = 200 * time.Millisecond
	// beatBlocked is the pause while Send waits for room: a confirmation that was lost must not cost more.
	beatBlocked = 5 * time.Millisecond
	// patience is how long the others wait for a receiver that says nothing.
	patience = 500 * time.Millisecond
	// cutEvery is how often loss may shrink the congestion window.
	cutEvery = 20 * time.Millisecond
	// announceFirst doubles to announceLast.
	announceFirst = 50 * time.Millisecond
	announceLast  = time.Second
	// deafAfter is how long traffic may show by unicast only before multicast counts as lost.
	deafAfter = 300 * time.Millisecond
	// doubts is how often that must show, doubt how far apart.
	doubts = 3
	doubt  = 30 * time.Millisecond
	// deafHold is how long it stays so, whatever is heard. Then beacons end it, or packets (hearAgain).
	deafHold = 2 * time.Second
	// helloEvery is how often seeds that did not answer, and half-known members, are spoken to.
	helloEvery = 500 * time.Millisecond
	// pingRest, pingBusy: how often a member is asked for a sign of life; busy while streams run between the two.
	pingRest = 10 * time.Second
	pingBusy = 300 * time.Millisecond
	busyFor  = 2 * time.Second
	// suspectRest... : silence after which a member is suspected, then unreachable.
	suspectRest     = 12 * time.Second
	unreachableRest = 16 * time.Second
	suspectBusy     = time.Second
	unreachableBusy = 3 * time.Second
	// forgetAfter is how long an unreachable member is remembered.
	forgetAfter = 10 * time.Minute
	// orphanAfter is how long the others are asked for what a member that is gone has left behind, before it is told as lost.
	orphanAfter = 5 * time.Second
	// tailEvery, twice that, ...: how often others are told what is here of a member that is gone.
	tailEvery = 250 * time.Millisecond
	tailTimes = 10
	// stateAgain is how soon interests that were not confirmed are sent again, doubling to 2 s.
	stateAgain = 100 * time.Millisecond
	stateMax   = 2 * time.Second
	// peersFirst doubles to peersLast: how often a member that knows others than we do is told whom we know.
	peersFirst = 500 * time.Millisecond
	peersLast  = time.Minute
	// DefaultKeep is how long a sent packet is kept for late joiners.
	DefaultKeep = time.Minute
)

// Congestion window in bytes.
const (
	leastCongestion = 256 << 10
	firstCongestion = 512 << 10
)

// Repairs for one receiver in bytes a second, beside a quarter of what is sent; and the burst.
const (
	repairRate  = 4 << 20
	repairBurst = 2 << 20
	// the same for one that confirms nothing
	silentRate  = 64 << 10
	silentBurst = 256 << 10
)
