package component

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
)

// ConsulOptions are what a caller may choose about a Consul agent.
type ConsulOptions struct {
	// Port of the HTTP interface on 127.0.0.1. Defaults to a free one. The other ports are always free ones.
	Port int
	// DNSPort is that of the DNS interface on 127.0.0.1, UDP and TCP. Defaults to a free one.
	DNSPort int
	// Dev runs the agent in memory: it starts sooner and has forgotten everything after a restart.
	// Defaults to a server of one node that keeps its state in its folder.
	Dev bool
	// Args are added to the agent's command line.
	Args []string
}

// StartConsul runs a Consul agent with its data in dir; "" means a temporary folder that Close
// removes. It is ready when it leads, and its node is registered and healthy, so that sessions can
// be made. ctx bounds the start, not the agent's life.
func StartConsul(ctx context.Context, dir string, opts ConsulOptions) (*Process, error) {
	agent, err := findConsul()
	if err != nil {
		return nil, err
	}
	dir, owned, err := makeDir(dir, KindConsul)
	if err != nil {
		return nil, err
	}
	return launch(ctx, opts.Port, func(port int) (*Process, error) {
		ports, err := consulPorts(port, opts.DNSPort)
		if err != nil {
			return nil, err
		}
		config, err := json.Marshal(consulConfig(ports))
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "agent.json")
		if err := os.WriteFile(file, config, 0o644); err != nil {
			return nil, err
		}
		args := []string{agent, "agent", "-config-file=" + file}
		if opts.Dev {
			args = append(args, "-dev")
		} else {
			args = append(args, "-server", "-bootstrap-expect=1", "-data-dir="+filepath.Join(dir, "data"))
		}
		p := &Process{
			Kind: KindConsul, dir: dir, ownsDir: owned,
			Addr: loopback(ports["http"]), DNSAddr: loopback(ports["dns"]),
			argv: append(args, opts.Args...),
		}
		p.ready = func(ctx context.Context) error { return askConsul(ctx, p.Addr) }
		return p, nil
	})
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// findConsul finds the agent's program: $HERMOD_CONSUL, on PATH, or built by `make consul`.
func findConsul() (string, error) {
	if path := os.Getenv(EnvConsulBinary); path != "" {
		return exec.LookPath(path)
	}
	if path, err := exec.LookPath("consul"); err == nil {
		return path, nil
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return lookPath(filepath.Join(cache, "bin", "consul-"+ConsulVersion), "build it with `make consul`")
}

// consulPorts chooses all ports of an agent; -1 switches an interface off.
func consulPorts(http, dns int) (map[string]int, error) {
	ports := map[string]int{"http": http, "dns": dns, "serf_lan": 0, "server": 0}
	for name, port := range ports {
		if port != 0 {
			continue
		}
		free, err := FreePort()
		if err != nil {
			return nil, err
		}
		ports[name] = free
	}
	for _, name := range []string{"serf_wan", "https", "grpc"} {
		ports[name] = -1
	}
	return ports, nil
}

func consulConfig(ports map[string]int) map[string]any {
	return map[string]any{
		"node_name":            "hermod",
		"bind_addr":            "127.0.0.1",
		"client_addr":          "127.0.0.1",
		"ports":                ports,
		"log_level":            "info",
		"disable_update_check": true,
		"performance":          map[string]any{"raft_multiplier": 1}, // elections in about a second
	}
}

// askConsul returns nil when the agent's node is in the catalog and passes its own check.
func askConsul(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/health/node/hermod", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("health of its node: %s", res.Status)
	}
	var checks []struct{ CheckID, Status string }
	if err := json.NewDecoder(res.Body).Decode(&checks); err != nil {
		return fmt.Errorf("health of its node: %w", err)
	}
	for _, c := range checks {
		if c.CheckID == "serfHealth" && c.Status == "passing" {
			return nil
		}
	}
	return fmt.Errorf("its node is not healthy yet: %v", checks)
}
