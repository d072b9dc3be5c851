package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Machine is a host that has booted: systemd is its first process, and dpkg, rpm and the service manager work on a root folder of its
// own, a copy of this machine's that is gone with it. It has the host's network namespace, and none of the host's folders.
type Machine struct {
	h    *Host
	top  *Process // dies, and with it everything here
	init string   // the first process, seen from outside
}

// boot becomes the first process of a machine: in the control group $1 and on a copy of / on the folder $2, with the name $3. What would
// change this machine (kernel settings but those of the network namespace, sysfs, mounts) is out of its reach; of the services of this
// machine's own only those of the basic system are started.
const boot = `
set -e
mkdir -p "$1"
echo $$ > "$1/cgroup.procs"
exec unshare -m -p -f -u -i -C --propagation private --kill-child -- sh -ec '
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for d in run dev; do mount -t tmpfs -o mode=755 tmpfs $d; done
mount -t tmpfs tmpfs tmp
mkdir dev/net dev/pts dev/shm
for d in null zero full random urandom tty net/tun; do : > dev/$d; mount --bind /dev/$d dev/$d; done
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
rm -rf etc/systemd/system/*.wants etc/systemd/system/weft.service etc/weft var/lib/weft
echo "$2" > etc/hostname
head -c 16 /dev/urandom | od -An -tx1 | tr -d " \n" > etc/machine-id
exec chroot . env -i container=rig PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target
' boot "$2" "$3"`

// Boot starts a machine in the host's network namespace and waits until it is up.
func (h *Host) Boot() *Machine {
	t := h.w.T
	t.Helper()
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Fatalf("this test boots a machine: %v (Debian package systemd): run make test-deps", err)
	}
	mounts, err := exec.Command("findmnt", "-n", "-o", "TARGET", "-t", "cgroup2").Output()
	groups, _, _ := strings.Cut(string(mounts), "\n")
	if err != nil || groups == "" {
		t.Fatalf("this test needs control groups of version 2: findmnt -t cgroup2: %q, %v", mounts, err)
	}
	root := filepath.Join(h.w.dir, h.Name, "machine")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &Machine{h: h}
	// From the test's own mount namespace: ip netns exec hides control groups.
	m.top = h.Start("nsenter", "-t", strconv.Itoa(os.Getpid()), "-m", "--", "sh", "-c", boot, "boot",
		filepath.Join(groups, h.w.prefix, h.Name), root, h.Name)
	Eventually(t, 30*time.Second, func() error {
		if !m.top.Running() {
			return fmt.Errorf("%w: %s did not boot\n%s", ErrHopeless, h.Name, m.top.tail(20))
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.top.PID(), m.top.PID()))
		if err != nil {
			return err
		}
		if m.init = strings.TrimSpace(string(children)); m.init == "" {
			return errors.New("no first process yet")
		}
		if name, err := os.ReadFile("/proc/" + m.init + "/comm"); err != nil || string(name) != "systemd\n" {
			return fmt.Errorf("the first process is %q, %w", name, err)
		}
		r := m.Run("systemctl", "is-system-running")
		switch state := strings.TrimSpace(r.Stdout); state {
		case "running":
			return nil
		case "degraded", "maintenance":
			return fmt.Errorf("%w: %s is %s\n%s", ErrHopeless, h.Name, state, m.Run("systemctl", "--failed", "--no-pager").Stdout)
		default:
			return fmt.Errorf("%s is %q %s", h.Name, state, r.Stderr)
		}
	})
	return m
}

// enter is a command on the machine, as root's shell would have it.
func (m *Machine) enter(args ...string) []string {
	nsenter := []string{"nsenter", "-t", m.init, "-m", "-u", "-i", "-p", "-C", "-r", "-w", "--"}
	return slices.Concat(nsenter, []string{"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, args)
}

// Run runs a command on the machine to its end.
func (m *Machine) Run(args ...string) Result {
	m.h.w.T.Helper()
	return m.h.Exec(m.enter(args...)...)
}

// Must is Run, failing the test unless it exits 0; it returns what was printed, errors last.
func (m *Machine) Must(args ...string) string {
	t := m.h.w.T
	t.Helper()
	r := m.Run(args...)
	if r.Code != 0 {
		t.Fatalf("%s: %s: exit %d\n%s%s\n%s", m.h.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr,
			m.Run("journalctl", "--no-pager", "-n", "40", "-u", "weft").Stdout)
	}
	return r.Stdout + r.Stderr
}

// Start starts a command on the machine.
func (m *Machine) Start(args ...string) *Process {
	m.h.w.T.Helper()
	return m.h.Start(m.enter(args...)...)
}

// Path is where a file of the machine is, seen from outside.
func (m *Machine) Path(path string) string { return filepath.Join("/proc", m.init, "root", path) }

// Copy puts a file into the machine's /tmp and returns its path there.
func (m *Machine) Copy(from string) string {
	t := m.h.w.T
	t.Helper()
	to := filepath.Join("/tmp", filepath.Base(from))
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(m.Path(to), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// Changed lists the files in which the machine's root differs from this machine's, by their paths from the root.
func (m *Machine) Changed() []string {
	t := m.h.w.T
	t.Helper()
	var all []string
	// It is mounted for the first process, outside of its root.
	r := m.h.Exec("nsenter", "-t", m.init, "-m", "--", "find", filepath.Join(m.h.w.dir, m.h.Name, "machine", "upper"), "-mindepth", "1", "-printf", "/%P\n")
	if r.Code != 0 {
		t.Fatalf("%s: %s", m.h.Name, r.Stderr)
	}
	for line := range strings.Lines(r.Stdout) {
		all = append(all, strings.TrimSuffix(line, "\n"))
	}
	return all
}
