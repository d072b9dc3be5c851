package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Podman is podman on a host with its CNI backend, which calls weft's plugin. It has no daemon, and folders of its own.
type Podman struct {
	h      *Host
	cni    *CNI
	dir    string
	rootfs string // what containers are made from: no registry is asked, and no image made
}

// Podman sets it up.
func (c *CNI) Podman() *Podman {
	t := c.h.w.T
	t.Helper()
	for _, tool := range []string{"podman", "conmon", "busybox", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs %s: run make test-deps", tool)
		}
	}
	p := &Podman{h: c.h, cni: c, dir: filepath.Join(c.h.w.dir, c.h.Name, "podman")}
	p.rootfs = filepath.Join(p.dir, "rootfs")
	script := `mkdir -p "$1/bin" "$1/etc" "$1/tmp" "$1/root" && cp "$2" "$1/bin/busybox" && cp "$3" "$1/bin/weft" && cd "$1/bin" && for a in sh ping ip cat sleep nslookup; do ln -s busybox $a; done`
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if r := c.h.Exec("sh", "-c", script, "sh", p.rootfs, busybox, c.h.bin); r.Code != 0 {
		t.Fatalf("make a root folder on %s: %s%s", c.h.Name, r.Stdout, r.Stderr)
	}
	conf := fmt.Sprintf("[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [%q]\nnetwork_config_dir = %q\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n[containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n", c.BinDir, c.ConfDir)
	if err := os.WriteFile(filepath.Join(p.dir, "containers.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Run("rm", "-f", "-a", "-t", "0") })
	return p
}

// command is a podman command. It runs in the test's own mount namespace: podman mounts containers' namespaces under /run/netns, where the
// daemon is to see them, and ip netns exec would keep that to itself.
func (p *Podman) command(args ...string) []string {
	enter := []string{"nsenter", "-t", strconv.Itoa(os.Getpid()), "-m", "--", "env", "CONTAINERS_CONF=" + filepath.Join(p.dir, "containers.conf")}
	podman := []string{"podman", "--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"), "--storage-driver", "vfs"}
	return slices.Concat(enter, podman, args)
}

// Run runs a podman command to its end.
func (p *Podman) Run(args ...string) Result {
	p.h.w.T.Helper()
	return p.h.Exec(p.command(args...)...)
}

// Must is Run, failing the test unless it exits 0; it returns standard output.
func (p *Podman) Must(args ...string) string {
	p.h.w.T.Helper()
	r := p.Run(args...)
	if r.Code != 0 {
		p.h.w.T.Fatalf("%s: podman %s: exit %d\n%s%s", p.h.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// container is the podman command that runs one.
func (p *Podman) container(options []string, cmd ...string) []string {
	args := append([]string{"run", "--cgroup-parent", "/" + p.h.w.prefix}, options...)
	return append(append(args, "--rootfs", p.rootfs), cmd...)
}

// Sleeper starts a container that does nothing.
func (p *Podman) Sleeper(name string, options ...string) {
	p.h.w.T.Helper()
	p.Must(p.container(append([]string{"-d", "--name", name}, options...), "/bin/sleep", "1000000")...)
}

// Attend starts a container whose standard streams are the test's.
func (p *Podman) Attend(name string, options []string, cmd ...string) *Process {
	p.h.w.T.Helper()
	return p.h.Start(p.command(p.container(append([]string{"-i", "--name", name}, options...), cmd...)...)...)
}
