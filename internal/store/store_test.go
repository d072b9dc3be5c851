package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/ident"
)

var (
	self  = ident.HostID{0xaa, 1}
	other = ident.HostID{0xbb, 2}
)

func open(t *testing.T, path string) *FS {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	d.SetOwner(self)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "state")
	d := open(t, path)
	if _, err := d.Load("own"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing saved: %v", err)
	}
	for _, b := range [][]byte{{}, []byte("one"), bytes.Repeat([]byte("x"), 1<<20), nil} {
		if err := d.Save("own", b); err != nil {
			t.Fatal(err)
		}
		got, err := d.Load("own")
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("loaded %d bytes of %d: %v", len(got), len(b), err)
		}
	}
	if err := d.Save("cluster.1", []byte("c")); err != nil {
		t.Fatal(err)
	}
	if names, err := d.Names(); err != nil || !slices.Equal(names, []string{"cluster.1", "own"}) {
		t.Errorf("names %v, %v", names, err)
	}
	for p, want := range map[string]fs.FileMode{path: 0o700, d.file("own"): 0o600} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", p, info.Mode().Perm(), want, err)
		}
	}
	if err := errors.Join(d.Remove("own"), d.Remove("own")); err != nil {
		t.Error(err)
	}
	if _, err := d.Load("own"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	for _, name := range []string{"", "..", "../x", "a/b", "A", "-x", ".x", "1a", strings.Repeat("a", 65), "a\x00"} {
		_, e1 := d.Load(name)
		_, e2 := d.Quarantine(name)
		for _, err := range []error{e1, e2, d.Save(name, nil), d.Remove(name)} {
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("name %q: %v", name, err)
			}
		}
	}
}

func TestEveryTruncationAndEveryBit(t *testing.T) {
	d := open(t, t.TempDir())
	good := Encode(self, "own", []byte("the quick brown fox"))
	load := func(b []byte) error {
		if err := os.WriteFile(d.file("own"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := d.Load("own")
		return err
	}
	if err := load(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		err := load(good[:n])
		var fe *FormatError
		if !errors.Is(err, ErrShort) || !errors.As(err, &fe) || fe.Offset != n {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if !strings.Contains(err.Error(), d.file("own")) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("cut at %d: not one line that names the file: %v", n, err)
		}
		if err := load(append(bytes.Clone(good), make([]byte, n+1)...)); !errors.Is(err, ErrLength) {
			t.Fatalf("%d bytes more: %v", n+1, err)
		}
	}
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			if err := load(b); err == nil {
				t.Fatalf("bit %d of byte %d flipped, and loaded", bit, i)
			}
		}
	}
	for i, want := range map[int]error{0: ErrNotWeft, 8: ErrNewer, 11: ErrChecksum, headerSize: ErrChecksum, len(good) - 1: ErrChecksum} {
		b := bytes.Clone(good)
		b[i] ^= 0x40
		if err := load(b); !errors.Is(err, want) {
			t.Errorf("byte %d: %v, want %v", i, err, want)
		}
	}
}

func TestRefusedFiles(t *testing.T) {
	d := open(t, t.TempDir())
	file := d.file("own")
	elsewhere := filepath.Join(t.TempDir(), "target")
	newer := Encode(self, "own", []byte("x"))
	newer[9] = 2
	for _, tt := range []struct {
		name  string
		make  func() error
		want  error
		texts []string
		save  bool // whether Save may replace it
	}{
		{"other host", func() error { return os.WriteFile(file, Encode(other, "own", nil), 0o600) }, ErrOwner, []string{self.String(), other.String(), "byte 10"}, false},
		{"newer format", func() error { return os.WriteFile(file, newer, 0o600) }, ErrNewer, []string{"format 2"}, false},
		{"newer and shorter", func() error { return os.WriteFile(file, newer[:12], 0o600) }, ErrNewer, nil, false},
		{"other name", func() error { return os.WriteFile(file, Encode(self, "others", nil), 0o600) }, ErrName, []string{"others"}, true},
		{"empty", func() error { return os.WriteFile(file, nil, 0o600) }, ErrShort, []string{"byte 0"}, true},
		{"text", func() error { return os.WriteFile(file, []byte("name: x\n"), 0o600) }, ErrNotWeft, nil, true},
		{"directory", func() error { return os.Mkdir(file, 0o700) }, ErrFile, []string{"directory"}, false},
		{"symbolic link", func() error {
			return errors.Join(os.WriteFile(elsewhere, Encode(self, "own", nil), 0o600), os.Symlink(elsewhere, file))
		}, ErrFile, []string{"symbolic link"}, false},
		{"writable by all", func() error {
			return errors.Join(os.WriteFile(file, Encode(self, "own", nil), 0o600), os.Chmod(file, 0o666))
		}, ErrFile, []string{"0666"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() { _ = os.RemoveAll(file) }()
			if err := tt.make(); err != nil {
				t.Fatal(err)
			}
			_, err := d.Load("own")
			if !errors.Is(err, tt.want) {
				t.Fatalf("load: %v, want %v", err, tt.want)
			}
			for _, s := range append(tt.texts, file, ";") {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("load: %v: does not say %q", err, s)
				}
			}
			if err := d.Save("own", []byte("new")); (err == nil) != tt.save || !tt.save && !errors.Is(err, tt.want) {
				t.Errorf("save: %v", err)
			}
		})
	}
	if b, err := os.ReadFile(elsewhere); err != nil || !bytes.Equal(b, Encode(self, "own", nil)) {
		t.Errorf("the link's target was written: %v", err)
	}
}

func TestNoOwnerYet(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Save("keys", nil); err == nil {
		t.Error("saved without an owner")
	}
	if err := os.WriteFile(d.file("keys"), Encode(other, "keys", []byte("k")), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Load("keys"); err != nil || string(b) != "k" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestQuarantine(t *testing.T) {
	d := open(t, t.TempDir())
	for i := 1; i <= 2; i++ {
		if err := d.Save("own", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		to, err := d.Quarantine("own")
		if want := filepath.Join(d.Path(), fmt.Sprintf("bad-own.%d", i)); err != nil || to != want {
			t.Fatalf("%q, %v; want %q", to, err, want)
		}
	}
	if names, err := d.Names(); err != nil || len(names) != 0 {
		t.Errorf("names %v, %v", names, err)
	}
	if _, err := d.Quarantine("own"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestLockAndLeftovers(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Fatalf("second open: %v", err)
	}
	if err := d.Save("own", []byte("x")); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(path, tempPrefix+"123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished file is still there: %v", err)
	}
	if b, err := d.Load("own"); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestLockOfAKilledProcess checks that kill -9 leaves no lock behind.
func TestLockOfAKilledProcess(t *testing.T) {
	path := os.Getenv("WEFT_TEST_LOCK")
	if path != "" { // the child
		if _, err := Open(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		select {}
	}
	path = t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockOfAKilledProcess$")
	cmd.Env = append(os.Environ(), "WEFT_TEST_LOCK="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 7)
	if _, err := out.Read(line); err != nil || !strings.HasPrefix(string(line), "locked") {
		t.Errorf("child: %q, %v", line, err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("while it lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it must be
	open(t, path)
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(self, "own", []byte("payload")))
	f.Add(Encode(ident.HostID{}, "", nil))
	f.Add([]byte("weftst\r\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		owner, name, payload, err := Decode(b)
		if err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) || fe.Offset > len(b) {
				t.Fatalf("%#v", err)
			}
			return
		}
		if !bytes.Equal(Encode(owner, name, payload), b) {
			t.Fatal("decoded, and encodes differently")
		}
	})
}
