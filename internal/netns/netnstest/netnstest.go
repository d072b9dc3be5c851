// Package netnstest is a netns.System in memory: namespaces are numbers, processes end when told to.
package netnstest

import (
	"fmt"
	"sync"

	"github.com/weft-net/weft/internal/netns"
)

// System is the fake. Paths and processes must be added first.
type System struct {
	mu    sync.Mutex
	next  uint64
	paths map[string]netns.ID
	procs map[int]*process
}

var _ netns.System = (*System)(nil)

// New returns a fake whose current namespace is number 1.
func New() *System {
	return &System{next: 2, paths: map[string]netns.ID{}, procs: map[int]*process{}}
}

type namespace struct{ id netns.ID }

func (n namespace) ID() netns.ID            { return n.id }
func (n namespace) FD() int                 { return -1 }
func (n namespace) Do(f func() error) error { return f() }
func (n namespace) Close() error            { return nil }

// Current returns namespace 1.
func (s *System) Current() (netns.Namespace, error) {
	return namespace{netns.ID{Dev: 4, Ino: 1}}, nil
}

// New returns a namespace with the next number.
func (s *System) New() (netns.Namespace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return namespace{s.draw()}, nil
}

func (s *System) draw() netns.ID {
	id := netns.ID{Dev: 4, Ino: s.next}
	s.next++
	return id
}

// AddPath makes a namespace under a path, a new one even when the path exists.
func (s *System) AddPath(path string) netns.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paths[path] = s.draw()
	return s.paths[path]
}

// RemovePath removes a path.
func (s *System) RemovePath(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.paths, path)
}

// Path opens what AddPath made.
func (s *System) Path(path string) (netns.Namespace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.paths[path]
	if !ok {
		return nil, fmt.Errorf("open network namespace %s: no such file", path)
	}
	return namespace{id}, nil
}

type process struct {
	ns    netns.ID
	start uint64
	done  chan struct{}
}

func (p *process) StartTime() uint64     { return p.start }
func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Close() error          { return nil }

// AddProcess starts a process in a namespace of its own.
func (s *System) AddProcess(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.draw()
	s.procs[pid] = &process{ns: id, start: 1000 + id.Ino, done: make(chan struct{})}
}

// Each opens the namespaces of paths and processes.
func (s *System) Each(f func(netns.Namespace) bool) error {
	s.mu.Lock()
	seen := map[netns.ID]bool{}
	for _, id := range s.paths {
		seen[id] = true
	}
	for _, p := range s.procs {
		seen[p.ns] = true
	}
	s.mu.Unlock()
	for id := range seen {
		if !f(namespace{id}) {
			break
		}
	}
	return nil
}

// EndProcess ends a process.
func (s *System) EndProcess(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.procs[pid].done)
	delete(s.procs, pid)
}

// PID opens the namespace of a process that AddProcess started.
func (s *System) PID(pid int) (netns.Namespace, error) {
	p, err := s.process(pid)
	if err != nil {
		return nil, err
	}
	return namespace{p.ns}, nil
}

// Process watches a process that AddProcess started.
func (s *System) Process(pid int) (netns.Process, error) { return s.process(pid) }

func (s *System) process(pid int) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.procs[pid]
	if !ok {
		return nil, fmt.Errorf("process %d: %w", pid, netns.ErrGone)
	}
	return p, nil
}
