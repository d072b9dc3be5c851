package main

import (
	"runtime/debug"
	"testing"
)

func TestVersionOf(t *testing.T) {
	info := func(module string, settings ...debug.BuildSetting) func() (*debug.BuildInfo, bool) {
		return func() (*debug.BuildInfo, bool) {
			return &debug.BuildInfo{Main: debug.Module{Version: module}, Settings: settings}, true
		}
	}
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123"}
	for name, test := range map[string]struct {
		release string
		read    func() (*debug.BuildInfo, bool)
		want    string
	}{
		"release":    {"v1.2.3", info("v9"), "v1.2.3"},
		"go install": {"", info("v1.0.0"), "v1.0.0"},
		"checkout":   {"", info("(devel)", commit), "devel-0123456789ab"},
		"edited":     {"", info("", commit, debug.BuildSetting{Key: "vcs.modified", Value: "true"}), "devel-0123456789ab-dirty"},
		"nothing":    {"", func() (*debug.BuildInfo, bool) { return nil, false }, "unknown"},
	} {
		if got := versionOf(test.release, test.read); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
