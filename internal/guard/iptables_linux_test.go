package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// tables is iptables in memory: program and chain to rules.
type tables map[string][]string

func (ts tables) run(_ context.Context, name string, args ...string) (string, error) {
	i := slices.IndexFunc(args, func(s string) bool { return s == "-C" || s == "-I" || s == "-D" })
	at, rule := name+" "+args[i+1], strings.Join(args[i+2:], " ")
	rules, ok := ts[at]
	j := slices.Index(rules, rule)
	switch {
	case !ok:
		return "", errors.New("no chain by that name")
	case args[i] == "-I":
		ts[at] = append([]string{rule}, rules...)
	case j < 0:
		return "", errors.New("bad rule")
	case args[i] == "-D":
		ts[at] = slices.Delete(slices.Clone(rules), j, j+1)
	}
	return "", nil
}

func TestAcceptRule(t *testing.T) {
	const other = "-j DROP"
	for _, c := range []struct {
		name  string
		have  tables
		place []string // where the rule goes, before all others
	}{
		{"Docker for both families", tables{
			"iptables FORWARD": {other}, "iptables DOCKER-USER": {other}, "ip6tables FORWARD": {other}, "ip6tables DOCKER-USER": {other},
		}, []string{"iptables DOCKER-USER", "ip6tables DOCKER-USER"}},
		{"Docker for IPv4", tables{
			"iptables FORWARD": {other}, "iptables DOCKER-USER": {other}, "ip6tables FORWARD": {other},
		}, []string{"iptables DOCKER-USER", "ip6tables FORWARD"}},
		{"no Docker", tables{"iptables FORWARD": {}, "ip6tables FORWARD": {}}, []string{"iptables FORWARD", "ip6tables FORWARD"}},
	} {
		before := fmt.Sprint(c.have)
		if added, err := ensureForward(c.have.run); !added || err != nil {
			t.Errorf("%s: added %v, %v", c.name, added, err)
		}
		for at, rules := range c.have {
			if got := len(rules) > 0 && strings.Contains(rules[0], "-i wb+ -o wb+"); got != slices.Contains(c.place, at) {
				t.Errorf("%s: %s is %q", c.name, at, rules)
			}
		}
		if added, err := ensureForward(c.have.run); added || err != nil {
			t.Errorf("%s: second time added %v, %v", c.name, added, err)
		}
		if err := denyForward(c.have.run); err != nil {
			t.Error(err)
		}
		if after := fmt.Sprint(c.have); after != before {
			t.Errorf("%s: left %s, want %s", c.name, after, before)
		}
	}
}

// A packet filter that cannot take the rule is told of, with the command.
func TestAcceptRuleFails(t *testing.T) {
	if _, err := ensureForward(tables{}.run); err == nil || !strings.Contains(err.Error(), "accept rule for bridged frames") {
		t.Errorf("got %v", err)
	}
}
