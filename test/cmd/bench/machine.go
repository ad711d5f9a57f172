package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// describeMachine is processor, memory, kernel and Go in one line (proc(5)).
func describeMachine() (string, error) {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "", err
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	var kib int64
	if _, err := fmt.Sscanf(line(memory, "MemTotal:"), "%d kB", &kib); err != nil {
		return "", fmt.Errorf("MemTotal: %w", err)
	}
	release := strings.SplitN(string(bytes.TrimSpace(kernel)), ".", 3)
	model := strings.TrimLeft(line(cpu, "model name"), "\t :")
	return fmt.Sprintf("%d cores of %s, %d GiB, Linux %s, %s", runtime.NumCPU(), model, (kib+1<<19)>>20, strings.Join(release[:min(2, len(release))], "."), runtime.Version()), nil
}

// line is what follows name in the first line that begins with it.
func line(text []byte, name string) string {
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// describeVersion is the commit, as `make build` names it.
func describeVersion() string {
	out, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return string(bytes.TrimSpace(out))
}
