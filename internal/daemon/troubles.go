package daemon

import "slices"

// trouble shows a text in status until it is cleared with "".
func (s *System) trouble(key, text string) {
	s.mu.Lock()
	old := s.troubles[key]
	if text == "" {
		delete(s.troubles, key)
	} else {
		s.troubles[key] = text
	}
	s.mu.Unlock()
	if text != "" && text != old {
		s.log.Error("trouble", "text", text)
	}
}

func (s *System) troubleTexts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, t := range s.troubles {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}
