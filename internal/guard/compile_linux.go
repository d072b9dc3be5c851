package guard

import (
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// limitTimeout is how long the rate limit of a silent port is remembered.
const limitTimeout = time.Minute

// elementChunk keeps the list attribute of one message under netlink's 64 KiB.
const elementChunk = 400

var families = map[string]nftables.TableFamily{"bridge": nftables.TableFamilyBridge, "inet": nftables.TableFamilyINet}

var hooks = map[string]*nftables.ChainHook{
	"prerouting": nftables.ChainHookPrerouting, "forward": nftables.ChainHookForward,
	"input": nftables.ChainHookInput, "output": nftables.ChainHookOutput,
}

var setTypes = map[kind]nftables.SetDatatype{
	kindName: nftables.TypeIFName, kindMAC: nftables.TypeEtherAddr, kindIP4: nftables.TypeIPAddr, kindIP6: nftables.TypeIP6Addr,
	kindU8: nftables.TypeInteger, kindProto: nftables.TypeInetProto,
	kindVNI: nftables.TypeIPAddr, // four bytes that nft can print, the last one zero: 43 as 0.0.43.0
}

// compiler queues a ruleset's netlink messages on a connection.
type compiler struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
}

// replaceTables queues "our tables are exactly these": a table is made if it is not there, deleted with all in it, and made anew.
func replaceTables(conn *nftables.Conn, rs *Ruleset) error {
	for i := range rs.Tables {
		t := &rs.Tables[i]
		c := &compiler{conn: conn, table: tableOf(t), sets: map[string]*nftables.Set{}}
		removeTable(conn, c.table)
		conn.AddTable(c.table)
		for _, name := range t.Counters {
			conn.AddObj(&nftables.NamedObj{Table: c.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
		}
		for j := range t.Sets {
			if err := c.addSet(&t.Sets[j]); err != nil {
				return err
			}
		}
		for _, ch := range t.Chains { // first all chains: rules may go to later ones
			nc := &nftables.Chain{Table: c.table, Name: ch.Name}
			if ch.Hook != "" {
				policy := nftables.ChainPolicyAccept
				nc.Type, nc.Hooknum, nc.Priority, nc.Policy = nftables.ChainTypeFilter, hooks[ch.Hook], new(nftables.ChainPriority(ch.Priority)), &policy
			}
			conn.AddChain(nc)
		}
		for _, ch := range t.Chains {
			for j := range ch.Rules {
				exprs, err := c.rule(&ch.Rules[j])
				if err != nil {
					return fmt.Errorf("chain %s rule %d: %w", ch.Name, j, err)
				}
				conn.AddRule(&nftables.Rule{Table: c.table, Chain: &nftables.Chain{Table: c.table, Name: ch.Name}, Exprs: exprs})
			}
		}
	}
	return nil
}

// removeTable queues a deletion that does not fail when there is nothing to delete.
func removeTable(conn *nftables.Conn, t *nftables.Table) {
	conn.AddTable(t)
	conn.DelTable(t)
}

func tableOf(t *Table) *nftables.Table {
	return &nftables.Table{Family: families[t.Family], Name: t.Name}
}

// setOf describes a named set to the library.
func setOf(table *nftables.Table, s *Set) *nftables.Set {
	parts := make([]nftables.SetDatatype, len(s.Parts))
	for i, p := range s.Parts {
		parts[i] = setTypes[p]
	}
	n := &nftables.Set{Table: table, Name: s.Name, Size: s.Size, KeyType: parts[0]}
	if len(parts) > 1 {
		n.KeyType = nftables.MustConcatSetType(parts...) // two parts at most: cannot overflow
	}
	if s.Limits {
		n.Dynamic, n.HasTimeout, n.Timeout = true, true, limitTimeout
	}
	return n
}

func (c *compiler) addSet(s *Set) error {
	n := setOf(c.table, s)
	if err := c.conn.AddSet(n, nil); err != nil {
		return fmt.Errorf("set %s: %w", s.Name, err)
	}
	c.sets[s.Name] = n
	return changeElements(s.Elements, func(e []nftables.SetElement) error { return c.conn.SetAddElements(n, e) })
}

// changeElements hands keys to do, in pieces that fit a netlink attribute.
func changeElements(keys []string, do func([]nftables.SetElement) error) error {
	for len(keys) > 0 {
		n := min(len(keys), elementChunk)
		es := make([]nftables.SetElement, n)
		for i, k := range keys[:n] {
			es[i].Key = []byte(k)
		}
		if err := do(es); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// firstRegister is the first of the sixteen 4-byte registers (NFT_REG32_00); keys are put together from here on.
const firstRegister = 8

func (c *compiler) rule(r *Rule) ([]expr.Any, error) {
	var es []expr.Any
	for i := range r.Matches {
		m, err := c.match(&r.Matches[i])
		if err != nil {
			return nil, err
		}
		es = append(es, m...)
	}
	if l := r.Limit; l != nil {
		set, ok := c.sets[l.set]
		if !ok {
			return nil, fmt.Errorf("no set %q", l.set)
		}
		es = append(es, load(l.key, firstRegister), &expr.Dynset{
			SrcRegKey: firstRegister, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: limitTimeout,
			Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(l.rate), Over: true, Unit: expr.LimitTimeSecond, Burst: l.rate}},
		})
	}
	if r.Counter != "" {
		es = append(es, &expr.Objref{Type: int(nftables.ObjTypeCounter), Name: r.Counter})
	}
	kinds := map[verdict]expr.VerdictKind{
		accept: expr.VerdictAccept, drop: expr.VerdictDrop, jump: expr.VerdictJump, goTo: expr.VerdictGoto, back: expr.VerdictReturn,
	}
	return append(es, &expr.Verdict{Kind: kinds[r.Verdict], Chain: r.Target}), nil
}

func (c *compiler) match(m *match) ([]expr.Any, error) {
	var es []expr.Any
	reg := uint32(firstRegister)
	for _, f := range m.fields {
		es = append(es, load(f, reg))
		reg += (f.len + 3) / 4
	}
	if m.set != "" {
		set, ok := c.sets[m.set]
		if !ok {
			return nil, fmt.Errorf("no set %q", m.set)
		}
		return append(es, &expr.Lookup{SourceRegister: firstRegister, SetName: set.Name, SetID: set.ID, Invert: m.not}), nil
	}
	if m.mask != nil {
		es = append(es, &expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: m.fields[0].len, Mask: m.mask, Xor: make([]byte, len(m.mask))})
	}
	if len(m.values) > 1 {
		set := &nftables.Set{Table: c.table, Anonymous: true, Constant: true, KeyType: setTypes[m.fields[0].kind]}
		set.KeyType.Bytes = m.fields[0].len
		elements := make([]nftables.SetElement, len(m.values))
		for i, v := range m.values {
			elements[i].Key = v
		}
		if err := c.conn.AddSet(set, elements); err != nil {
			return nil, err
		}
		return append(es, &expr.Lookup{SourceRegister: firstRegister, SetName: set.Name, SetID: set.ID, Invert: m.not}), nil
	}
	op := expr.CmpOpEq
	if m.not {
		op = expr.CmpOpNeq
	}
	// A value shorter than the field compares its beginning: that is how nft matches "wv*".
	return append(es, &expr.Cmp{Op: op, Register: firstRegister, Data: m.values[0]}), nil
}

// load reads a field into a register.
func load(f field, reg uint32) expr.Any {
	switch f.src {
	case fromIIF:
		return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg}
	case fromOIF:
		return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg}
	case fromProto:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}
	case fromFamily:
		return &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}
	case fromType:
		return &expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: reg}
	case fromFrag:
		return &expr.Exthdr{DestRegister: reg, Type: unix.IPPROTO_FRAGMENT, Offset: f.off, Len: f.len, Op: expr.ExthdrOpIpv6}
	case hasFrag:
		return &expr.Exthdr{DestRegister: reg, Type: unix.IPPROTO_FRAGMENT, Len: f.len, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6}
	}
	base := map[source]expr.PayloadBase{fromLink: expr.PayloadBaseLLHeader, fromNet: expr.PayloadBaseNetworkHeader, fromTrans: expr.PayloadBaseTransportHeader}[f.src]
	return &expr.Payload{DestRegister: reg, Base: base, Offset: f.off, Len: f.len}
}
