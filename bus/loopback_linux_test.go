package bus

// loopback carries multicast between processes of a host.
const loopback = "lo"
