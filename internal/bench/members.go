package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/load"
)

// hear has parties join the group and waits until they hear it. Those that don't are told by name; an error means that
// none does.
func (r *runner) hear(ctx context.Context, to []*party) (heard []*party, deaf []string, err error) {
	err = all(to, func(_ int, t *party) error {
		_, err := t.do(ctx, load.Request{Op: load.OpJoin, Group: r.plan.Group})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for limit := time.Now().Add(hearTime); ; {
		s, err := r.shoot(ctx, to, 64, hearRate, hearFor, true, false)
		if err != nil {
			return nil, nil, err
		}
		heard, deaf = nil, nil
		for i, t := range to {
			if s.got[i].Datagrams > 0 {
				heard = append(heard, t)
			} else {
				deaf = append(deaf, fmt.Sprintf("host %s joined group %s and hears nothing of it", t.peer.Name, r.plan.Group))
			}
		}
		switch {
		case len(deaf) == 0, len(heard) > 0 && time.Now().After(limit):
			return heard, deaf, nil
		case time.Now().After(limit):
			return nil, nil, errors.New(strings.Join(deaf, "; "))
		}
	}
}

// leave has parties leave the group. What fails ends with the session.
func (r *runner) leave(ctx context.Context, to []*party) {
	_ = all(to, func(_ int, t *party) error {
		_, err := t.do(ctx, load.Request{Op: load.OpJoin})
		return err
	})
}
