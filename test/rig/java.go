package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// javaModules are the parts of the JDK that programs of tests run with: what jdeps says of Vert.x and Hazelcast, and what these look for
// by name.
const javaModules = "java.base,java.compiler,java.logging,java.management,java.naming,java.scripting,java.sql,jdk.management,jdk.net,jdk.unsupported"

// JavaRoot makes a root folder for containers: a JRE in /jre, cut out of the machine's JDK, with the libraries it needs; jars in /app/lib, and
// in /app what javac makes of sources.
func JavaRoot(t testing.TB, jars []string, sources ...string) string {
	t.Helper()
	for _, tool := range []string{"jlink", "javac", "ldd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs %s (Debian packages default-jdk-headless and libc-bin): run make test-deps", tool)
		}
	}
	root := t.TempDir()
	jre, app := filepath.Join(root, "jre"), filepath.Join(root, "app")
	lib := filepath.Join(app, "lib")
	for _, dir := range []string{lib, filepath.Join(root, "tmp")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := command("", name, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	run("jlink", "--add-modules", javaModules, "--strip-java-debug-attributes", "--no-man-pages", "--no-header-files", "--output", jre)
	run("javac", append([]string{"-proc:none", "-cp", strings.Join(jars, ":"), "-d", app}, sources...)...)
	run("cp", append(slices.Clone(jars), lib)...)

	objects := []string{filepath.Join(jre, "bin", "java")}
	for _, pattern := range []string{"*.so", "*/*.so"} {
		more, err := filepath.Glob(filepath.Join(jre, "lib", pattern))
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, more...)
	}
	paths := fmt.Sprintf("LD_LIBRARY_PATH=%s:%s", filepath.Join(jre, "lib"), filepath.Join(jre, "lib", "server"))
	for line := range strings.Lines(run("env", append([]string{paths, "ldd"}, objects...)...)) {
		i := strings.Index(line, "/")
		f := strings.Fields(line)
		if i < 0 || len(f) < 2 || strings.HasPrefix(line[i:], jre) || strings.HasSuffix(strings.TrimSpace(line), ":") {
			continue
		}
		path := strings.Fields(line[i:])[0]
		if _, err := os.Stat(root + path); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		run("cp", "-L", path, root+path)
	}
	return root
}

// Java is the command that runs a class of JavaRoot, with little memory and a quick start.
func Java(class string, args ...string) []string {
	return append([]string{"/jre/bin/java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", "/app:/app/lib/*", class}, args...)
}
