package daemon

import (
	"context"
	"time"

	"github.com/weft-net/weft/internal/apiserver"
)

// begin takes over from the daemon that ran before, if there is one, and sets all parts in motion. Should it fail, they
// are to be stopped.
func (s *System) begin(ln *apiserver.Listener, fresh bool) error {
	if s.from != nil {
		if err := s.takeOver(); err != nil {
			return err
		}
		ln.Keep()
		if err := s.dir.Claim(); err != nil {
			return err
		}
	}
	if fresh {
		if err := s.dir.Save(fileIdentity, encode(s.id)); err != nil {
			return err
		}
	}
	if err := s.start(s.id.Founding); err != nil {
		return err
	}
	select {
	case err := <-s.rejected:
		return err
	default:
	}
	if s.id.Founding {
		// Until now nobody could know the token: a start that ended on its way is taken up by the next one.
		id := s.id
		id.Founding = false
		if err := s.dir.Save(fileIdentity, encode(id)); err != nil {
			return err
		}
		s.id.Founding = false // no more of it: others read the rest by now
	}
	return nil
}

// compareTime is how long a start waits for a host that confirms what this one said before.
const compareTime = 2 * time.Second

// start sets everything in motion, in an order in which each part finds what it needs.
func (s *System) start(founding bool) error {
	report, err := s.vnet.Reconcile(s.ctx)
	if err != nil {
		return err
	}
	if len(report.Adopted)+len(report.Lost)+len(report.Removed) > 0 {
		s.log.Info("found from an earlier run", "adopted", len(report.Adopted), "ended", len(report.Lost), "removed", report.Removed)
	}
	if len(report.Adopted) == 0 && s.from == nil {
		// Else the rules of the run before stay until networks are up again (foresee): empty ones would cut programs off.
		if err := s.guard.apply(); err != nil {
			return err
		}
	}
	if s.from == nil {
		if err := s.mesh.Start(); err != nil {
			return err
		}
	}
	s.go_(func() {
		if err := s.vnet.Run(s.ctx); err != nil && s.ctx.Err() == nil {
			s.trouble("vnet", "memberships are not watched any more: "+err.Error())
		}
	})
	if !founding && s.from == nil {
		wait, cancel := context.WithTimeout(s.ctx, compareTime)
		s.mesh.Compared(wait)
		cancel()
	}
	s.replay()
	s.findClaims()
	if err := s.guard.start(s.ctx, s.go_); err != nil {
		return err
	}
	if founding {
		if err := s.found(); err != nil {
			return err
		}
	}
	s.go_(func() { _ = s.ipam.Run(s.ctx) })
	s.go_(s.leases.run)
	s.go_(s.spread)
	s.poke()
	s.go_(s.bus.run)
	s.go_(s.bares.run)
	s.go_(s.swarm.run)
	s.go_(s.finder.run)
	s.startDocker()
	if s.cfg.NATS != "" {
		return s.listenNATS()
	}
	return nil
}
