package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hermod-im/hermod/test/component"
)

func TestParse(t *testing.T) {
	tests := []struct {
		args    string
		kinds   []component.Kind
		command string
		err     string
	}{
		{args: "go test ./...", kinds: component.Kinds(), command: "go test ./..."},
		{args: "-only redis -- go test -v", kinds: []component.Kind{component.KindRedis}, command: "go test -v"},
		{args: "-only= true", command: "true"},
		{args: "-only=consul,mysql true", kinds: []component.Kind{component.KindConsul, component.KindMySQL}, command: "true"},
		{args: "-only=redis,etcd true", err: `unknown server "etcd"`},
		{args: "-only=redis", err: "no command"},
	}
	for _, test := range tests {
		kinds, command, err := parse(strings.Fields(test.args))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v, want %s", test.args, err, test.err)
			}
			continue
		}
		if err != nil || !slices.Equal(kinds, test.kinds) || strings.Join(command, " ") != test.command {
			t.Errorf("%s: %v, %q, %v", test.args, kinds, command, err)
		}
	}
}

func TestExitCodeIsTheCommands(t *testing.T) {
	for command, want := range map[string]int{"true": 0, "exit 3": 3} {
		if code, err := run(t.Context(), []string{"-only=", "sh", "-c", command}); code != want || err != nil {
			t.Errorf("%s: %d, %v", command, code, err)
		}
	}
	if code, err := run(t.Context(), []string{"-only=", "no-such-command"}); code != 1 || err == nil {
		t.Errorf("no such command: %d, %v", code, err)
	}
}

func TestCommandGetsTheServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	t.Setenv(component.EnvRedis, "")
	file := filepath.Join(t.TempDir(), "addr")
	code, err := run(t.Context(), []string{"-only=redis", "sh", "-c", "echo $HERMOD_TEST_REDIS >" + file})
	if code != 0 || err != nil {
		t.Fatalf("%d, %v", code, err)
	}
	addr, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(addr), "127.0.0.1:") {
		t.Errorf("the command was given %q, %v", addr, err)
	}
	if left := os.Getenv(component.EnvRedis); left != "" {
		t.Errorf("%s is still %s", component.EnvRedis, left)
	}
}

// An interrupted run ends the command in order, by a signal that it can handle.
func TestInterruptReachesTheCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	ready, done := filepath.Join(dir, "ready"), filepath.Join(dir, "done")
	script := "trap 'touch " + done + "; exit 5' TERM; touch " + ready + "; while :; do sleep 0.02; done"
	result := make(chan int, 1)
	go func() {
		code, _ := runCommand(ctx, []string{"sh", "-c", script})
		result <- code
	}()
	for {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		select {
		case code := <-result:
			t.Fatalf("the command ended with %d", code)
		default:
		}
	}
	cancel()
	if code := <-result; code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	if _, err := os.Stat(done); err != nil {
		t.Error(err)
	}
}
