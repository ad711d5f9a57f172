package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// worker is the other end of a ConnectWorker, in a process of its own or in this one. A share goes in,
// and then requests; each is answered with a report, and the share with reports of progress before that.
//
//	share ─▶        ◀─ progress … connected
//	"count" ─▶      ◀─ counts
//	"end" ─▶        ◀─ counts, when the last pings had time to be answered
type worker struct {
	in       io.WriteCloser
	out      io.ReadCloser
	requests *json.Encoder // on in
	reports  *json.Decoder // of out
	wait     func() error  // for its end; may be called again
}

// request is what a worker is asked once it has its share.
type request string

const (
	askCount request = "count"
	askEnd   request = "end"
)

// startWorker starts a process, or a goroutine if spawn is nil.
func startWorker(ctx context.Context, spawn func() *exec.Cmd) (*worker, error) {
	if spawn == nil {
		return startHere(ctx), nil
	}
	cmd := spawn()
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process for connections: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	return newWorker(in, out, func() error { defer stop(); return cmd.Wait() }), nil
}

func startHere(ctx context.Context) *worker {
	inReader, in := io.Pipe()
	out, outWriter := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := ConnectWorker(ctx, inReader, outWriter)
		_ = inReader.CloseWithError(io.ErrClosedPipe) // always nil
		_ = outWriter.Close()                         // always nil
		ended <- err
	}()
	return newWorker(in, out, func() error { return <-ended })
}

func newWorker(in io.WriteCloser, out io.ReadCloser, wait func() error) *worker {
	return &worker{
		in: in, out: out, requests: json.NewEncoder(in), reports: json.NewDecoder(out),
		wait: sync.OnceValue(wait),
	}
}

// connect gives the worker its share, and waits until it has made all connections.
func (w *worker) connect(s share, progress func(more int64)) (crowdReport, error) {
	if err := w.requests.Encode(s); err != nil {
		return crowdReport{}, w.failed(err)
	}
	var last int64
	for {
		report, err := w.report()
		if err != nil {
			return report, err
		}
		progress(report.Joined - last)
		if last = report.Joined; report.Logins != nil {
			return report, nil
		}
	}
}

// ask sends a request and waits for the report.
func (w *worker) ask(what request) (crowdReport, error) {
	if err := w.requests.Encode(what); err != nil {
		return crowdReport{}, w.failed(err)
	}
	return w.report()
}

func (w *worker) report() (r crowdReport, err error) {
	if err := w.reports.Decode(&r); err != nil {
		return r, w.failed(err)
	}
	return r, nil
}

// failed is why the worker does not answer: what it ended with, if it has.
func (w *worker) failed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		err = cmp.Or(w.wait(), err)
	}
	return fmt.Errorf("a process for connections: %w", err)
}

// close ends the worker, which closes its connections, and waits for it.
func (w *worker) close() {
	_ = w.in.Close()
	_ = w.out.Close()
	_ = w.wait() // what went wrong has been said, or no longer matters
}
