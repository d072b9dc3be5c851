// Package suite names what is tested, so that `go mod tidy` keeps what it needs.
package suite
