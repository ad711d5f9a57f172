package bench

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Process is a server process whose CPU time and memory are measured.
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

// Cost is what each of a number of things took, by process, and of all of them.
type Cost struct {
	ByProcess map[string]float64 `json:"by_process"`
	Total     float64            `json:"total"`
}

// reading is what the processes had used at a moment.
type reading struct {
	at     time.Time
	cpu    []time.Duration
	memory []int64 // resident, in bytes
}

// read reads what the processes have used so far.
func read(processes []Process) (reading, error) {
	r := reading{at: time.Now()}
	for _, p := range processes {
		cpu, err := cpuTime(p.PID)
		if err != nil {
			return r, fmt.Errorf("CPU time of %s: %w", p.Name, err)
		}
		memory, err := residentMemory(p.PID)
		if err != nil {
			return r, fmt.Errorf("memory of %s: %w", p.Name, err)
		}
		r.cpu, r.memory = append(r.cpu, cpu), append(r.memory, memory)
	}
	return r, nil
}

// cpuSince is the µs of CPU time that each of n things took since before.
func (r reading) cpuSince(before reading, processes []Process, n int64) Cost {
	return cost(processes, n, func(i int) float64 { return float64((r.cpu[i] - before.cpu[i]).Microseconds()) })
}

// memorySince is the bytes that each of n things added since before.
func (r reading) memorySince(before reading, processes []Process, n int64) Cost {
	return cost(processes, n, func(i int) float64 { return float64(r.memory[i] - before.memory[i]) })
}

func cost(processes []Process, n int64, used func(i int) float64) Cost {
	c := Cost{ByProcess: map[string]float64{}}
	for i, p := range processes {
		each := used(i) / float64(max(1, n))
		c.ByProcess[p.Name] += each
		c.Total += each
	}
	return c
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

// residentMemory is a process's VmRSS in bytes (proc(5), /proc/PID/status).
func residentMemory(pid int) (int64, error) {
	return memoryLine(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
}

// ownMemory is this process's share of memory in bytes: a page that n processes have counts 1/n
// (proc(5), /proc/PID/smaps_rollup).
func ownMemory() (int64, error) { return memoryLine("/proc/self/smaps_rollup", "Pss:") }

// memoryLine is the line of a file that begins with name and goes on with a number of kB.
func memoryLine(path, name string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in %s", name, path)
}
