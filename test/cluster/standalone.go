package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Standalone is a `hermod standalone` process.
type Standalone struct {
	*Node
	Data          string
	WS, TCP, HTTP string // URLs
}

// NewStandalone makes a standalone with its data in dir and free ports, not started yet. args are
// added to its command line.
func NewStandalone(dir string, args ...string) (*Standalone, error) {
	binary, err := Build()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	s := &Standalone{Data: filepath.Join(dir, "data")}
	s.Node = &Node{
		Name:    "standalone",
		LogPath: filepath.Join(dir, "standalone.log"),
		Admin:   ports[3],
		binary:  binary,
		args: append([]string{
			"standalone", "--json", "--data", s.Data,
			"--ws", ports[0], "--tcp", ports[1], "--http", ports[2], "--set", "admin.listen=" + ports[3],
		}, args...),
	}
	return s, nil
}

// Start runs it until it has said that it is ready.
func (s *Standalone) Start(ctx context.Context) error {
	out := filepath.Join(filepath.Dir(s.LogPath), "standalone.json")
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // the child has it
	s.stdout = file
	if err := s.Node.Start(ctx); err != nil {
		return err
	}
	line, err := awaitLine(ctx, out)
	if err != nil {
		return fmt.Errorf("standalone is ready and has not said so: %w", err)
	}
	var ready struct{ WS, TCP, HTTP, Admin string }
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		return fmt.Errorf("what standalone printed when ready: %w", err)
	}
	s.WS, s.TCP, s.HTTP = ready.WS, ready.TCP, ready.HTTP
	s.Admin = strings.TrimPrefix(ready.Admin, "http://")
	return nil
}

// Secret is the signing secret that it has made.
func (s *Standalone) Secret() (string, error) {
	data, err := os.ReadFile(filepath.Join(s.Data, "secret"))
	return strings.TrimSpace(string(data)), err
}
