package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Where runtimes look for plugins and configurations unless they are told otherwise.
const (
	DefaultBinDir  = "/opt/cni/bin"
	DefaultConfDir = "/etc/cni/net.d"
)

// Install says what to put where.
type Install struct {
	Executable string // this weft
	BinDir     string
	ConfDir    string // empty: no configuration
	Copy       bool   // the binary itself, where a link would not lead to it
	Network    string // the weft network, and the name of the CNI network
	RunDir     string // of the daemon, when it is not where it is by default
}

// Installed says what was done.
type Installed struct {
	Plugin string `json:"plugin"`           // the binary or link
	Link   string `json:"link,omitempty"`   // where it leads
	Config string `json:"config,omitempty"` // the configuration
	Kept   bool   `json:"kept,omitempty"`   // it was there before, with weft in it
}

// Do installs. Done again, it changes nothing but an older binary; a configuration that is there is never written over.
func (i Install) Do() (Installed, error) {
	out := Installed{Plugin: filepath.Join(i.BinDir, pluginType)}
	exe, err := filepath.EvalSymlinks(i.Executable)
	if err != nil {
		return out, fmt.Errorf("find this weft: %w", err)
	}
	if err := os.MkdirAll(i.BinDir, 0o755); err != nil {
		return out, fmt.Errorf("install the plugin: %w", err)
	}
	if there, err := os.Lstat(out.Plugin); err == nil && there.Mode().Type() != 0 && there.Mode().Type() != fs.ModeSymlink {
		return out, fmt.Errorf("install the plugin: %s is neither a file nor a link: take it away", out.Plugin)
	}
	if exe != out.Plugin { // else it is in place
		if !i.Copy {
			out.Link = exe
		}
		// Under another name first: a runtime may call the plugin at any moment.
		fresh := out.Plugin + ".new"
		if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return out, fmt.Errorf("install the plugin: %w", err)
		}
		if i.Copy {
			err = copyFile(exe, fresh)
		} else {
			err = os.Symlink(exe, fresh)
		}
		if err == nil {
			err = os.Rename(fresh, out.Plugin)
		}
		if err != nil {
			return out, fmt.Errorf("install the plugin: %w", errors.Join(err, os.RemoveAll(fresh)))
		}
	}
	if i.ConfDir == "" {
		return out, nil
	}
	out.Config, out.Kept, err = i.configure()
	return out, err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// configure writes the configuration, unless there is one with weft in it.
func (i Install) configure() (path string, kept bool, err error) {
	// Behind all others: a runtime that takes the first configuration for all containers (Kubernetes) is not to find this one by
	// surprise. Those that are asked for a network by name find it anyway.
	path = filepath.Join(i.ConfDir, "90-weft.conflist")
	if i.Network != defaultNetwork {
		path = filepath.Join(i.ConfDir, "90-weft-"+i.Network+".conflist")
	}
	if err := os.MkdirAll(i.ConfDir, 0o755); err != nil {
		return path, false, fmt.Errorf("write the configuration: %w", err)
	}
	old, err := os.ReadFile(path)
	switch {
	case err == nil:
		var list struct {
			Plugins []struct {
				Type string `json:"type"`
			} `json:"plugins"`
		}
		if json.Unmarshal(old, &list) == nil {
			for _, p := range list.Plugins {
				if p.Type == pluginType {
					return path, true, nil
				}
			}
		}
		return path, false, fmt.Errorf("write the configuration: %s is there and has no plugin of type %s in it: take it away, or choose another --conf-dir", path, pluginType)
	case !errors.Is(err, fs.ErrNotExist):
		return path, false, fmt.Errorf("write the configuration: %w", err)
	}
	if err := os.WriteFile(path, i.Conflist(), 0o644); err != nil {
		return path, false, fmt.Errorf("write the configuration: %w", err)
	}
	return path, false, nil
}

// Conflist returns the configuration. Its version is the highest that runtimes of 2022 take (Debian 12); newer ones choose from
// the list of versions.
func (i Install) Conflist() []byte {
	type plugin struct {
		Type         string          `json:"type"`
		Network      string          `json:"network"`
		RunDir       string          `json:"runDir,omitempty"`
		Capabilities map[string]bool `json:"capabilities"`
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Version  string   `json:"cniVersion"`
		Versions []string `json:"cniVersions"`
		Name     string   `json:"name"`
		Plugins  []plugin `json:"plugins"`
	}{"1.0.0", []string{"0.4.0", "1.0.0", "1.1.0"}, i.Network, []plugin{
		{pluginType, i.Network, i.RunDir, map[string]bool{"aliases": true, "ips": true}},
	}})
	if err != nil {
		panic(err) // of texts and truths
	}
	return b.Bytes()
}
