package handshake

// Adopt marks the index of a session that another process agreed on; false when it is in use.
func (m *Machine) Adopt(index uint32) bool {
	_, taken := m.sessions[index]
	if taken || index == 0 || len(m.sessions) >= MaxSessions {
		return false
	}
	m.sessions[index] = struct{}{}
	return true
}

// Answered returns the marks of the hellos that drew an answer, oldest first, for a process that takes over.
func (m *Machine) Answered() []byte {
	r := &m.replays
	out := make([]byte, 0, macSize*len(r.ring))
	for i := range r.ring {
		k := r.ring[(r.next+i)%len(r.ring)]
		out = append(out, k[:]...)
	}
	return out
}

// AdoptAnswered remembers what Answered returned: a hello answered there is a hello not answered here.
func (m *Machine) AdoptAnswered(marks []byte) {
	for ; len(marks) >= macSize; marks = marks[macSize:] {
		m.replays.add(marks[:macSize])
	}
}
