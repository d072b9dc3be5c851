package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 8, 2, ' ', 0) }

// row writes cells; an empty one is shown as "-", so that columns can be counted.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		s := fmt.Sprint(c)
		if s == "" {
			s = "-"
		}
		if i > 0 {
			s = "\t" + s
		}
		_, _ = io.WriteString(w, s) // a tabwriter keeps its error for Flush
	}
	_, _ = io.WriteString(w, "\n")
}

func join(l []string) string { return strings.Join(l, " ") }

func ms(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f ms", v)
}

func seconds(s float64) string {
	return (time.Duration(s) * time.Second).String()
}

func short(id string) string { return id[:min(len(id), 8)] }

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
