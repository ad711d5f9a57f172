package faults

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// mostLog is how much of the end of a log is kept after a failure, in bytes.
const mostLog = 8 << 20

// Finish stops everything and removes the site's files; after a failure the logs stay, and it says where. What no
// process may say is a failure.
func (s *Site) Finish(failed bool) error {
	err := s.Close()
	for _, n := range s.Nodes() {
		for _, bad := range [...]string{"DATA RACE", "panic: ", "fatal error: "} {
			if n.Grep(bad) {
				err = errors.Join(err, fmt.Errorf("the log of %s has %q", n.Name, bad))
			}
		}
	}
	if !failed && err == nil {
		return os.RemoveAll(s.dir)
	}
	s.log("the logs are in %s", s.dir)
	return errors.Join(err, keepLogs(s.dir))
}

// keepLogs removes all but the logs, and all but the end of those.
func keepLogs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.IsDir() {
			errs = append(errs, shorten(path))
			continue
		}
		logs, err := filepath.Glob(filepath.Join(path, "*.log"))
		errs = append(errs, err)
		for _, log := range logs {
			errs = append(errs, os.Rename(log, filepath.Join(dir, filepath.Base(log))))
			errs = append(errs, shorten(filepath.Join(dir, filepath.Base(log))))
		}
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// shorten leaves the end of a file.
func shorten(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it is only read
	info, err := file.Stat()
	if err != nil || info.Size() <= mostLog {
		return err
	}
	end, err := io.ReadAll(io.NewSectionReader(file, info.Size()-mostLog, mostLog))
	if err != nil {
		return err
	}
	return os.WriteFile(path, end, 0o600)
}
