package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// unit is weft's service of systemd, which starts before docker.service.
const unit = "weft.service"

// booted is there when systemd is the first process (sd_booted(3)).
const booted = "/run/systemd/system"

// systemctl asks the service manager. is-enabled exits with 1 for a unit that is not: what it prints is the answer.
func systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// enableUnit has weft start at boot, before Docker, and says so, unless that is so already or systemd is not what starts things here.
func (a *App) enableUnit(ctx context.Context) error {
	ask := a.systemctl
	if ask == nil {
		if _, err := os.Stat(booted); err != nil {
			return nil //nolint:nilerr // another service manager, or none
		}
		ask = systemctl
	}
	say := func(format string, args ...any) error {
		if a.json {
			return nil
		}
		_, err := fmt.Fprintf(a.Out, format+"\n", args...)
		return err
	}
	switch state, err := ask(ctx, "is-enabled", unit); state {
	case "enabled", "enabled-runtime", "static", "alias", "linked", "linked-runtime", "generated", "indirect":
		return nil
	case "disabled":
		if out, err := ask(ctx, "enable", unit); err != nil {
			return fmt.Errorf("systemctl enable %s: %w: %s", unit, err, out)
		}
		return say("%s enabled: weft starts at boot, before Docker", unit)
	case "masked", "masked-runtime":
		return say("%s is masked: containers that start at boot find no network until weft up runs", unit)
	default:
		if err != nil {
			return say("no %s here (%.100s): see that weft up runs before Docker at boot", unit, state)
		}
		return nil
	}
}
