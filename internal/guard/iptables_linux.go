package guard

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// forwardComment marks our rule in chains that belong to others.
const forwardComment = "weft: bridged frames"

// commandTimeout bounds one iptables call, which waits for its lock.
const commandTimeout = 5 * time.Second

// runCommand runs a program of the host. An error that is exec.ErrNotFound means that there is none.
func runCommand(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

var programs = []string{"iptables", "ip6tables"}

// forwardRule accepts frames that stay within weft bridges. With br_netfilter they pass the host's FORWARD chain, whose
// policy Docker sets to drop, and an accept in another table cannot undo a drop.
func forwardRule(op, chain string) []string {
	prefix := BridgePrefix + "+"
	return []string{"-w", "-t", "filter", op, chain, "-i", prefix, "-o", prefix, "-m", "comment", "--comment", forwardComment, "-j", "ACCEPT"}
}

// allowForward puts the accept rule in place where it is not.
func allowForward(run Runner) error {
	_, err := ensureForward(run)
	return err
}

// ensureForward is allowForward and tells whether it had to add a rule.
func ensureForward(run Runner) (added bool, err error) {
	for i, p := range programs {
		ok, perr := ensureByProgram(run, p)
		if errors.Is(perr, exec.ErrNotFound) {
			ok, perr = ensureByNetlink(i == 1)
		}
		added = added || ok
		err = errors.Join(err, perr)
	}
	return added, err
}

// ensureByProgram prefers DOCKER-USER, which Docker keeps before its own rules and never flushes.
func ensureByProgram(run Runner, program string) (added bool, err error) {
	ctx := context.Background()
	for _, chain := range []string{"DOCKER-USER", "FORWARD"} {
		if _, err = run(ctx, program, forwardRule("-C", chain)...); err == nil {
			return false, nil
		}
		if errors.Is(err, exec.ErrNotFound) {
			return false, err
		}
		if _, err = run(ctx, program, forwardRule("-I", chain)...); err == nil {
			return true, nil
		}
	}
	return false, fmt.Errorf("guard: accept rule for bridged frames: %w", err)
}

// maxCopies bounds how many copies of our rule are taken out of one chain.
const maxCopies = 16

// denyForward takes the accept rules away, those of former runs too.
func denyForward(run Runner) error {
	ctx := context.Background()
	var errs error
	for i, p := range programs {
		var err error
		for _, chain := range []string{"DOCKER-USER", "FORWARD"} {
			for range maxCopies {
				// Deleting fails when there is no such rule, or no such chain.
				if _, err = run(ctx, p, forwardRule("-D", chain)...); err != nil {
					break
				}
			}
		}
		if errors.Is(err, exec.ErrNotFound) {
			errs = errors.Join(errs, removeByNetlink(i == 1))
		}
	}
	return errs
}
