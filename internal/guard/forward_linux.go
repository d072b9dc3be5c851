package guard

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// forwardTag marks our rule among others' (nft shows user data of unknown form as nothing).
var forwardTag = []byte("weft")

// forwardChains finds the FORWARD chains of iptables' tables, on hosts that have them without the program.
func forwardChains(conn *nftables.Conn, v6 bool) ([]*nftables.Chain, error) {
	fam := nftables.TableFamilyIPv4
	if v6 {
		fam = nftables.TableFamilyIPv6
	}
	chains, err := conn.ListChainsOfTableFamily(fam)
	if err != nil {
		return nil, fmt.Errorf("guard: list chains: %w", err)
	}
	return slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != "filter" || c.Name != "FORWARD" }), nil
}

// ensureByNetlink is ensureByProgram for a host without the program.
func ensureByNetlink(v6 bool) (added bool, err error) {
	conn, err := dial()
	if err != nil {
		return false, err
	}
	chains, err := forwardChains(conn, v6)
	if err != nil {
		return false, err
	}
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return false, fmt.Errorf("guard: list rules of FORWARD: %w", err)
		}
		if slices.ContainsFunc(rules, ours) {
			continue
		}
		prefix := []byte(BridgePrefix)
		conn.InsertRule(&nftables.Rule{Table: c.Table, Chain: c, UserData: forwardTag, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Data: prefix},
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Register: 1, Data: prefix},
			&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept},
		}})
		added = true
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("guard: accept rule for bridged frames: %w", err)
	}
	return added, nil
}

func ours(r *nftables.Rule) bool { return string(r.UserData) == string(forwardTag) }

// removeByNetlink undoes ensureByNetlink.
func removeByNetlink(v6 bool) error {
	conn, err := dial()
	if err != nil {
		return err
	}
	chains, err := forwardChains(conn, v6)
	if err != nil {
		return err
	}
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return fmt.Errorf("guard: list rules of FORWARD: %w", err)
		}
		for _, r := range rules {
			if !ours(r) {
				continue
			}
			if err := conn.DelRule(r); err != nil {
				return fmt.Errorf("guard: remove accept rule: %w", err)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("guard: remove accept rule: %w", err)
	}
	return nil
}
