package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// weft cni install says what it put where, and is content with what is there.
func TestCNIInstall(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) call {
		return weft(t, filepath.Join(dir, "run"), "", append([]string{"cni", "install", "--bin-dir", filepath.Join(dir, "bin")}, args...)...)
	}
	conf := filepath.Join(dir, "conf", "90-weft-films.conflist")
	for _, again := range []string{"\n", " (as it was)\n"} {
		got := run("--conf-dir", filepath.Join(dir, "conf"), "--network", "films")
		if got.code != ExitOK || !strings.Contains(got.out, filepath.Join(dir, "bin", "weft")+" -> ") || !strings.HasSuffix(got.out, conf+again) {
			t.Errorf("%+v", got)
		}
	}
	if b, err := os.ReadFile(conf); err != nil || !strings.Contains(string(b), `"network": "films"`) || !strings.Contains(string(b), filepath.Join(dir, "run")) {
		t.Errorf("%s: %v", b, err)
	}
	if got := run("--no-conf", "--json"); got.code != ExitOK || strings.Contains(got.out, "config") {
		t.Errorf("%+v", got)
	}
	if got := run("--network", "Bad_Name"); got.code != ExitUsage {
		t.Errorf("%+v", got)
	}
}

// What the Kubernetes manifest has weft do are commands of weft.
func TestKubernetesManifest(t *testing.T) {
	b, err := os.ReadFile("../../deploy/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type container struct {
		Args           []string
		ReadinessProbe struct{ Exec struct{ Command []string } } `yaml:"readinessProbe"`
	}
	var doc struct {
		Spec struct {
			Template struct {
				Spec struct {
					InitContainers []container `yaml:"initContainers"`
					Containers     []container
				}
			}
		}
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	pod := doc.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("%+v", pod)
	}
	dir := t.TempDir()
	var args []string
	for _, a := range pod.InitContainers[0].Args {
		args = append(args, strings.Replace(a, "/host/bin", dir, 1))
	}
	if got := weft(t, dir, "", args...); got.code != ExitOK || got.out != "plugin  "+filepath.Join(dir, "weft")+"\n" {
		t.Errorf("weft %v: %+v", args, got)
	}
	app := &App{}
	for _, args := range [][]string{pod.Containers[0].Args, pod.Containers[0].ReadinessProbe.Exec.Command[1:]} {
		c, rest, err := app.root().Find(args)
		if err == nil {
			err = c.ParseFlags(rest)
		}
		if err != nil || c.Name() != args[0] {
			t.Errorf("weft %v: %v", args, err)
		}
	}
}
