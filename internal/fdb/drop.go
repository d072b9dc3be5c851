package fdb

// Drop is why a frame is not sent or not delivered; zero means that it is.
type Drop uint8

// The reasons. Their texts are names of counters and never change.
const (
	Deliver Drop = iota
	DropShort
	DropMalformed
	DropVLAN
	DropNonIP
	DropLinkControl
	DropIGMP
	DropMLD
	DropARPUnknown
	DropNDUnknown
	DropUnknownUnicast
	DropLocal
	DropNoMember
	DropDeniedGroup
	DropNobody
	DropWrongSource
	DropStray
	NumDrops // how many there are, for arrays of counters
)

var dropNames = [NumDrops]string{
	Deliver:            "",
	DropShort:          "short_frame",     // less than an Ethernet header
	DropMalformed:      "malformed",       // IP header cut, or its group is not the one of the MAC
	DropVLAN:           "vlan_tag",        // networks carry untagged frames
	DropNonIP:          "non_ip",          // a group MAC that is no IP group's
	DropLinkControl:    "link_control",    // 01:80:c2:00:00:0x: STP, LLDP, pause
	DropIGMP:           "igmp",            // queries and reports stay in their bridge
	DropMLD:            "mld",             // likewise
	DropARPUnknown:     "arp_unknown",     // asks for an address nobody elsewhere has
	DropNDUnknown:      "nd_unknown",      // likewise
	DropUnknownUnicast: "unknown_unicast", // no flooding
	DropLocal:          "local",           // the attachment is on this host
	DropNoMember:       "no_member",       // no other host wants the group from this source
	DropDeniedGroup:    "denied_group",    // the network's policy
	DropNobody:         "no_host",         // no other host has attachments here
	DropWrongSource:    "wrong_source",    // the source MAC is another host's
	DropStray:          "stray",           // addressed to an attachment elsewhere
}

// String returns the counter's name, empty for Deliver.
func (d Drop) String() string {
	if d < NumDrops {
		return dropNames[d]
	}
	return "unknown"
}
