package test

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/test/rig"
)

// TestPackageVersion: what packages are called, and that dpkg and rpm order it as git does.
func TestPackageVersion(t *testing.T) {
	order := []string{"", "v1.2.3-rc1", "v1.2.3-rc1-4-g0abcdef", "v1.2.3-rc2", "v1.2.3", "v1.2.3-dirty", "v1.2.3-4-g0abcdef", "v1.2.3-4-g0abcdef-dirty", "v1.2.3-12-gfedcba9", "v1.2.4"}
	want := []string{"", "1.2.3~rc1", "1.2.3~rc1+4.g0abcdef", "1.2.3~rc2", "1.2.3", "1.2.3+0.dirty", "1.2.3+4.g0abcdef", "1.2.3+4.g0abcdef.dirty", "1.2.3+12.gfedcba9", "1.2.4"}
	order[0] = "0abcdef-dirty"
	for i, v := range order {
		got := strings.TrimSpace(output(t, "../packaging/version", v))
		if i == 0 {
			if !regexp.MustCompile(`^0~[0-9]+\.0abcdef\+0\.dirty$`).MatchString(got) {
				t.Errorf("%s is called %s", v, got)
			}
			want[0] = got
		} else if got != want[i] {
			t.Errorf("%s is called %s, want %s", v, got, want[i])
		}
		if i == 0 {
			continue
		}
		if err := exec.Command("dpkg", "--compare-versions", want[i-1], "lt", want[i]).Run(); err != nil {
			t.Errorf("dpkg: %s is not before %s", want[i-1], want[i])
		}
		if got := strings.TrimSpace(output(t, "rpm", "--eval", fmt.Sprintf("%%{lua:print(rpm.vercmp('%s', '%s'))}", want[i-1], want[i]))); got != "-1" {
			t.Errorf("rpm: %s is not before %s: %s", want[i-1], want[i], got)
		}
	}
}

// output runs a program and returns what it prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// packages makes the packages of a version, and returns them by kind and architecture.
func packages(t *testing.T, version string, archs ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	output(t, "make", "-C", "..", "package", "VERSION="+version, "DIST="+dir, "BIN="+filepath.Join(dir, "weft"), "ARCHS="+strings.Join(archs, " "))
	all := map[string]string{}
	for _, arch := range archs {
		v, rpm := strings.TrimPrefix(version, "v"), map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]
		all["deb "+arch] = filepath.Join(dir, fmt.Sprintf("weft_%s_%s.deb", v, arch))
		all["rpm "+arch] = filepath.Join(dir, fmt.Sprintf("weft-%s-1.%s.rpm", v, rpm))
	}
	for what, file := range all {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, output(t, "ls", dir))
		}
	}
	return all
}

// shipped is what both packages put on a host, with modes.
var shipped = map[string]string{
	"/etc/weft/weft.env":                             "-rw-------",
	"/etc/weft/weft.yaml":                            "-rw-r--r--",
	"/usr/bin/weft":                                  "-rwxr-xr-x",
	"/usr/lib/systemd/system/weft.service":           "-rw-r--r--",
	"/usr/share/bash-completion/completions/weft":    "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/weft.fish": "-rw-r--r--",
	"/usr/share/man/man8/weft.8.gz":                  "-rw-r--r--",
	"/usr/share/zsh/site-functions/_weft [rpm]":      "-rw-r--r--",
	"/usr/share/licenses/weft/LICENSE [rpm]":         "-rw-r--r--",
	"/usr/share/zsh/vendor-completions/_weft [deb]":  "-rw-r--r--",
	"/usr/share/doc/weft/copyright [deb]":            "-rw-r--r--",
	"/usr/share/doc/weft/changelog.gz [deb]":         "-rw-r--r--",
	"/usr/share/doc/weft/CHANGELOG.md.gz [deb]":      "-rw-r--r--",
	"/usr/share/lintian/overrides/weft [deb]":        "-rw-r--r--",
}

// holds checks the files of a package: each is there, with its mode and for root, and nothing else.
func holds(t *testing.T, kind string, got map[string]string) {
	t.Helper()
	for path, mode := range shipped {
		path, only, _ := strings.Cut(path, " ")
		if only != "" && only != "["+kind+"]" {
			continue
		}
		if got[path] != mode+" root" {
			t.Errorf("%s: %s is %q, want %q", kind, path, got[path], mode+" root")
		}
		delete(got, path)
	}
	for path, mode := range got {
		if strings.HasPrefix(mode, "-") || strings.HasPrefix(mode, "l") {
			t.Errorf("%s: has %s, which nobody knows of", kind, path)
		}
	}
}

// unpack returns a folder with the files of a package.
func unpack(t *testing.T, kind, file string) string {
	t.Helper()
	dir := t.TempDir()
	if kind == "deb" {
		output(t, "dpkg-deb", "-x", file, dir)
	} else { // the names in an rpm begin with a slash
		output(t, "sh", "-c", fmt.Sprintf("cd %s && rpm2cpio %s | cpio -idm --quiet --no-absolute-filenames", dir, file))
	}
	return dir
}

// machineOf is the processor that a package's binary is for.
func machineOf(t *testing.T, kind, file string) elf.Machine {
	t.Helper()
	f, err := elf.Open(filepath.Join(unpack(t, kind, file), "usr", "bin", "weft"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return f.Machine
}

// TestPackage: make package writes a deb and an rpm for both architectures, with what belongs into them, of which lintian and systemd
// have nothing bad to say.
func TestPackage(t *testing.T) {
	const version = "v1.2.3"
	all := packages(t, version, "amd64", "arm64")
	for _, arch := range []string{"amd64", "arm64"} {
		deb, rpm := all["deb "+arch], all["rpm "+arch]
		for field, want := range map[string]string{"Package": "weft", "Version": "1.2.3", "Architecture": arch, "Section": "net", "Depends": ""} {
			if got := strings.TrimSpace(output(t, "dpkg-deb", "-f", deb, field)); got != want {
				t.Errorf("deb %s: %s: %q, want %q", arch, field, got, want)
			}
		}
		files := map[string]string{}
		for line := range strings.Lines(output(t, "dpkg-deb", "-c", deb)) {
			f := strings.Fields(line) // mode owner/group size date time path
			owner, group, _ := strings.Cut(f[1], "/")
			if owner == group {
				files[strings.TrimPrefix(f[5], ".")] = f[0] + " " + owner
			}
		}
		holds(t, "deb", files)
		if got := output(t, "dpkg-deb", "-I", deb, "conffiles"); got != "/etc/weft/weft.env\n/etc/weft/weft.yaml\n" {
			t.Errorf("deb %s: conffiles %q", arch, got)
		}
		lintian := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", deb)
		lintian.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // it leaves files there
		if out, err := lintian.CombinedOutput(); err != nil {
			t.Errorf("lintian %s: %v\n%s", arch, err, out)
		}

		files = map[string]string{}
		config := 0
		for line := range strings.Lines(output(t, "rpm", "-qp", "--qf", `[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILEFLAGS:fflags}\n]`, rpm)) {
			f := strings.Fields(line)
			if f[2] == f[3] {
				files[f[0]] = f[1] + " " + f[2]
			}
			if len(f) > 4 && f[4] == "cn" { // a configuration that is kept
				config++
			}
		}
		holds(t, "rpm", files)
		if got := output(t, "rpm", "-qp", "--qf", "%{NAME} %{VERSION} %{ARCH} %{LICENSE}", rpm); got != "weft 1.2.3 "+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]+" Apache-2.0" || config != 2 {
			t.Errorf("rpm %s: %s, %d files of configuration", arch, got, config)
		}
		for line := range strings.Lines(output(t, "rpm", "-qp", "--requires", rpm)) {
			if line = strings.TrimSpace(line); line != "/bin/sh" && !strings.HasPrefix(line, "rpmlib(") {
				t.Errorf("rpm %s: requires %s", arch, line)
			}
		}
	}

	for _, arch := range []string{"amd64", "arm64"} {
		for _, kind := range []string{"deb", "rpm"} {
			if got := machineOf(t, kind, all[kind+" "+arch]); got != map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch] {
				t.Errorf("%s %s: the binary is for %v", kind, arch, got)
			}
		}
	}

	// Both hold the same, and the binary is the version's.
	deb, rpm := unpack(t, "deb", all["deb "+runtime.GOARCH]), unpack(t, "rpm", all["rpm "+runtime.GOARCH])
	for path := range shipped {
		if strings.Contains(path, " ") {
			continue
		}
		a, err := os.ReadFile(filepath.Join(deb, path))
		b, err2 := os.ReadFile(filepath.Join(rpm, path))
		if err != nil || err2 != nil || len(a) == 0 || !slices.Equal(a, b) {
			t.Errorf("%s differs: %v, %v", path, err, err2)
		}
	}
	if got := output(t, filepath.Join(deb, "usr/bin/weft"), "--version"); !strings.Contains(got, version) {
		t.Errorf("weft --version: %q", got)
	}
	// The same commit and version make the same bytes.
	again := packages(t, version, runtime.GOARCH)
	for _, kind := range []string{"deb", "rpm"} {
		a, err := os.ReadFile(all[kind+" "+runtime.GOARCH])
		b, err2 := os.ReadFile(again[kind+" "+runtime.GOARCH])
		if err != nil || err2 != nil || !slices.Equal(a, b) {
			t.Errorf("%s: made twice, it differs (%v, %v)", kind, err, err2)
		}
	}
}

// machine is what the tests of an installed package look at.
type machine struct {
	*rig.Machine
	t     *testing.T
	other *rig.Host // of the same cluster
	a     *agent    // on it
	box   string    // address of the program box on the machine
}

// connects waits until the machine's daemon has the other host.
func (m *machine) connects() {
	m.t.Helper()
	rig.Eventually(m.t, 15*time.Second, func() error {
		if s := m.status(); s.State != "connected" || s.HostsAlive != 2 {
			return fmt.Errorf("%s: %d hosts", s.State, s.HostsAlive)
		}
		return nil
	})
}

// attaches starts the program box, and waits until the other host reaches it.
func (m *machine) attaches() *rig.Process {
	m.t.Helper()
	p := m.Start("weft", "run", "--name", "box", "--", "sleep", "infinity")
	rig.Eventually(m.t, 15*time.Second, func() error {
		att, err := m.other.Attachment("box")
		if err == nil {
			m.box, _, _ = strings.Cut(att.IPs[0], "/")
			err = m.reaches()
		}
		return err
	})
	return p
}

func (m *machine) reaches() error {
	if n, out := m.a.ping(m.box, 1, 56); n != 1 {
		return fmt.Errorf("%s", out)
	}
	return nil
}

// upgraded has something done to the daemon under a ping each 10 ms, and says that another daemon follows it by a hand-over.
func (m *machine) upgraded(how, version string, change func()) {
	t := m.t
	t.Helper()
	old := m.status()
	const pings = 600
	p := m.other.Start(m.a.beside("ping", "-n", "-i", "0.01", "-c", fmt.Sprint(pings), "-W", "1", m.box)...)
	p.ExpectLine("icmp_seq=", 5*time.Second)
	change()
	if !p.Running() {
		t.Errorf("%s took longer than the ping", how)
	}
	s := m.status()
	if got := m.service("MainPID"); got != fmt.Sprint(s.PID) || s.Version != version || m.service("ActiveState") != "active" {
		t.Errorf("%s: systemd takes %s for the daemon, which is %d, %s, and calls it %s", how, got, s.PID, s.Version, m.service("ActiveState"))
	}
	if s.HandedOver == nil || s.PID == old.PID || s.HandedOver.Version != old.Version {
		t.Errorf("%s: pid %d after %d, handed over by %+v", how, s.PID, old.PID, s.HandedOver)
	}
	p.Wait(30 * time.Second)
	lost := pings - p.Count("time=")
	t.Logf("%s: %d of %d pings lost", how, lost, pings)
	if lost > mayLose {
		t.Errorf("%s: %d of %d pings lost, at most %d may be", how, lost, pings, mayLose)
	}
}

// bare says that of bridges, attachments and filters nothing is left.
func (m *machine) bare() {
	m.t.Helper()
	if out := m.Must("ip", "-o", "link"); regexp.MustCompile(`: w[biuv]`).MatchString(out) {
		m.t.Errorf("interfaces are left:\n%s", out)
	}
	if out := m.Must("nft", "list", "ruleset"); strings.Contains(out, "weft") {
		m.t.Errorf("a packet filter is left:\n%s", out)
	}
}

// inactive waits until the service has ended and is not to be started again.
func (m *machine) inactive() {
	m.t.Helper()
	rig.Eventually(m.t, 10*time.Second, func() error {
		if s := m.service("ActiveState"); s != "inactive" {
			return fmt.Errorf("after weft down the service is %s", s)
		}
		return nil
	})
}

// write writes a file of the machine.
func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.Path(path), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// status is weft status.
func (m *machine) status() api.Status {
	m.t.Helper()
	var s api.Status
	r := m.Run("weft", "status", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		m.t.Fatalf("weft status: %v: %s%s", err, r.Stdout, r.Stderr)
	}
	return s
}

// service is a property of the service.
func (m *machine) service(property string) string {
	m.t.Helper()
	return strings.TrimSpace(m.Must("systemctl", "show", "-P", property, "weft.service"))
}

// TestPackageInstall: both packages on a machine that runs systemd, by dpkg and rpm.
func TestPackageInstall(t *testing.T) {
	one, two := packages(t, "v1.2.3", runtime.GOARCH), packages(t, "v1.2.4", runtime.GOARCH)
	w := rig.New(t)
	u := w.Cloud()
	other, host := u.Host("h1"), u.Host("h2")
	other.Up()
	m := &machine{Machine: host.Boot(), t: t, other: other, a: startAgent(t, other, "a")}
	env := func() string {
		return fmt.Sprintf("WEFT_TOKEN=%s\nWEFT_SEEDS=%s\n", strings.TrimSpace(other.MustWeft("token")), other.Endpoint())
	}
	files := func(kind string) (string, string) {
		return m.Copy(one[kind+" "+runtime.GOARCH]), m.Copy(two[kind+" "+runtime.GOARCH])
	}
	first, second := files("deb")
	debian(m, env(), first, second)
	other.MustWeft("host", "rm", "h2") // as dpkg -P says; it changes the token
	first, second = files("rpm")
	redHat(m, env(), first, second)
}

// debian: the service is not started before somebody says so; then it is up when the service manager says so, in the unit's confinement,
// and programs are attached. An upgrade is a hand-over: traffic goes on. What is wrong with a new version leaves the old one running. A
// restart keeps what is attached. Removed and purged, nothing is left.
func debian(m *machine, env, one, two string) {
	t := m.t
	before := m.Changed()
	if out := m.Must("dpkg", "-i", one); !strings.Contains(out, "Type: systemctl enable --now weft") {
		t.Errorf("dpkg -i does not say what to type:\n%s", out)
	}
	if got := m.Run("systemctl", "is-enabled", "weft"); strings.TrimSpace(got.Stdout) != "disabled" || m.service("ActiveState") != "inactive" {
		t.Errorf("after dpkg -i weft is %s and %s", got.Stdout, m.service("ActiveState"))
	}
	m.Must("getent", "group", "weft")
	if out := m.Run("systemd-analyze", "verify", "weft.service"); out.Code != 0 || out.Stdout+out.Stderr != "" {
		t.Errorf("systemd-analyze verify: %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	if out := m.Run("systemd-analyze", "security", "--threshold=50", "--no-pager", "weft.service"); out.Code != 0 {
		t.Errorf("the unit is not confined as it was:\n%s%s", out.Stdout, out.Stderr)
	}
	if !slices.Contains(strings.Fields(m.service("Before")), "docker.service") {
		t.Errorf("weft does not start before docker.service: %s", m.service("Before"))
	}

	m.write("/etc/weft/weft.env", env)
	m.Must("systemctl", "enable", "--now", "weft")
	was := m.status()
	if got := m.service("MainPID"); got != fmt.Sprint(was.PID) || was.Version != "v1.2.3" {
		t.Errorf("systemd takes %s for the daemon, which is %d, %s", got, was.PID, was.Version)
	}
	m.connects()
	program := m.attaches()
	if out := m.Must("weft", "run", "--", "getent", "hosts", "a"); !strings.Contains(out, "a.weft.weft.internal") { // name service, in the confinement
		t.Errorf("the name a: %q", out)
	}
	m.Must("test", "-S", "/run/docker/plugins/weft.sock")
	m.Must("weft", "network", "create", "open", "--plain")
	m.Must("weft", "run", "--network", "open", "--", "true")
	m.Must("weft", "expose")
	m.Must("weft", "hide")
	m.Must("weft", "bench", "net", "h1", "--tests", "rtt", "--duration", "300ms")

	m.upgraded("dpkg -i of the next version", "v1.2.4", func() { m.Must("dpkg", "-i", two) })
	m.upgraded("dpkg -i of the same version", "v1.2.4", func() { m.Must("dpkg", "-i", two) })
	m.upgraded("systemctl reload", "v1.2.4", func() { m.Must("systemctl", "reload", "weft") })

	m.write("/etc/weft/weft.yaml", "nonsense: 1\n")
	pid := m.status().PID
	if out := m.Must("dpkg", "-i", one); !strings.Contains(out, "goes on") {
		t.Errorf("dpkg -i does not say that the old daemon goes on:\n%s", out)
	}
	if s := m.status(); s.PID != pid || s.Version != "v1.2.4" || m.service("ActiveState") != "active" {
		t.Errorf("after an upgrade that failed: %+v", s)
	}
	m.write("/etc/weft/weft.yaml", "log-level: debug\n")
	m.Must("systemctl", "restart", "weft")
	if s := m.status(); s.PID == pid || s.Version != "v1.2.3" || s.HandedOver != nil {
		t.Errorf("after a restart: %+v", s)
	}
	rig.Eventually(t, 15*time.Second, m.reaches)
	pid = m.status().PID
	m.Must("kill", "-KILL", fmt.Sprint(pid))
	rig.Eventually(t, 15*time.Second, func() error {
		if got := m.service("MainPID"); got == "0" || got == fmt.Sprint(pid) || m.service("ActiveState") != "active" {
			return fmt.Errorf("killed, the daemon has pid %s", got)
		}
		return nil
	})

	m.Must("weft", "down")
	m.inactive()
	m.Must("systemctl", "start", "weft")

	m.Must("dpkg", "-r", "weft")
	if !program.Running() {
		t.Error("the program that was attached has ended")
	}
	program.Kill9()
	m.bare()
	m.Must("test", "-e", "/var/lib/weft", "-a", "-e", "/etc/weft/weft.env")
	gone(t, "box", m.other)
	// Installed again, it goes on as the same host.
	m.Must("dpkg", "-i", two)
	m.Must("systemctl", "start", "weft")
	if s := m.status(); s.HostID != was.HostID {
		t.Errorf("removed and installed again: host %s, was %s", s.HostID, was.HostID)
	}
	if out := m.Must("dpkg", "-P", "weft"); !strings.Contains(out, "weft host rm h2") {
		t.Errorf("dpkg -P does not say how other hosts forget this one:\n%s", out)
	}
	m.bare()
	for _, f := range m.Changed() {
		if strings.Contains(f, "weft") && !slices.Contains(before, f) {
			t.Errorf("purged, %s is left", f)
		}
	}
	for _, f := range []string{"/etc/weft", "/var/lib/weft", "/run/weft", "/run/docker/plugins/weft.sock"} {
		if _, err := os.Lstat(m.Path(f)); err == nil {
			t.Errorf("purged, %s is left", f)
		}
	}
}

// redHat: the same by rpm, as far as it differs: what scripts are told of an upgrade, and that there is no purge. Debian's rpm knows
// nothing of what dpkg has installed, hence --nodeps.
func redHat(m *machine, env, one, two string) {
	t := m.t
	if out := m.Must("rpm", "-i", "--nodeps", one); !strings.Contains(out, "Type: systemctl enable --now weft") {
		t.Errorf("rpm -i does not say what to type:\n%s", out)
	}
	m.write("/etc/weft/weft.env", env)
	m.Must("systemctl", "enable", "--now", "weft")
	m.connects()
	program, was := m.attaches(), m.status()
	m.upgraded("rpm -U", "v1.2.4", func() { m.Must("rpm", "-U", "--nodeps", two) })
	if b, err := os.ReadFile(m.Path("/etc/weft/weft.env")); err != nil || string(b) != env {
		t.Errorf("rpm -U changed the configuration: %q, %v", b, err)
	}
	m.Must("weft", "down", "--leave")
	m.inactive()
	m.Must("systemctl", "start", "weft")
	if s := m.status(); s.HostID == was.HostID {
		t.Errorf("it left, and is host %s again", s.HostID)
	}
	m.Must("rpm", "-e", "weft")
	if !program.Running() {
		t.Error("the program that was attached has ended")
	}
	m.bare()
	m.Must("test", "-e", "/var/lib/weft", "-a", "-e", "/etc/weft/weft.env.rpmsave", "-a", "!", "-e", "/usr/bin/weft")
	if got := m.Run("systemctl", "is-enabled", "weft"); got.Code == 0 {
		t.Errorf("after rpm -e the service is %s", got.Stdout)
	}
}
