package cni

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	exe := filepath.Join(dir, "sbin", "weft-1.2")
	for _, d := range []string{"sbin"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(exe, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	i := Install{Executable: exe, BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "conf"), Network: "weft"}
	plugin, conf := filepath.Join(dir, "bin", "weft"), filepath.Join(dir, "conf", "90-weft.conflist")
	done, err := i.Do()
	if err != nil || done != (Installed{Plugin: plugin, Link: exe, Config: conf}) {
		t.Fatalf("%+v, %v", done, err)
	}
	if to, err := os.Readlink(plugin); err != nil || to != exe {
		t.Errorf("a link to %s, %v", to, err)
	}
	// What a runtime makes of the configuration: each plugin's part with version and name.
	var list struct {
		Version string            `json:"cniVersion"`
		Name    string            `json:"name"`
		Plugins []json.RawMessage `json:"plugins"`
	}
	b, err := os.ReadFile(conf)
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil || list.Version != "1.0.0" || list.Name != "weft" || len(list.Plugins) != 1 {
		t.Fatalf("%s: %v", b, err)
	}
	c, err := parseConfig([]byte(`{"name": "weft", ` + string(list.Plugins[0])[1:]))
	if err != nil || c.check() != nil || c.Type != "weft" || c.Network != "weft" {
		t.Errorf("configuration %+v: %v, %v", c, err, c.check())
	}

	// A binary in place of the link; an administrator's configuration stays.
	edited := strings.Replace(string(b), `"weft",`, `"mine",`, 1)
	if err := os.WriteFile(conf, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	i.Copy = true
	if done, err = i.Do(); err != nil || done != (Installed{Plugin: plugin, Config: conf, Kept: true}) {
		t.Fatalf("again: %+v, %v", done, err)
	}
	if st, err := os.Lstat(plugin); err != nil || st.Mode() != 0o755 {
		t.Errorf("a copy: %v, %v", st.Mode(), err)
	}
	if b, err := os.ReadFile(conf); err != nil || string(b) != edited {
		t.Errorf("configuration %s, %v", b, err)
	}
	i.Executable = plugin // by itself
	if _, err = i.Do(); err != nil {
		t.Error(err)
	}

	if err := os.WriteFile(conf, []byte(`{"plugins": [{"type": "bridge"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = i.Do(); err == nil || !strings.Contains(err.Error(), conf) || !strings.Contains(err.Error(), "--conf-dir") {
		t.Errorf("over another's configuration: %v", err)
	}
	i.ConfDir = ""
	if done, err = i.Do(); err != nil || done.Config != "" {
		t.Errorf("no configuration: %+v, %v", done, err)
	}
	i.Executable, i.BinDir = exe, filepath.Join(dir, "other")
	if err := os.MkdirAll(filepath.Join(i.BinDir, "weft"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err = i.Do(); err == nil || !strings.Contains(err.Error(), "take it away") {
		t.Errorf("over a folder: %v", err)
	}
}
