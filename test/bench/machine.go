package main

import (
	"context"
	"os"
	"runtime"
	"strings"
	"time"
)

// machine names where and when a run took place: figures of different machines don't compare.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	System string `json:"system"`
	Go     string `json:"go"`
	Date   string `json:"date"`
	Load   string `json:"load"` // averages as the run began
}

func thisMachine(ctx context.Context) machine {
	m := machine{
		CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Memory: field("/proc/meminfo", "MemTotal"),
		System: strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`), Go: strings.TrimPrefix(runtime.Version(), "go"),
		Date: time.Now().UTC().Format("2006-01-02 15:04 MST"),
	}
	m.Kernel, _ = kernel(ctx)
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 2 {
			m.Load = strings.Join(f[:3], " ")
		}
	}
	return m
}

// field returns the first value of a name in a file of lines "name: value" or "name=value"; what is missing is unknown.
func field(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		if rest = strings.TrimSpace(rest); rest != "" && strings.ContainsRune(":=", rune(rest[0])) {
			return strings.TrimSpace(rest[1:])
		}
	}
	return "unknown"
}
