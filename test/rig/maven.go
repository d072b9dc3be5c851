package rig

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mavenCentral is where Jars asks.
const mavenCentral = "https://repo.maven.apache.org/maven2/"

// maxJar bounds a file from Maven Central, in bytes.
const maxJar = 64 << 20

// Jars returns the paths of the jars that a list names, one a line: SHA-256, group:artifact:version. They come from Maven Central,
// through a proxy if the environment names one, and are kept in the user's cache folder, so that a second run asks nobody. What cannot
// be had fails the test.
func Jars(t testing.TB, list string) []string {
	t.Helper()
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	var jars []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		sum, name, _ := strings.Cut(line, "  ")
		part := strings.Split(name, ":")
		if len(part) != 3 {
			t.Fatalf("%s: %q: want SHA-256, two spaces, group:artifact:version", list, line)
		}
		remote := path.Join(strings.ReplaceAll(part[0], ".", "/"), part[1], part[2], part[1]+"-"+part[2]+".jar")
		local := filepath.Join(cache, "weft-test", "maven", filepath.FromSlash(remote))
		if err := jar(mavenCentral+remote, local, sum); err != nil {
			t.Fatalf("%v\nThis test runs a program from Maven Central, and fails where that is out of reach: open the way to %s, or put the file there by hand: %s",
				err, mavenCentral, local)
		}
		jars = append(jars, local)
	}
	return jars
}

// jar has a file in the cache, with the sum that it must have.
func jar(url, local, sum string) error {
	if b, err := os.ReadFile(local); err == nil && hexSum(b) == sum {
		return nil
	}
	client := http.Client{Timeout: 2 * time.Minute}
	r, err := client.Get(url)
	if err != nil {
		return fmt.Errorf("fetch from Maven Central: %w", err)
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch from Maven Central: %s: %s", url, r.Status)
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxJar+1))
	if err != nil {
		return fmt.Errorf("fetch from Maven Central: %s: %w", url, err)
	}
	if got := hexSum(b); got != sum {
		return fmt.Errorf("fetch from Maven Central: %s: %d bytes with SHA-256 %s, want %s", url, len(b), got, sum)
	}
	if err := os.MkdirAll(filepath.Dir(local), 0o755); err != nil {
		return err
	}
	// Whole or not at all: tests of two checkouts may run at once.
	f, err := os.CreateTemp(filepath.Dir(local), ".jar-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), local)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
