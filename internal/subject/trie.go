package subject

import (
	"slices"
	"strings"
)

// Trie holds patterns with what belongs to each. The zero value is empty. One goroutine owns it.
type Trie[V comparable] struct {
	root node[V]
	size int
}

// Entry is what belongs to a pattern: a value, alone or as one of a queue group.
type Entry[V comparable] struct {
	Value V
	Queue string // the queue group, empty for none
}

type node[V comparable] struct {
	children map[string]*node[V]
	entries  []Entry[V]
}

// Len returns how many entries there are.
func (t *Trie[V]) Len() int { return t.size }

// Add puts an entry under a well-formed pattern; one that is there already is not doubled.
func (t *Trie[V]) Add(pattern string, e Entry[V]) {
	n := &t.root
	for tok := range strings.SplitSeq(pattern, ".") {
		next := n.children[tok]
		if next == nil {
			if n.children == nil {
				n.children = map[string]*node[V]{}
			}
			next = &node[V]{}
			n.children[tok] = next
		}
		n = next
	}
	if !slices.Contains(n.entries, e) {
		n.entries = append(n.entries, e)
		t.size++
	}
}

// Remove takes an entry away, and nodes that hold nothing any more with it.
func (t *Trie[V]) Remove(pattern string, e Entry[V]) {
	t.root.remove(strings.Split(pattern, "."), e, &t.size)
}

func (n *node[V]) remove(tokens []string, e Entry[V], size *int) (empty bool) {
	if len(tokens) == 0 {
		if i := slices.Index(n.entries, e); i >= 0 {
			n.entries = slices.Delete(n.entries, i, i+1)
			*size--
		}
	} else if next := n.children[tokens[0]]; next != nil && next.remove(tokens[1:], e, size) {
		delete(n.children, tokens[0])
	}
	return len(n.entries) == 0 && len(n.children) == 0
}

// Match calls found for each entry whose pattern overlaps s, which is a subject or a pattern itself: an entry once for
// each pattern it is under.
func (t *Trie[V]) Match(s string, found func(Entry[V])) {
	t.root.match(s, true, found)
}

func (n *node[V]) match(s string, more bool, found func(Entry[V])) {
	if !more {
		for _, e := range n.entries {
			found(e)
		}
		return
	}
	tok, rest, more := strings.Cut(s, ".")
	if tok == ">" {
		for _, c := range n.children {
			c.all(found)
		}
		return
	}
	if tail := n.children[">"]; tail != nil {
		for _, e := range tail.entries {
			found(e)
		}
	}
	if tok == "*" {
		for name, c := range n.children {
			if name != ">" {
				c.match(rest, more, found)
			}
		}
		return
	}
	if c := n.children[tok]; c != nil {
		c.match(rest, more, found)
	}
	if c := n.children["*"]; c != nil {
		c.match(rest, more, found)
	}
}

func (n *node[V]) all(found func(Entry[V])) {
	for _, e := range n.entries {
		found(e)
	}
	for _, c := range n.children {
		c.all(found)
	}
}
