package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hermod-im/hermod/bench"
	"github.com/hermod-im/hermod/bench/report"
	"github.com/hermod-im/hermod/test/cluster"
)

// runWait bounds one run, from the first login to the last answer.
const runWait = 4 * time.Minute

// suite runs rows, one site at a time.
type suite struct {
	options
	binary           string // hermod
	version, machine string
	site             *site // nil if none runs
}

func newSuite(o options) (*suite, error) {
	if err := os.MkdirAll(o.folder, 0o755); err != nil {
		return nil, err
	}
	binary, err := cluster.Build()
	if err != nil {
		return nil, err
	}
	machine, err := describeMachine()
	return &suite{options: o, binary: binary, version: describeVersion(), machine: machine}, err
}

// runAll runs the rows that were chosen, all of them even if some fail.
func (s *suite) runAll(ctx context.Context) error {
	var errs []error
	for _, r := range rows() {
		if s.rows.MatchString(r.name) && ctx.Err() == nil {
			errs = append(errs, s.runRow(ctx, r))
		}
	}
	return errors.Join(append(errs, s.stopSite())...)
}

// runRow runs a row as often as it should be, and writes its file.
func (s *suite) runRow(ctx context.Context, r row) error {
	var (
		runs []*bench.Run
		errs []error
	)
	for n := range s.runs {
		if n > 0 && r.once || ctx.Err() != nil {
			break
		}
		begun := time.Now()
		run, err := s.runOnce(ctx, r)
		if run != nil {
			runs = append(runs, run)
		}
		if err != nil {
			err = fmt.Errorf("%s, run %d: %w", r.name, n+1, err)
			errs = append(errs, err, s.stopSite()) // the next run begins with servers that are well
		}
		note("%-26s run %d of %d: %s (%s)", r.name, n+1, s.runs, outcome(run, err), time.Since(begun).Round(100*time.Millisecond))
	}
	return errors.Join(append(errs, s.write(r, runs))...)
}

// outcome is a run in a few words.
func outcome(run *bench.Run, err error) string {
	if err != nil {
		return err.Error()
	}
	return report.Summary(run)
}

// runOnce makes one run on the row's servers. The run is not nil with an error if it was not clean.
func (s *suite) runOnce(ctx context.Context, r row) (*bench.Run, error) {
	ctx, cancel := context.WithTimeout(ctx, runWait)
	defer cancel()
	if err := s.moveTo(ctx, r); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(r.load, "talk") {
		return s.bench(ctx, r)
	}
	floor, err := s.floor(ctx, r)
	if err != nil {
		return nil, err
	}
	if s.site.dsn == "" {
		run, err := s.bench(ctx, r)
		if run != nil {
			run.Floor = floor
		}
		return run, err
	}
	before, err := usageOf(ctx, s.site.dsn)
	if err != nil {
		return nil, err
	}
	run, err := s.bench(ctx, r)
	if err != nil {
		return run, err
	}
	after, err := usageOf(ctx, s.site.dsn)
	run.Floor, run.Database = floor, after.since(before, run.Talk.Acked)
	return run, err
}

// floor is what the sockets of one of the row's messages cost at the moment.
func (s *suite) floor(ctx context.Context, r row) (float64, error) {
	args := []string{"bench", "floor", "--json", "--duration", "1s"}
	fields := strings.Fields(r.load)
	for _, flag := range []string{"--pairs", "--window"} {
		if i := slices.Index(fields, flag); i >= 0 {
			args = append(args, fields[i:i+2]...)
		}
	}
	out, err := exec.CommandContext(ctx, s.binary, args...).Output()
	if err != nil {
		return 0, fmt.Errorf("hermod %s: %w", strings.Join(args, " "), err)
	}
	var result bench.FloorResult
	if err := json.Unmarshal(out, &result); err != nil {
		return 0, fmt.Errorf("hermod %s: %w", strings.Join(args, " "), err)
	}
	return result.CPU, nil
}

// moveTo has the row's servers running.
func (s *suite) moveTo(ctx context.Context, r row) error {
	if s.site != nil && s.site.spec == r.site && !r.fresh {
		return nil
	}
	if err := s.stopSite(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hermod-bench-")
	if err != nil {
		return err
	}
	if s.site, err = r.site.start(ctx, dir); err != nil {
		return fmt.Errorf("start %s (logs in %s): %w", r.site.name, dir, err)
	}
	stop := s.site.close
	s.site.close = func() error { return errors.Join(stop(), os.RemoveAll(dir)) }
	return nil
}

func (s *suite) stopSite() error {
	if s.site == nil {
		return nil
	}
	err := s.site.close()
	s.site = nil
	return err
}

// bench runs hermod bench.
func (s *suite) bench(ctx context.Context, r row) (*bench.Run, error) {
	load := append(strings.Fields(r.load), r.durations(s.quick)...)
	args := append([]string{"bench"}, load...)
	args = append(args, "--json", "--url", s.site.urls, "--site", r.site.name)
	for _, p := range s.site.processes {
		args = append(args, "--pid", p)
	}
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Env = append(os.Environ(), "HERMOD_SECRET="+s.site.secret)
	cmd.Stdout, cmd.Stderr = &out, &log
	failed := cmd.Run()
	run := &bench.Run{}
	if err := json.Unmarshal(out.Bytes(), run); err != nil {
		return nil, fmt.Errorf("hermod bench %s: %w\n%s", strings.Join(load, " "), errors.Join(failed, err), log.Bytes())
	}
	run.Row, run.Command, run.Targets = r.name, strings.Join(load, " "), r.targets
	run.Version, run.Machine = s.version, s.machine
	if failed != nil {
		return run, fmt.Errorf("hermod bench %s: %w\n%s%s", run.Command, failed, log.Bytes(), out.Bytes())
	}
	return run, nil
}

func (s *suite) path(r row) string { return filepath.Join(s.folder, r.name+".json") }

// write replaces the row's file; without runs it stays as it is.
func (s *suite) write(r row, runs []*bench.Run) error {
	if len(runs) == 0 {
		return nil
	}
	var b bytes.Buffer
	for _, run := range runs {
		if err := json.NewEncoder(&b).Encode(run); err != nil {
			return err
		}
	}
	return os.WriteFile(s.path(r), b.Bytes(), 0o644)
}

// report makes the page and the document's tables of all files that there are, and prints the targets.
func (s *suite) report() error {
	var (
		runs    []*bench.Run
		missing []string
	)
	for _, r := range rows() {
		data, err := os.ReadFile(s.path(r))
		if errors.Is(err, os.ErrNotExist) {
			missing = append(missing, r.name)
			continue
		}
		if err != nil {
			return err
		}
		some, err := report.Read(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("%s: %w", s.path(r), err)
		}
		runs = append(runs, some...)
	}
	all := report.New(runs)
	page := filepath.Join(s.folder, "report.html")
	var b bytes.Buffer
	if err := errors.Join(all.HTML(&b), os.WriteFile(page, b.Bytes(), 0o644)); err != nil {
		return err
	}
	fmt.Println(all.Targets())
	note("plots and all figures are in %s", page)
	if s.docs == "" || s.quick {
		return nil
	}
	if len(missing) > 0 {
		note("%s stays as it is: there are no runs of %s", s.docs, strings.Join(missing, ", "))
		return nil
	}
	return embed(all, s.docs)
}

// embed writes the tables into a document.
func embed(r *report.Report, path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := r.Embed(old)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if slices.Equal(old, text) {
		return nil
	}
	note("wrote the tables of %s", path)
	return os.WriteFile(path, text, 0o644)
}

func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
