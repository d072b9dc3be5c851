package rig

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DockerImage is what containers of tests are made from: a static busybox, and weft.
const DockerImage = "weft-test"

// Docker is an engine of Docker's on a host, with folders of its own, as Debian's units run it: dockerd, and a containerd that goes on
// when dockerd ends. What it takes for /run is the host's run folder.
type Docker struct {
	h          *Host
	dir        string   // what it keeps on disk
	place      *Process // holds the mount namespace of the engine and of all containers
	mount      string   // that namespace
	containerd *Process
	dockerd    *Process
}

// DockerPlugin is the option of weft up by which this host's engine finds it.
func (h *Host) DockerPlugin() []string {
	return []string{"--docker-plugin", filepath.Join(h.run, "docker", "plugins", "weft.sock")}
}

// DockerNames is the option of weft up by which this host asks its engine what containers are called.
func (h *Host) DockerNames() []string {
	return []string{"--docker-names", filepath.Join(h.run, "docker.sock")}
}

// dockerTools are the programs of an engine, and the Debian packages that have them.
var dockerTools = [][2]string{
	{"dockerd", "docker.io"},
	{"docker", "docker-cli, before Debian 13 docker.io"},
	{"containerd", "containerd"},
	{"runc", "runc"},
	{"iptables", "iptables"},
	{"nsenter", "util-linux"},
	{"busybox", "busybox-static"},
}

// Docker starts an engine on this host. Containers go on while it is away (live restore); it sets the packet filter as it does by default.
func (h *Host) Docker() *Docker {
	t := h.w.T
	t.Helper()
	for _, tool := range dockerTools {
		if _, err := exec.LookPath(tool[0]); err != nil {
			t.Fatalf("this test needs %s (Debian package %s): run make test-deps", tool[0], tool[1])
		}
	}
	d := &Docker{h: h, dir: filepath.Join(h.w.dir, h.Name, "docker")}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Those of the machine are not for this engine.
	for path, text := range map[string]string{
		d.containerdConfig(): "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
		d.dockerdConfig():    "{}\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.Begin()
	d.image()
	return d
}

// boot makes the engine's mount namespace. Containers' namespaces and files are mounts: they are to outlive the engine, so the mount
// namespace does, and all of them go with its last process. It is made from the test's own, for ip netns exec hides control groups.
func (d *Docker) boot() {
	d.h.w.T.Helper()
	d.place = d.h.Start("nsenter", "-t", strconv.Itoa(os.Getpid()), "-m", "--", "unshare", "-m", "--propagation", "slave", "--",
		"sh", "-c", "mount --bind "+d.h.run+" /run && echo ready && exec sleep infinity")
	d.place.ExpectLine("^ready$", 5*time.Second)
	var err error
	if d.mount, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", d.place.PID())); err != nil {
		d.h.w.T.Fatal(err)
	}
}

func (d *Docker) containerdConfig() string { return filepath.Join(d.dir, "containerd.toml") }
func (d *Docker) dockerdConfig() string    { return filepath.Join(d.dir, "daemon.json") }

// socket is where dockerd listens, seen from outside.
func (d *Docker) socket() string { return "unix://" + filepath.Join(d.h.run, "docker.sock") }

// cgroup is the control group of this engine's containers.
func (d *Docker) cgroup() string { return "/" + d.h.w.prefix + "/" + d.h.Name }

// Begin starts dockerd and waits until it answers; containerd before unless it runs. Again after Kill9, Crash or Reset.
func (d *Docker) Begin() {
	d.h.w.T.Helper()
	d.Launch()
	d.Await()
}

// Launch is Begin without waiting for dockerd.
func (d *Docker) Launch() {
	t := d.h.w.T
	t.Helper()
	const containerd = "/run/containerd/containerd.sock"
	if d.place == nil || !d.place.Running() {
		d.boot()
	}
	if d.containerd == nil || !d.containerd.Running() {
		d.containerd = d.start("containerd", "--config", d.containerdConfig(), "--root", filepath.Join(d.dir, "containerd"), "--address", containerd)
		Eventually(t, 30*time.Second, func() error {
			if !d.containerd.Running() {
				return fmt.Errorf("%w: containerd on %s ended\n%s", ErrHopeless, d.h.Name, d.containerd.tail(20))
			}
			c, err := net.Dial("unix", filepath.Join(d.h.run, strings.TrimPrefix(containerd, "/run/")))
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	_ = os.Remove(filepath.Join(d.h.run, "docker.pid")) // of one that was killed: its number may be another process's by now
	d.dockerd = d.start("dockerd", "--config-file", d.dockerdConfig(), "--data-root", filepath.Join(d.dir, "data"), "-H", "unix:///run/docker.sock",
		"--containerd", containerd, "--live-restore="+strconv.FormatBool(!d.h.swarm), "--cgroup-parent", d.cgroup())
}

// Await waits until dockerd answers.
func (d *Docker) Await() {
	d.h.w.T.Helper()
	Eventually(d.h.w.T, 60*time.Second, func() error {
		if !d.dockerd.Running() {
			return fmt.Errorf("%w: dockerd on %s ended\n%s", ErrHopeless, d.h.Name, d.dockerd.tail(20))
		}
		if r := d.Run("version"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
}

// start starts a program of the engine.
func (d *Docker) start(args ...string) *Process {
	d.h.w.T.Helper()
	return d.h.Start(append([]string{"nsenter", "-t", strconv.Itoa(d.place.PID()), "-m", "--"}, args...)...)
}

// Kill9 kills dockerd, and neither containerd nor the containers.
func (d *Docker) Kill9() { d.dockerd.Kill9() }

// Crash kills dockerd and containerd. Containers go on: each is a child of a shim.
func (d *Docker) Crash() {
	d.dockerd.Kill9()
	d.containerd.Kill9()
}

// Reset is what the host's reset button does: weft, the engine and all containers die, what the kernel had is gone, and /run is empty.
func (d *Docker) Reset() {
	t := d.h.w.T
	t.Helper()
	d.h.Kill9()
	d.Crash()
	Eventually(t, 10*time.Second, func() error {
		pids, err := d.processes()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrHopeless, err)
		}
		for _, pid := range pids {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("processes %v run on", pids)
		}
		return nil
	})
	for line := range strings.Lines(d.h.MustExec("ip", "-o", "link", "show")) {
		f := strings.Fields(line)
		name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
		if name != "lo" && name != "eth0" {
			d.h.Exec("ip", "link", "del", name) // gone already with its other end
		}
	}
	d.h.MustExec("nft", "flush", "ruleset")
	entries, err := os.ReadDir(d.h.run)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.h.run, e.Name())))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// processes are those of the engine and of its containers: who is in its mount namespace, and who is in its control group.
func (d *Docker) processes() ([]int, error) {
	var pids []int
	all, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		var pid int
		if ns, err := os.Readlink(p); err != nil || ns != d.mount {
			continue
		}
		if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() != "cgroup.procs" || !d.owns(path) {
			return nil // control groups come and go
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// owns reports whether a control group is of one of the engine's containers. Those of plugins have their ids for names, and no parent.
func (d *Docker) owns(path string) bool {
	if strings.Contains(path, d.cgroup()+"/") {
		return true
	}
	_, err := os.Stat(filepath.Join(d.dir, "data", "plugins", filepath.Base(filepath.Dir(path)), "rootfs"))
	return err == nil
}

// Run runs a docker command to its end.
func (d *Docker) Run(args ...string) Result {
	d.h.w.T.Helper()
	return d.h.Exec(append([]string{"docker", "-H", d.socket()}, args...)...)
}

// Must is Run, failing the test unless it exits 0; it returns standard output without the last newline.
func (d *Docker) Must(args ...string) string {
	d.h.w.T.Helper()
	r := d.Run(args...)
	if r.Code != 0 {
		d.h.w.T.Fatalf("%s: docker %s: exit %d\n%s%s", d.h.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// Attend starts a docker command whose lines are looked at, such as run -i.
func (d *Docker) Attend(args ...string) *Process {
	d.h.w.T.Helper()
	return d.h.Start(append([]string{"docker", "-H", d.socket()}, args...)...)
}

// Refuses says that a docker command fails with exactly one sentence behind Docker's own words.
func (d *Docker) Refuses(sentence string, args ...string) {
	t := d.h.w.T
	t.Helper()
	r := d.Run(args...)
	got := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(r.Stderr), "exit status 1")) // what some versions' network rm adds
	if r.Code == 0 || !strings.HasSuffix(got, ": "+sentence) || strings.Count(got, "\n") > 0 {
		t.Errorf("docker %s: exit %d:\n %s\nwant it to end in\n %s", strings.Join(args, " "), r.Code, got, sentence)
	}
}

// image makes the image out of nothing: no registry is asked.
func (d *Docker) image() {
	t := d.h.w.T
	t.Helper()
	root := filepath.Join(d.dir, "image")
	weft := filepath.Join(root, "bin", "weft")
	if err := os.MkdirAll(filepath.Dir(weft), 0o755); err != nil {
		t.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if is, err := static(busybox); err != nil || !is {
		t.Fatalf("an image with nothing but programs needs a static busybox (Debian package busybox-static): run make test-deps (%s: %v)", busybox, err)
	}
	get := fmt.Sprintf("cp %s %s", d.h.bin, weft)
	if is, err := static(d.h.bin); err != nil || !is { // with the race detector, say
		if get = "true"; compileWith([]string{"CGO_ENABLED=0"}, weft) != nil {
			t.Fatalf("%s is not static (%v), and no other could be built", d.h.bin, err)
		}
	}
	script := fmt.Sprintf("cp %s %s/bin/busybox && %s && cd %s/bin && for a in sh ping ip cat sleep hostname nslookup; do ln -s busybox $a; done", busybox, root, get, root)
	if r := d.h.Exec("sh", "-c", script); r.Code != 0 {
		t.Fatalf("make an image on %s: %s%s", d.h.Name, r.Stdout, r.Stderr)
	}
	d.Import(root, DockerImage)
}

// Import makes an image of a root folder.
func (d *Docker) Import(root, image string) {
	t := d.h.w.T
	t.Helper()
	if r := d.h.Exec("sh", "-c", fmt.Sprintf("tar -C %s -c . | docker -H %s import - %s", root, d.socket(), image)); r.Code != 0 {
		t.Fatalf("make an image on %s: %s%s", d.h.Name, r.Stdout, r.Stderr)
	}
}

// static reports whether a program needs no loader and no libraries.
func static(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}
