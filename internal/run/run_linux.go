package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/api"
)

// Exec attaches the calling process and becomes the command. It returns only when it fails.
func Exec(ctx context.Context, d Daemon, o Options) error {
	path, err := find(o.Argv)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return &Error{CodeFailed, errors.New("weft run needs root: it makes a network namespace")}
	}
	// The namespaces are this thread's; exec makes it the process's only one.
	runtime.LockOSThread()
	if err := enter(); err != nil {
		return &Error{CodeFailed, err}
	}
	if o.Name == "" {
		o.Name = nameFor(o.Argv[0], strconv.FormatInt(int64(os.Getpid()), 36))
	}
	started, err := startTime()
	if err != nil {
		return &Error{CodeFailed, err}
	}
	req := api.Attach{Network: o.Network, Name: o.Name, Kind: api.KindProcess, PID: os.Getpid(), TID: unix.Gettid(), StartTime: started}
	if o.IP != "" {
		req.IPs = []string{o.IP}
	}
	a, err := d.Attach(ctx, req)
	if err != nil {
		return &Error{CodeFailed, err}
	}
	err = errors.Join(cover("/etc/hosts", hostsFile(a)), cover("/etc/resolv.conf", resolvFile(a)))
	if err == nil {
		err = syscall.Exec(path, o.Argv, o.Env)
	}
	err = fmt.Errorf("command %s: %w", o.Argv[0], err)
	if derr := d.Detach(ctx, a.Network, a.Name); derr != nil {
		err = errors.Join(err, derr)
	}
	return &Error{CodeNotExecutable, err}
}

// enter moves this thread into a network and a mount namespace of its own.
func enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// /sys shows the devices of the namespace in which it was mounted.
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("mount /sys: %w", err)
	}
	for _, name := range []string{"all", "default"} { // no router of a network configures us
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_ra", []byte("0"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("switch router advertisements off: %w", err)
		}
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// startTime returns field 22 of /proc/self/stat: with the pid it names this process for ever.
func startTime() (uint64, error) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/self/stat: %d fields", len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// cover mounts a file with the given text over path, in this mount namespace alone. The file lives on
// a file system of its own that nothing else refers to: it vanishes with the namespace. A host
// that has no such file goes without.
func cover(path, text string) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	mnt, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(mnt)
	fd, err := unix.Openat(mnt, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = unix.Write(fd, []byte(text))
	if err = errors.Join(err, unix.Fchmod(fd, 0o644), unix.Close(fd)); err != nil { // the umask may have cut it
		return fmt.Errorf("%s: %w", path, err)
	}
	tree, err := unix.OpenTree(mnt, "f", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount over %s: %w", target, err)
	}
	return nil
}
