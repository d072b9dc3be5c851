package ipam

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/ring"
)

// A host that comes and goes (--ephemeral) owns nothing: what it owned would have to be inherited whenever one of them ends.
// It borrows each address from an owner, which writes in its own table who has it, and since when nobody gives it to
// anybody else. The borrower sees that entry and takes the address; what it does not need any more it gives back. When it is
// removed from the cluster, the lender takes back what it has lent to it. Should the lender go, whoever comes to own the
// address sees that the borrower uses it.

// maxLoans bounds what one host lends.
const maxLoans = ring.MaxUsed

// loan is an address that an owner has lent to a key of another host.
type loan struct {
	lender, to ident.HostID
	key        string
	serial     uint64 // no two loans have the same
}

// lending is an ask of another host for a loan, or its word that it does not need one any more.
type lending struct {
	sp     *space
	to     ident.HostID
	key    string
	want   uint32 // 0: any
	serial uint64
	back   bool // it does not need the loan with this serial
}

func loanKey(to ident.HostID, key string) string { return keyLend + to.String() + "/" + key }

func parseLoanKey(key string) (to ident.HostID, rest string, err error) {
	id, rest, _ := strings.Cut(key[len(keyLend):], "/")
	if to, err = ident.ParseHostID(id); err == nil && (rest == "" || len(rest) > maxKey || to.String() != id) {
		err = errCodec
	}
	if err != nil {
		return to, rest, fmt.Errorf("key %.60q: %w", key, err)
	}
	return to, rest, nil
}

// encodeTerms is the value of a loan: the address and its serial.
func encodeTerms(a uint32, serial uint64) []byte {
	return binary.BigEndian.AppendUint64(put32(a), serial)
}

func decodeTerms(b []byte) (a uint32, serial uint64, err error) {
	if len(b) != 12 || binary.BigEndian.Uint64(b[4:]) == 0 {
		return 0, 0, fmt.Errorf("loan: %w: %d bytes, want 12", errCodec, len(b))
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:]), nil
}

func (s *Service) onLoanLocked(id uint32, writer ident.HostID, key string, value []byte, gone bool) error {
	to, rest, err := parseLoanKey(key)
	if err != nil {
		return err
	}
	sc, err := s.scopeLocked(id)
	if err != nil {
		return err
	}
	sc.dropLoans(func(o loan) bool { return o.lender == writer && o.to == to && o.key == rest })
	for _, sp := range sc.spaces {
		sp.notifyLocked()
	}
	s.poke()
	if gone {
		return nil
	}
	a, serial, err := decodeTerms(value)
	if err != nil {
		return err
	}
	if len(sc.loans) >= maxHolders {
		return fmt.Errorf("more than %d addresses lent in scope %d", maxHolders, id)
	}
	sc.loans[a] = append(sc.loans[a], loan{writer, to, rest, serial})
	return nil
}

// dropLoans forgets the loans of which gone says so.
func (sc *scope) dropLoans(gone func(loan) bool) {
	for a, ls := range sc.loans {
		if rest := slices.DeleteFunc(ls, gone); len(rest) == 0 {
			delete(sc.loans, a)
		} else {
			sc.loans[a] = rest
		}
	}
}

// lentTo returns the loan of an address to a host.
func (sc *scope) lentTo(a uint32, id ident.HostID) (loan, bool) {
	for _, l := range sc.loans[a] {
		if l.to == id {
			return l, true
		}
	}
	return loan{}, false
}

func (sc *scope) loansInOrder() []uint32 {
	out := make([]uint32, 0, len(sc.loans))
	for a := range sc.loans {
		out = append(out, a)
	}
	slices.Sort(out)
	return out
}

// lend answers a host that asked for a loan, or brought one back.
func (s *Service) lend(x lending) error {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	sc := s.scopes[x.sp.scope]
	name := loanKey(x.to, x.key)
	var had []uint32
	var serial uint64
	n := 0
	for _, a := range sc.loansInOrder() {
		for _, l := range sc.loans[a] {
			if l.lender != s.cfg.Self {
				continue
			}
			n++
			if l.to == x.to && l.key == x.key {
				had, serial = append(had, a), l.serial
			}
		}
	}
	if x.back {
		s.mu.Unlock()
		if len(had) == 0 || serial != x.serial {
			return nil
		}
		return s.publishLoan(sc, x, name, 0)
	}
	_, gone := s.removed[x.to]
	same := len(had) > 0 && serial == x.serial
	if gone || same || n >= maxLoans || x.sp.left {
		if !same {
			s.counts.AsksUnmet++
		}
		s.mu.Unlock()
		return nil
	}
	owned := x.sp.ring.Owned(s.cfg.Self)
	const trial = "lending"
	var a uint32
	ok := false
	if len(had) > 0 && (x.want == 0 || x.want == had[0]) && x.sp.prefix.Contains(toAddr(had[0])) { // it does not use that one: it asks for one
		a, ok = had[0], true
	} else if x.want != 0 {
		h := sc.holders[x.want]
		theirs := len(h) == 0 || len(h) == 1 && h[0] == holder{x.to, x.key}
		if theirs && len(sc.loans[x.want]) == 0 {
			a, ok = x.want, x.sp.pool.AllocAt(trial, x.want, owned) == nil
		}
	} else {
		a, ok = x.sp.pool.AllocBut(trial, owned, sc.heldElsewhere)
	}
	x.sp.pool.Free(trial)
	if !ok {
		s.counts.AsksUnmet++
		s.mu.Unlock()
		return nil
	}
	s.counts.AsksMet++
	s.mu.Unlock()
	return s.publishLoan(sc, x, name, a)
}

// publishLoan writes that an address is lent, or with 0 that it is not any more. The caller holds plan.
func (s *Service) publishLoan(sc *scope, x lending, name string, a uint32) error {
	var puts map[string][]byte
	dels := []string{name}
	l := loan{s.cfg.Self, x.to, x.key, x.serial}
	if a != 0 {
		puts, dels = map[string][]byte{name: encodeTerms(a, l.serial)}, nil
	}
	if err := s.publish(x.sp.scope, puts, dels); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sc.dropLoans(func(o loan) bool { return o.lender == l.lender && o.to == l.to && o.key == l.key })
	if a != 0 {
		sc.loans[a] = append(sc.loans[a], l)
	}
	for _, sp := range sc.spaces {
		sp.notifyLocked()
	}
	s.poke()
	return nil
}

// loansOfGoneLocked forgets the loans to a host removed, but this host's own (takeBack), and those of it. A borrower that uses what that
// one lent asks the next owner to lend it anew (askForClaims); until then its use is what keeps others off. What it is not seen to use yet
// stays lent as long as this host runs: its word may be on the way.
func (s *Service) loansOfGoneLocked(sc *scope, id ident.HostID) {
	used := map[loan]bool{}
	for a, ls := range sc.loans {
		for _, l := range ls {
			used[l] = slices.Contains(sc.holders[a], holder{l.to, l.key})
		}
	}
	sc.dropLoans(func(l loan) bool {
		return l.to == id && l.lender != s.cfg.Self || l.lender == id && (l.to == s.cfg.Self || used[l])
	})
}

// takeBack ends this host's loans to hosts that are gone.
func (s *Service) takeBack() error {
	s.plan.Lock()
	defer s.plan.Unlock()
	s.mu.Lock()
	dels := map[uint32][]string{}
	for vni, sc := range s.scopes {
		for _, ls := range sc.loans {
			for _, l := range ls {
				if _, gone := s.removed[l.to]; gone && l.lender == s.cfg.Self {
					dels[vni] = append(dels[vni], loanKey(l.to, l.key))
				}
			}
		}
	}
	s.mu.Unlock()
	for _, vni := range slices.Sorted(maps.Keys(dels)) {
		keys := dels[vni]
		slices.Sort(keys)
		if err := s.publish(vni, nil, keys); err != nil {
			return err
		}
		s.mu.Lock()
		sc := s.scopes[vni]
		sc.dropLoans(func(l loan) bool { return l.lender == s.cfg.Self && slices.Contains(keys, loanKey(l.to, l.key)) })
		for _, sp := range sc.spaces {
			sp.notifyLocked()
		}
		s.mu.Unlock()
	}
	return nil
}
