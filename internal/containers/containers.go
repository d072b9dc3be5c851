// Package containers has the name service answer to the names by which Docker knows the containers of this host: their own, their
// hostnames, aliases in networks, and those of the Swarm's service and task that they are.
//
//	Docker's events --> Watcher --> Docker: which containers run, what are they called --> Weft: further names of an attachment
//
// Docker tells its network drivers no names, so this asks Docker's API: it reads and changes nothing there, and weft does without it,
// unless it is told to (weft up --docker-names).
package containers

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/internal/dockerapi"
	"github.com/weft-net/weft/internal/names"
)

// Engine is Docker's engine, of which package dockerapi has the real one.
type Engine interface {
	// Follow calls changed when it hears of changes from now on, and after each, until ctx ends or it fails.
	Follow(ctx context.Context, changed func()) error
	Containers(ctx context.Context) ([]dockerapi.Container, error)
	Container(ctx context.Context, id string) (dockerapi.Container, bool, error)
}

// Weft is the host whose containers they are.
type Weft interface {
	// Attachment returns the network and name of the attachment that stands for an endpoint of Docker's; false when it is none of weft's.
	Attachment(endpoint string) (network, name string, ok bool)
	// SetNames gives an attachment further names, in place of those it had.
	SetNames(network, attachment string, names []string) error
}

const (
	// answerTime is how long Docker may take to answer a question.
	answerTime = 10 * time.Second
	// After what fails it is tried again, first after retryFirst, then after twice as long each time up to retryMost.
	retryFirst = time.Second
	retryMost  = 30 * time.Second
	// settle is when Docker is asked once more after a change: it tells of one before its list of containers has it.
	settle = time.Second
	// patience is for how long nothing is said of failures: weft starts before Docker, and Docker is restarted.
	patience = 15 * time.Second
)

// Watcher follows one engine.
type Watcher struct {
	engine  Engine
	weft    Weft
	trouble func(text string) // "": none any more

	known   map[string]string // what was published of a container, by its id
	pause   time.Duration     // before the next try
	well    time.Time         // when all was known last
	refused atomic.Uint64
}

// New makes a watcher. It says to trouble, for people, why names are not known when that lasts, and an empty text when they are.
func New(e Engine, w Weft, trouble func(text string)) *Watcher {
	return &Watcher{engine: e, weft: w, trouble: trouble}
}

// Refused returns how many names were left out because they are none in DNS, or too many.
func (w *Watcher) Refused() uint64 { return w.refused.Load() }

// Run follows the engine until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	w.pause, w.well = retryFirst, time.Now()
	for ctx.Err() == nil {
		err := w.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case time.Since(w.well) >= patience:
			w.trouble("names of containers are not known: " + err.Error())
		}
		t := time.NewTimer(w.pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		w.pause = min(2*w.pause, retryMost)
	}
}

// follow publishes what there is, and then what changes, until something fails.
func (w *Watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	changed, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- w.engine.Follow(ctx, func() {
			select {
			case changed <- struct{}{}:
			default: // a look is due already
			}
		})
	}()
	w.known = map[string]string{}
	again := time.NewTimer(settle)
	defer again.Stop()
	for {
		select {
		case err := <-ended:
			cancel()
			return err
		case <-changed:
			again.Reset(settle)
		case <-again.C:
		}
		if err := w.look(ctx); err != nil {
			cancel()
			<-ended
			return err
		}
		w.trouble("")
		w.pause, w.well = retryFirst, time.Now()
	}
}

// look asks which containers run, and about those that are new or not as they were.
func (w *Watcher) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	all, err := w.engine.Containers(ctx)
	if err != nil {
		return err
	}
	now := make(map[string]string, len(w.known))
	for _, c := range all {
		is, ours := w.fingerprint(c)
		if !ours {
			continue
		}
		if w.known[c.ID] != is {
			if err := w.publish(ctx, c.ID); err != nil {
				return err
			}
		}
		now[c.ID] = is
	}
	w.known = now
	return nil
}

// fingerprint changes with a container's name and its places in networks, to which aliases belong. ours is false when weft has none of these.
func (w *Watcher) fingerprint(c dockerapi.Container) (is string, ours bool) {
	parts := slices.Sorted(slices.Values(c.Names))
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		id := c.NetworkSettings.Networks[name].EndpointID
		if _, _, ok := w.weft.Attachment(id); ok {
			parts, ours = append(parts, id), true
		}
	}
	return strings.Join(parts, "\n"), ours
}

// publish asks what a container is called, and says so.
func (w *Watcher) publish(ctx context.Context, id string) error {
	c, there, err := w.engine.Container(ctx, id)
	if err != nil || !there { // it has ended meanwhile
		return err
	}
	for _, e := range c.NetworkSettings.Networks {
		network, attachment, ok := w.weft.Attachment(e.EndpointID)
		if !ok {
			continue
		}
		all, refused := Names(c, e)
		w.refused.Add(uint64(refused))
		if err := w.weft.SetNames(network, attachment, all); err != nil {
			if _, _, still := w.weft.Attachment(e.EndpointID); still {
				return err
			}
		}
	}
	return nil
}

// Labels of a container that is a task of a Swarm's service.
const (
	labelService = "com.docker.swarm.service.name"
	labelTask    = "com.docker.swarm.task.name"
)

// Names are the names of a container by its place in a network, each once, the surest first: its own, the service's and tasks.SERVICE, the task's,
// aliases, the hostname. refused counts those that cannot be names in DNS, and those of more than there may be.
func Names(c dockerapi.Container, e dockerapi.Endpoint) (all []string, refused int) {
	want := []string{strings.TrimPrefix(c.Name, "/")}
	if s := c.Config.Labels[labelService]; s != "" {
		want = append(want, s, "tasks."+s, c.Config.Labels[labelTask])
	}
	want = append(append(append(want, e.Aliases...), e.DNSNames...), c.Config.Hostname)
	for _, n := range want {
		n = strings.ToLower(n)
		switch {
		case n == "" || slices.Contains(all, n):
		case names.CheckName(n) != nil || len(all) == names.MaxAliases:
			refused++
		default:
			all = append(all, n)
		}
	}
	return all, refused
}
