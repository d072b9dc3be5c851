package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/internal/cni"
	"github.com/weft-net/weft/internal/ident"
)

func (a *App) cni() *cobra.Command {
	return nouns("cni", "Let runtimes of containers plug them in (podman, Kubernetes)", a.cniInstall())
}

func (a *App) cniInstall() *cobra.Command {
	i := cni.Install{}
	var noConf bool
	c := &cobra.Command{
		Use: "install", Short: "Put the CNI plugin and a configuration where runtimes look for them",
		Long: `Put the CNI plugin, a link to this weft, and a configuration where runtimes look
for them. Done again, it changes nothing; a configuration that is there stays as
it is. The network must exist: weft network create NAME.

To undo it, remove the two files that it names.`,
		Args: words(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := ident.CheckName("network", i.Network); err != nil {
				return &usageError{err}
			}
			if noConf {
				i.ConfDir = ""
			}
			for _, dir := range []*string{&i.BinDir, &i.ConfDir} {
				if *dir == "" {
					continue
				}
				abs, err := filepath.Abs(*dir)
				if err != nil {
					return fmt.Errorf("%s: %w", *dir, err)
				}
				*dir = abs
			}
			if a.runDir != defaultRunDir {
				i.RunDir = a.runDir
			}
			var err error
			if i.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this weft: %w", err)
			}
			done, err := i.Do()
			if err != nil {
				return err
			}
			return a.print(done, func(w io.Writer) { cniRows(w, done) })
		},
	}
	c.Flags().StringVar(&i.BinDir, "bin-dir", cni.DefaultBinDir, "where runtimes look for plugins")
	c.Flags().StringVar(&i.ConfDir, "conf-dir", cni.DefaultConfDir, "where they look for configurations")
	c.Flags().BoolVar(&noConf, "no-conf", false, "write no configuration")
	c.Flags().BoolVar(&i.Copy, "copy", false, "copy this weft instead of linking to it")
	c.Flags().StringVar(&i.Network, "network", defaultNetwork, "network of the configuration")
	return c
}

func cniRows(w io.Writer, done cni.Installed) {
	plugin := done.Plugin
	if done.Link != "" {
		plugin += " -> " + done.Link
	}
	row(w, "plugin", plugin)
	switch {
	case done.Kept:
		row(w, "configuration", done.Config+" (as it was)")
	case done.Config != "":
		row(w, "configuration", done.Config)
	}
}
