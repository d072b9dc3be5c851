package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/store"
)

// down stops the daemon: bridges and attachments stay, unless clean.
func (s *System) down(ctx context.Context, d api.Down) error {
	if d.Leave {
		for _, a := range s.vnet.Attachments() { // what is in use cannot be given back
			if err := s.detach(a.Network, a.Name); err != nil {
				return err
			}
		}
		if err := s.docker.Forget(); err != nil {
			return err
		}
		if err := s.ipam.GiveBack(ctx); err != nil {
			return api.Errorf(api.CodeUnavailable, "%w", err).WithHint("or weft down --clean, and weft host rm %s on another host", s.cfg.Name)
		}
	}
	s.endpoint.Close() // a measurement is nothing to wait for, and its attachment nothing to keep
	var errs []error
	if d.Clean || d.Leave {
		s.leavePlain()
	}
	if d.Leave {
		errs = append(errs, s.leases.leave(), s.quit())
	}
	s.finder.withdraw(ctx)
	lctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := s.mesh.Leave(lctx); err != nil {
		s.log.Debug("goodbye not heard by all", "err", err)
	}
	if d.Clean || d.Leave {
		errs = append(errs, s.clean())
	}
	time.AfterFunc(100*time.Millisecond, s.cancel) // after the answer
	return errors.Join(errs...)
}

// quit tells the cluster that this host left for good; the end of the run empties the state directory.
func (s *System) quit() error {
	s.mu.Lock()
	s.wipe = true
	s.mu.Unlock()
	return s.mesh.Quit()
}

// clean takes networks, attachments and packet filter off this host. Nothing comes up again in this run.
func (s *System) clean() error {
	s.taking.Lock()
	defer s.taking.Unlock()
	s.cleaned = true
	s.mu.Lock()
	clear(s.networks)
	s.mu.Unlock()
	s.names.close()
	err := s.cast.Close() // it would report every device that goes
	_, cleaned := s.vnet.Clean()
	return errors.Join(err, cleaned, s.guard.remove())
}

func (s *System) stop() {
	s.cancel()
	if s.endpoint != nil {
		s.endpoint.Close() // while its address can still be given back
	}
	if s.mesh != nil {
		_ = s.mesh.Close()
	}
	if s.cast != nil {
		_ = s.cast.Close()
	}
	if s.names != nil {
		s.names.close()
	}
	if s.vnet != nil {
		_ = s.vnet.Down()
	}
	s.done.Wait()
	if s.frames != nil {
		_ = s.frames.Close()
	}
	_ = s.finder.close()
}

func (s *System) closeDir() error {
	s.mu.Lock()
	wipe := s.wipe
	s.mu.Unlock()
	if wipe {
		names, err := s.dir.Names()
		for _, n := range names {
			err = errors.Join(err, s.dir.Remove(n))
		}
		return errors.Join(err, s.dir.Close())
	}
	return s.dir.Close()
}

// Clean removes from this network namespace what a daemon left that no longer runs: bridges,
// attachments and packet filter. The state directory stays.
func Clean(runDir, stateDir string) error {
	if os.Geteuid() != 0 {
		return errors.New("weft down --clean needs root")
	}
	ln, err := apiserver.Listen(runDir) // refuses while a daemon runs
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }()
	dir, err := store.Open(stateDir)
	if err != nil {
		return err
	}
	s := &System{log: slog.New(slog.DiscardHandler), dir: dir, cfg: config.Up{StateDir: stateDir, RunDir: runDir}}
	if _, keys, err := loadIdentity(dir); err == nil {
		dir.SetOwner(keys.ID())
	}
	if s.guard, err = newGuardian(0, s.log); err != nil {
		return err
	}
	if s.vnet, err = s.newVNet(); err != nil {
		return err
	}
	_, err = s.vnet.Clean()
	return errors.Join(err, s.guard.remove(), dir.Close())
}
