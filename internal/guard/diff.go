package guard

// diff tells what to take from a and what to add to reach b; both are sorted without duplicates.
func diff(a, b []string) (gone, added []string) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
			gone, a = append(gone, a[0]), a[1:]
		case len(a) == 0 || b[0] < a[0]:
			added, b = append(added, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return gone, added
}
