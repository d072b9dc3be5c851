package run

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/client"
)

// Files of the resolver.
const (
	hostsPath  = "/etc/hosts"
	resolvPath = "/etc/resolv.conf"
)

// bypasses are sockets by which the C library asks the host's resolver and not resolv.conf.
var bypasses = []string{"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"}

// resolver gives the thread's mount namespace its own hosts and resolv.conf. The files are on a
// tmpfs that is in no directory: they vanish with the namespace, whatever ends it.
func resolver(dir string, a client.Attachment) error {
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	before, err := os.ReadFile(hostsPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := unix.Mount("weft", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=1m"); err != nil {
		return &fs.PathError{Op: "mount", Path: dir, Err: err}
	}
	// The mounts made from it keep it.
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	err = cover(dir, "hosts", hostsPath, hosts(string(before), hostname, a))
	if err == nil {
		err = cover(dir, "resolv.conf", resolvPath, resolvConf(a))
	}
	for _, path := range bypasses {
		if err == nil {
			err = cover(dir, filepath.Base(path), path, "")
		}
	}
	return err
}

// cover binds a new file over what path leads to; where there is nothing, nothing is to be covered.
func cover(dir, name, path, text string) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(file, 0o644); err != nil { // whatever the umask
		return err
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "bind", Path: target, Err: err}
	}
	return nil
}

// hosts returns the host's file in which the attachment's names, and the machine's, lead to the
// attachment: programs that look up their own host name to find their address find the right one.
func hosts(before, hostname string, a client.Attachment) string {
	names := make([]string, 0, 3)
	for _, n := range []string{a.FQDN, a.Name, hostname} {
		if n != "" {
			names = append(names, n)
		}
	}
	var out strings.Builder
	for _, ip := range a.IPs {
		addr, _, _ := strings.Cut(ip, "/")
		out.WriteString(addr + "\t" + strings.Join(names, " ") + "\n")
	}
	for line := range strings.Lines(before) {
		out.WriteString(without(strings.TrimSuffix(line, "\n"), names))
	}
	return out.String()
}

// without returns a line of a hosts file without the names, or nothing when no name is left.
func without(line string, names []string) string {
	entry, _, _ := strings.Cut(line, "#")
	fields := strings.Fields(entry)
	if len(fields) == 0 {
		return line + "\n"
	}
	kept := fields[:1:1]
	for _, f := range fields[1:] {
		if !contains(names, f) {
			kept = append(kept, f)
		}
	}
	switch len(kept) {
	case len(fields):
		return line + "\n"
	case 1:
		return ""
	}
	return strings.Join(kept, "\t") + "\n"
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// resolvConf returns the attachment's resolv.conf. Without a name server the C library asks
// 127.0.0.1, where nobody answers, and fails at once: better than the host's, which would time out.
func resolvConf(a client.Attachment) string {
	var out strings.Builder
	out.WriteString("# made by weft for this process\n")
	for _, s := range a.DNS {
		out.WriteString("nameserver " + s + "\n")
	}
	if len(a.Search) > 0 {
		out.WriteString("search " + strings.Join(a.Search, " ") + "\n")
	}
	return out.String()
}

// remountSys shows the new namespace's devices in /sys/class/net, and keeps the cgroups, by which
// programs find their memory limit. A container may not do so; little depends on it, so that
// failures are passed over.
func remountSys() {
	const sys, cgroup = "/sys", "/sys/fs/cgroup"
	var st unix.Statfs_t
	if unix.Statfs(sys, &st) != nil || st.Type != unix.SYSFS_MAGIC {
		return
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, cgroup, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return // no way to keep them (Linux before 5.2)
	}
	defer unix.Close(tree)
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if st.Flags&unix.ST_RDONLY != 0 {
		flags |= unix.MS_RDONLY
	}
	if unix.Mount("sysfs", sys, "sysfs", flags, "") != nil {
		return
	}
	_ = unix.MoveMount(tree, "", unix.AT_FDCWD, cgroup, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
