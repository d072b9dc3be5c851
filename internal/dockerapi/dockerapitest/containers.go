package dockerapitest

import (
	"maps"
	"net/http"
	"slices"

	"github.com/weft-net/weft/internal/dockerapi"
)

// maxUnheard bounds the events that a follower has not read yet.
const maxUnheard = 100

// SetContainer has a container run, or be another from now on, and tells those who follow.
func (e *Engine) SetContainer(c dockerapi.Container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[c.ID] = c
	e.tell(`{"Type":"container","Action":"start","Actor":{"ID":"` + c.ID + `"}}`)
}

// EndContainer ends a container.
func (e *Engine) EndContainer(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
	e.tell(`{"Type":"network","Action":"disconnect"}`)
}

// Tell sends those who follow a line as it is; an empty one ends their connections.
func (e *Engine) Tell(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tell(line)
}

func (e *Engine) tell(line string) {
	for f := range e.followers {
		f <- line
	}
}

// Inspected are the containers that were asked about so far, in order.
func (e *Engine) Inspected() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.asked)
}

func (e *Engine) follow(w http.ResponseWriter, r *http.Request) {
	f := make(chan string, maxUnheard)
	e.mu.Lock()
	e.followers[f] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.followers, f)
		e.mu.Unlock()
	}()
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	for {
		if out.Flush() != nil {
			return
		}
		select {
		case line := <-f:
			if line == "" {
				return
			}
			if _, err := w.Write([]byte(line + "\n")); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// container answers as Docker does: the list has less of each than what is shown of one.
func (e *Engine) container(part []string) (any, error) {
	if len(part) == 1 {
		var all []map[string]any
		for _, id := range slices.Sorted(maps.Keys(e.containers)) {
			c := e.containers[id]
			places := map[string]any{}
			for name, x := range c.NetworkSettings.Networks {
				places[name] = map[string]any{"EndpointID": x.EndpointID, "Aliases": nil}
			}
			all = append(all, map[string]any{"Id": id, "Names": []string{c.Name}, "NetworkSettings": map[string]any{"Networks": places}})
		}
		return all, nil
	}
	c, ok := e.containers[part[0]]
	if !ok {
		return nil, noSuch("container", part[0])
	}
	e.asked = append(e.asked, part[0])
	return c, nil
}
