package sealedtcp

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// Strangers bounds the connections that have not been authenticated yet: in all, and of one source.
type Strangers struct {
	most, each int

	mu sync.Mutex
	n  int
	by map[string]int
}

// NewStrangers lets most be there at a time, each of one source.
func NewStrangers(most, each int) *Strangers {
	return &Strangers{most: most, each: each, by: map[string]int{}}
}

// Enter takes a place for a connection of a source, to be given back by Leave; false when there is none.
func (s *Strangers) Enter(source string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= s.most || s.by[source] >= s.each {
		return false
	}
	s.n++
	s.by[source]++
	return true
}

// Leave gives a place back.
func (s *Strangers) Leave(source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
	if s.by[source]--; s.by[source] <= 0 {
		delete(s.by, source)
	}
}

// Len returns how many connections are there, and of how many sources.
func (s *Strangers) Len() (connections, sources int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, len(s.by)
}

// Passes reports errors of Accept that pass: a timeout, out of files or memory, or the other end was gone already.
func Passes(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED)
}
