package cli

import (
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

func (a *App) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print weft's version", Args: words(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": a.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH}
			return a.print(v, func(w io.Writer) { row(w, "weft", a.Version) })
		},
	}
}
