//go:build !linux

package bus

// loopback is chosen by the system.
const loopback = ""
