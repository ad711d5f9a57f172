package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// diskSize is that of the database's disk: an empty MariaDB has 150 MB, an hour of load less than the rest.
const diskSize = "768m"

// ballastChunk is how much the ballast grows at a time, in bytes.
const ballastChunk = 1 << 20

// fullFor is how long the disk is full after the first message that did not fit.
const fullFor = 15 * time.Second

// disk is a file system of the database's own, in memory, that can be filled up.
type disk struct {
	path string
	// missing is why there is none: mounting needs rights that not every environment gives. The
	// database is on the common disk then, and the fault is reported as not run.
	missing error
}

// newDisk mounts a disk at a path, which is made.
func newDisk(path string) (*disk, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	d := &disk{path: path}
	if err := syscall.Mount("hermod-faults", path, "tmpfs", 0, "size="+diskSize); err != nil {
		d.missing = fmt.Errorf("mount a disk of its own for the database: %w", err)
	}
	return d, nil
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

// fill leaves no byte free.
func (d *disk) fill() error {
	file, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // Write has said whether it is full
	for chunk := make([]byte, ballastChunk); ; {
		if _, err := file.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// free takes the ballast away.
func (d *disk) free() error { return os.Remove(d.ballast()) }

// close unmounts the disk, whose files are gone then.
func (d *disk) close() error {
	if d == nil || d.missing != nil {
		return nil
	}
	return syscall.Unmount(d.path, 0)
}

// disks are faults of the database's disk.
func (s *Site) disks() []Row {
	const name = "disk full for the database"
	return []Row{{Name: name, Missing: s.disk.missing, Faults: []Fault{{
		Name: name, On: []string{onMySQL, onAll}, Lasts: fullFor,
		Inject: func(ctx context.Context) error {
			before, err := s.failedCommits(ctx)
			if err != nil {
				return err
			}
			if err := s.disk.fill(); err != nil {
				return err
			}
			return s.awaitFailedCommit(ctx, before)
		},
		Heal: func(context.Context) error { return s.disk.free() },
	}}}}
}
