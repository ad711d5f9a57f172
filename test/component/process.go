package component

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startWait bounds one start where the caller's context does not.
	startWait = 60 * time.Second
	// stopWait is how long a server may take to stop by itself before it is killed.
	stopWait = 20 * time.Second
	// readyInterval is the time between two questions whether a server is ready yet.
	readyInterval = 20 * time.Millisecond
	// startAttempts is how often a start is tried, each time on other ports: another process may
	// have taken the port between our choice and the server's bind.
	startAttempts = 3
	// logTail is how much of a server's log goes into the error when it fails to start, in bytes.
	logTail = 3 << 10
)

// errExited: the server ended before it was ready.
var errExited = errors.New("it exited")

// Process is one server. The Start function that made it returned when it was ready.
// All methods are safe for concurrent use.
type Process struct {
	Kind Kind
	// Addr is host:port: of the SQL or Redis protocol, or of Consul's HTTP interface.
	Addr string
	// DSN has no database name and belongs to an account that may create one. MySQL kinds only.
	DSN string
	// DNSAddr is host:port of Consul's DNS interface, UDP and TCP. Consul only.
	DNSAddr string

	// Static after the first start.
	argv    []string
	chroot  string // "" for none
	dir     string
	ownsDir bool // Close removes dir
	ready   func(context.Context) error

	mu  sync.Mutex
	run *run // the last run, nil before the first
}

// run is one life of the server's process.
type run struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone and err is set
	err    error
}

// Target is what the kind's environment variable should hold for tests to use this server.
func (p *Process) Target() string {
	if p.DSN != "" {
		return p.DSN
	}
	return p.Addr
}

// Pid is the id of the process that runs, or ran last.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run.cmd.Process.Pid
}

// LogPath is the file with the server's output.
func (p *Process) LogPath() string { return filepath.Join(p.dir, p.Kind.String()+".log") }

// Exited is closed when the current run of the server has ended, for whatever reason.
func (p *Process) Exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run.exited
}

// Signal sends a signal, SIGSTOP for instance, to the running process.
func (p *Process) Signal(s os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run.cmd.Process.Signal(s)
}

// Stop ends the server in order and waits for it; a server that does not stop within 20 seconds is
// killed, which is an error. The data stays. Stopping what does not run is no error.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM) }

// Kill ends the server at once with SIGKILL, and waits for it. The data stays.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Restart starts the server again on the same ports and data, after a Stop if it still runs, and
// returns when it is ready.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.start(ctx)
}

// Close stops the server and removes its folder, if that was made by its Start function.
func (p *Process) Close() error {
	err := p.Stop()
	if p.ownsDir {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

func (p *Process) end(s os.Signal) error {
	p.mu.Lock()
	r := p.run
	p.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Kind, err)
	}
	_ = r.cmd.Process.Signal(syscall.SIGCONT) // a test may have paused it
	select {
	case <-r.exited:
		return nil
	case <-time.After(stopWait):
	}
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Kind, err)
	}
	<-r.exited
	return fmt.Errorf("%s did not stop within %v and was killed", p.Kind, stopWait)
}

// start runs the process and waits until it is ready, has exited, or ctx ends.
func (p *Process) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	r, err := p.spawn()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Kind, err)
	}
	p.mu.Lock()
	p.run = r
	p.mu.Unlock()
	if err := p.awaitReady(ctx, r); err != nil {
		tail := p.logTail()
		_ = p.Kill()
		return fmt.Errorf("start %s: %w; its log ends:\n%s", p.Kind, err, tail)
	}
	return nil
}

func (p *Process) spawn() (*run, error) {
	log, err := os.OpenFile(p.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ChildAttr(p.chroot)
	if p.chroot != "" {
		cmd.Dir = "/"
	}
	r := &run{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go r.wait(started)
	return r, <-started
}

// wait starts the process and waits for its end on one thread: the kernel ties a child's death
// signal to the thread that made it, not to the process.
func (r *run) wait(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := r.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	r.err = r.cmd.Wait()
	close(r.exited)
}

func (p *Process) awaitReady(ctx context.Context, r *run) error {
	ask := time.NewTicker(readyInterval)
	defer ask.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-r.exited:
			return fmt.Errorf("%w: %v", errExited, r.err)
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (last answer: %v)", ctx.Err(), err)
		case <-ask.C:
		}
	}
}

// logTail is the end of the server's log.
func (p *Process) logTail() string {
	f, err := os.Open(p.LogPath())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > logTail {
		_, _ = f.Seek(-logTail, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return strings.TrimSpace(string(text))
}

// launch makes a process and starts it. Where the caller left the choice of the port to us, a
// server that does not come up is tried again on other ports.
func launch(ctx context.Context, port int, build func(port int) (*Process, error)) (*Process, error) {
	for attempt := 1; ; attempt++ {
		chosen := port
		if chosen == 0 {
			var err error
			if chosen, err = FreePort(); err != nil {
				return nil, err
			}
		}
		p, err := build(chosen)
		if err != nil {
			return nil, err
		}
		err = p.start(ctx)
		if err == nil {
			return p, nil
		}
		if port != 0 || attempt == startAttempts || !errors.Is(err, errExited) {
			return nil, errors.Join(err, p.Close())
		}
	}
}

// FreePort picks a loopback port that is free for TCP and UDP, below the range from which the
// kernel takes ports of outgoing connections: those could take it while the server is down.
func FreePort() (int, error) {
	const low, high, tries = 20000, 32000, 100
	var last error
	for range tries {
		port := low + rand.IntN(high-low)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			last = err
			continue
		}
		u, err := net.ListenPacket("udp", addr)
		_ = l.Close()
		if err != nil {
			last = err
			continue
		}
		_ = u.Close()
		return port, nil
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

// makeDir returns dir, made if it is not there, or a new temporary folder for "".
func makeDir(dir string, k Kind) (path string, owned bool, err error) {
	if dir == "" {
		path, err = os.MkdirTemp("", "hermod-"+k.String()+"-")
		return path, true, err
	}
	if path, err = filepath.Abs(dir); err == nil {
		err = os.MkdirAll(path, 0o755)
	}
	return path, false, err
}
