// Package cluster runs hermod's built binary as real processes: a standalone, or a cluster on real
// MariaDB, Redis and Consul. The end-to-end tests and `make cluster` use it.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hermod-im/hermod/test/component"
)

const (
	// stopWait is how long a node may take to stop by itself.
	stopWait = 30 * time.Second
	// readyPoll is the time between two looks at /readyz.
	readyPoll = 10 * time.Millisecond
)

// Node is one process of hermod. Its methods are not safe for concurrent use.
type Node struct {
	// Name is unique in the cluster.
	Name string
	// Address is host:port where the other processes or the clients reach it.
	Address string
	// Admin is host:port of the admin port.
	Admin string
	// Env is added to the environment; it may be changed between runs.
	Env []string
	// LogPath is the file of its standard error, of all runs.
	LogPath string

	binary string
	args   []string
	stdout io.Writer // may be nil

	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of the last run; read after exited
}

// raceExit lets a process that was built with the race detector end without the second that it
// would otherwise wait for late reports.
const raceExit = "GORACE=atexit_sleep_ms=10"

// start runs the process. It is not ready yet.
func (n *Node) start() error {
	log, err := os.OpenFile(n.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has it
	n.cmd = exec.Command(n.binary, n.args...)
	n.cmd.Env = append(append(os.Environ(), raceExit), n.Env...)
	n.cmd.Stderr, n.cmd.Stdout = log, n.stdout
	n.cmd.SysProcAttr = component.ChildAttr("")
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		n.err = cmd.Wait()
		close(exited)
	}(n.cmd, n.exited)
	return nil
}

// Start runs the process and waits until it is ready.
func (n *Node) Start(ctx context.Context) error {
	if err := n.start(); err != nil {
		return err
	}
	return n.AwaitReady(ctx)
}

// AwaitReady waits until /readyz answers with 200.
func (n *Node) AwaitReady(ctx context.Context) error {
	reason := "no answer"
	for {
		status, body, err := n.Get(ctx, "/readyz")
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			reason = body
		}
		select {
		case <-n.exited:
			return fmt.Errorf("%s ended: %w\n%s", n.Name, n.err, n.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s\n%s", n.Name, reason, n.Tail())
		case <-time.After(readyPoll):
		}
	}
}

// Get asks the admin port.
func (n *Node) Get(ctx context.Context, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// Signal sends a signal, SIGSTOP for instance, to the running process.
func (n *Node) Signal(s os.Signal) error { return n.cmd.Process.Signal(s) }

// Instead makes the runs from now on those of another program that takes the same --set flags, with args
// before them; restore undoes it.
func (n *Node) Instead(program string, args ...string) (restore func()) {
	binary, own := n.binary, n.args
	n.binary, n.args = program, append(args, own[1:]...) // without the name of the service
	return func() { n.binary, n.args = binary, own }
}

// PID is the process's id.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Stop asks the process to stop and waits for it: nil if it ended with status 0.
func (n *Node) Stop() error { return n.end(syscall.SIGTERM) }

// Kill ends the process at once.
func (n *Node) Kill() error {
	_ = n.end(syscall.SIGKILL) // it always says "killed"
	return nil
}

// Running reports whether the process runs.
func (n *Node) Running() bool {
	if n.exited == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *Node) end(s syscall.Signal) error {
	if !n.Running() {
		return nil
	}
	if err := n.cmd.Process.Signal(s); err != nil {
		return err
	}
	_ = n.cmd.Process.Signal(syscall.SIGCONT) // a test may have paused it
	select {
	case <-n.exited:
	case <-time.After(stopWait):
		_ = n.cmd.Process.Kill()
		<-n.exited
		return fmt.Errorf("%s did not stop within %s\n%s", n.Name, stopWait, n.Tail())
	}
	if n.err != nil {
		return fmt.Errorf("%s: %w\n%s", n.Name, n.err, n.Tail())
	}
	return nil
}

// Tail is the end of its log.
func (n *Node) Tail() string {
	const most = 4 << 10
	data, err := os.ReadFile(n.LogPath)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-most):])
}

// Grep reports whether its log has the text.
func (n *Node) Grep(text string) bool {
	data, _ := os.ReadFile(n.LogPath)
	return bytes.Contains(data, []byte(text))
}

// Build builds the hermod binary, once per process, and returns its path. HERMOD_TEST_BINARY names
// one that is built already; HERMOD_TEST_RACE=1 builds it with the race detector.
var Build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("HERMOD_TEST_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	return BuildProgram("./cmd/hermod")
})

// BuildProgram builds one of the module's programs into bin/ and returns its path; with HERMOD_TEST_RACE=1
// it has the race detector.
func BuildProgram(source string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	args, name := []string{"build", "-o"}, filepath.Base(source)
	if os.Getenv("HERMOD_TEST_RACE") == "1" {
		args, name = []string{"build", "-race", "-o"}, name+"-race"
	}
	path := filepath.Join(root, "bin", name)
	cmd := exec.Command("go", append(args, path, source)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", source, err, out)
	}
	return path, nil
}

func moduleRoot() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("cannot tell where the source is")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file))), nil
}
