// Package swarm is what weft does for Docker's Swarm mode: it gives a node the managed plugin without which Swarm takes no driver, and makes
// networks of a Swarm whose addresses are weft's.
//
//	dockerd --> managed plugin: weft docker relay --> weft.sock --> daemon (package docker)
//
// A network of a Swarm is made once, on a manager, from a network that only holds its configuration (docker network create --config-only)
// and that every node must have: in it stand the IPAM driver, the weft network's name and its subnet, which Docker hands to the plugin on the
// node when the first task comes there. So each node asks its own daemon for addresses, and these are unique in the cluster as ever.
package swarm

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/dockerapi"
)

const (
	// Plugin is the managed plugin's name. Not weft: Docker would take that for the daemon's own socket as well, and have neither.
	Plugin = "weft-swarm"
	// Driver is the name of both its drivers: Docker's names of managed plugins have tags.
	Driver = Plugin + ":latest"

	// listens is where Docker expects the plugin's socket in the plugin's own file system, and hostDir where the folder of the daemon's is shown.
	listens = "/run/docker/plugins/" + Plugin + ".sock"
	hostDir = "/host"
	binary  = "/bin/weft"

	// answerTime is how long Docker waits for an answer of the plugin: for longer than the plugin for the daemon's.
	answerTime = 30 * time.Second

	// leastMajor and leastMinor are the version of Docker from which on this works.
	leastMajor, leastMinor = 20, 10
)

// Config is the plugin's config.json. daemon is the socket at which the host's daemon answers Docker.
func Config(daemon string) dockerapi.PluginConfig {
	return dockerapi.PluginConfig{
		Description:   "weft for Swarm: hands Docker's calls to weft on this host",
		Documentation: "https://github.com/weft-net/weft",
		Entrypoint:    []string{binary, "docker", "relay", "--listen", listens, "--to", path.Join(hostDir, filepath.Base(daemon)), "--known-as", daemon},
		Interface:     dockerapi.PluginInterface{Types: []string{"docker.networkdriver/1.0", "docker.ipamdriver/1.0"}, Socket: Plugin + ".sock"},
		// Docker moves the interfaces, and makes the routes: the plugin needs no capability and no network.
		Linux: dockerapi.PluginLinux{Capabilities: []string{}},
		Mounts: []dockerapi.PluginMount{{
			Name: "weft", Description: "where weft on this host answers Docker",
			// The folder, not the socket: another daemon makes another one.
			Source: filepath.Dir(daemon), Destination: hostDir, Type: "bind", Options: []string{"rbind", "ro"},
		}},
	}
}

// entry is a file of the plugin; one without content is a folder.
type entry struct {
	name string
	mode fs.FileMode
	size int64
	from io.Reader
}

// entries are all files of the plugin: its configuration, and a root file system that has the binary weft in it and no more. closing is for
// when they have been read.
func entries(weft, daemon string) (all []entry, closing func() error, err error) {
	config, err := json.MarshalIndent(Config(daemon), "", "  ")
	if err != nil {
		return nil, nil, fmt.Errorf("the plugin's configuration: %w", err)
	}
	config = append(config, '\n')
	f, size, err := open(weft)
	if err != nil {
		return nil, nil, err
	}
	return []entry{
		{"config.json", 0o644, int64(len(config)), bytes.NewReader(config)},
		{"rootfs", 0o755, 0, nil},
		{"rootfs/bin", 0o755, 0, nil},
		{"rootfs" + binary, 0o755, size, f},
	}, f.Close, nil
}

// open opens a weft, and says how long it is. There is no library beside it in the plugin.
func open(name string) (*os.File, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	b, err := elf.NewFile(f)
	if err == nil && slices.ContainsFunc(b.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		err = errors.New("it is linked with libraries, which the plugin has not")
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s: %w; build weft for Linux with CGO_ENABLED=0 (make build)", name, err), f.Close())
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// WriteDir writes the plugin into a folder that is not there yet, for docker plugin create. weft is a binary that needs no library.
func WriteDir(dir, weft, daemon string) error {
	all, closing, err := entries(weft, daemon)
	if err != nil {
		return err
	}
	defer func() { _ = closing() }() // only read from
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, e := range all {
		at := filepath.Join(dir, e.name)
		if e.from == nil {
			err = os.Mkdir(at, e.mode)
		} else {
			err = writeFile(at, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeFile(at string, e entry) error {
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, e.mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, e.from)
	return errors.Join(err, f.Close())
}

// archive writes the plugin as Docker's API takes it.
func archive(w io.Writer, weft, daemon string) error {
	all, closing, err := entries(weft, daemon)
	if err != nil {
		return err
	}
	defer func() { _ = closing() }() // only read from
	out := tar.NewWriter(w)
	for _, e := range all {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode), Size: e.size, Typeflag: tar.TypeReg}
		if e.from == nil {
			h.Name, h.Typeflag = e.name+"/", tar.TypeDir
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if e.from != nil {
			if _, err := io.Copy(out, e.from); err != nil {
				return err
			}
		}
	}
	return out.Close()
}

// Setup is what a node has after SetUp.
type Setup struct {
	Docker  string // its version
	InSwarm bool
	Made    bool // the plugin was not there before
	Enabled bool // it was not enabled before
	Follows bool // weft makes configurations here that other nodes ask for; SetUp does not set it
}

// SetUp gives a node's Docker the plugin, and enables it. Done already, it changes nothing. weft is the binary to put into it.
func SetUp(ctx context.Context, c *dockerapi.Client, weft, daemon string) (Setup, error) {
	info, err := Check(ctx, c, daemon)
	if err != nil {
		return Setup{}, err
	}
	s := Setup{Docker: info.ServerVersion, InSwarm: info.InSwarm()}
	p, there, err := c.Plugin(ctx, Driver)
	if err != nil {
		return s, err
	}
	if there && !fits(p, daemon) {
		if p.Enabled {
			return s, fmt.Errorf("plugin %s is enabled here with another folder or command than weft at %s needs: docker plugin disable -f %s, and again", Driver, daemon, Driver)
		}
		if err := c.RemovePlugin(ctx, Driver); err != nil {
			return s, err
		}
		there = false
	}
	if !there {
		if err := create(ctx, c, weft, daemon); err != nil {
			return s, err
		}
		s.Made = true
	}
	if there && p.Enabled {
		return s, nil
	}
	if err := c.EnablePlugin(ctx, Driver, answerTime); err != nil {
		err = fmt.Errorf("plugin %s does not start: %w", Driver, err)
		if s.Made {
			err = errors.Join(err, c.RemovePlugin(ctx, Driver))
		}
		return s, err
	}
	s.Enabled = true
	return s, nil
}

// Check looks whether a node's Docker is new enough, and weft there to answer it.
func Check(ctx context.Context, c *dockerapi.Client, daemon string) (dockerapi.Info, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return info, err
	}
	if !newEnough(info.ServerVersion) {
		return info, fmt.Errorf("this is Docker %.40s: weft needs %d.%02d or later", info.ServerVersion, leastMajor, leastMinor)
	}
	what, err := dockerapi.Activates(ctx, daemon)
	if err != nil || !slices.Contains(what, "NetworkDriver") || !slices.Contains(what, "IpamDriver") {
		return info, fmt.Errorf("weft does not answer Docker at %s: weft up on this host, with --docker-plugin %s", daemon, daemon)
	}
	return info, nil
}

// newEnough reads a version such as 20.10.24+dfsg1. One that is none is taken for new.
func newEnough(version string) bool {
	part := strings.SplitN(version, ".", 3)
	if len(part) < 2 {
		return true
	}
	major, err := strconv.Atoi(part[0])
	minor, err2 := strconv.Atoi(part[1])
	return err != nil || err2 != nil || major > leastMajor || major == leastMajor && minor >= leastMinor
}

// fits reports whether a plugin that is there hands calls to a daemon's socket.
func fits(p dockerapi.Plugin, daemon string) bool {
	want := Config(daemon)
	if !slices.Equal(p.Config.Entrypoint, want.Entrypoint) {
		return false
	}
	for _, m := range p.Settings.Mounts {
		if m.Destination == hostDir {
			return m.Source == filepath.Dir(daemon)
		}
	}
	return false
}

// create sends the plugin to Docker.
func create(ctx context.Context, c *dockerapi.Client, weft, daemon string) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := archive(w, weft, daemon)
		w.CloseWithError(err)
		done <- err
	}()
	err := c.CreatePlugin(ctx, Driver, r)
	r.CloseWithError(errors.New("docker takes no more"))
	if own := <-done; own != nil && err != nil && !errors.As(err, new(*dockerapi.Error)) {
		err = own
	}
	if err != nil {
		return fmt.Errorf("make the plugin %s: %w", Driver, err)
	}
	return nil
}
