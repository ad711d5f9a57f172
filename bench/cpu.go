package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Process is a server process whose CPU time is measured.
type Process struct {
	Name string
	PID  int
}

// ParseProcess reads NAME=PID.
func ParseProcess(s string) (Process, error) {
	name, pid, ok := strings.Cut(s, "=")
	n, err := strconv.Atoi(pid)
	if !ok || name == "" || err != nil {
		return Process{}, fmt.Errorf("%q: give a process as NAME=PID", s)
	}
	return Process{Name: name, PID: n}, nil
}

// userHZ is the unit of times in /proc: 1/100 s on every Linux.
const userHZ = 100

// cpuTime is the user and system time that a process has used, all its threads together (proc(5), /proc/PID/stat).
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(data), ") ") // the name before may hold spaces
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("unreadable /proc stat")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / userHZ), errors.Join(err1, err2)
}

// cpuTimes is cpuTime of each process.
func cpuTimes(processes []Process) ([]time.Duration, error) {
	out := make([]time.Duration, len(processes))
	for i, p := range processes {
		t, err := cpuTime(p.PID)
		if err != nil {
			return nil, fmt.Errorf("CPU time of %s: %w", p.Name, err)
		}
		out[i] = t
	}
	return out, nil
}
