package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/admin"
	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/cmd/internal/cli"
	"github.com/hermod-im/hermod/config"
)

// standaloneFlags are the short forms of the keys that a newcomer wants to set.
type standaloneFlags struct {
	cli.ConfigFlags
	data, ws, tcp, http, secret string
	json                        bool
}

// defaultData is where standalone keeps its files.
const defaultData = "./data"

func standaloneCommand() *cobra.Command {
	var f standaloneFlags
	cmd := &cobra.Command{
		Use:   "standalone",
		Short: "Run a whole system in this process: gateway, logic and router",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.data, "data", defaultData, "folder of the database and the signing secret")
	flags.StringVar(&f.ws, "ws", "", "address for WebSocket clients (default 127.0.0.1:8000); port 0 picks one")
	flags.StringVar(&f.tcp, "tcp", "", "address for TCP clients (default 127.0.0.1:8001)")
	flags.StringVar(&f.http, "http", "", "address of the router (default 127.0.0.1:8080)")
	flags.StringVar(&f.secret, "secret", "", "signing secret; without it one is made and kept in the data folder")
	flags.BoolVar(&f.json, "json", false, "print one line of JSON when ready, and nothing else, on standard output")
	f.Add(cmd)
	return cmd
}

func (f *standaloneFlags) run(ctx context.Context, out io.Writer) error {
	c, err := f.config()
	if err != nil {
		return err
	}
	log, err := admin.NewLogger(c.Log.Level, c.Log.Format, os.Stderr)
	if err != nil {
		return err
	}
	boot.TuneRuntime(c, boot.StandaloneGCPercent)
	env := &boot.Env{Log: log, Metrics: admin.NewRegistry(cli.Version()), Version: cli.Version()}
	s, err := boot.NewStandalone(ctx, c, env)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: choose other ports with --ws, --tcp and --http; port 0 picks one", err)
	}
	if err != nil {
		return err
	}
	port, err := boot.NewAdmin(c, env, s, s.Checks()...)
	if err != nil {
		_ = s.Close()
		return err
	}
	go f.announce(ctx, out, s, port)
	return boot.ServeWith(ctx, s, port)
}

func (f *standaloneFlags) config() (config.Config, error) {
	base, err := boot.StandaloneConfig(f.data)
	if err != nil {
		return config.Config{}, err
	}
	var overrides []string
	for _, o := range []struct{ key, value string }{
		{"gateway.ws", f.ws}, {"gateway.tcp", f.tcp}, {"router.listen", f.http}, {"secret", f.secret},
	} {
		if o.value != "" {
			overrides = append(overrides, o.key+"="+o.value)
		}
	}
	c, err := f.Load(base, overrides)
	if err != nil {
		return config.Config{}, err
	}
	if c.Secret == "" {
		if c.Secret, err = boot.StandaloneSecret(f.data); err != nil {
			return config.Config{}, err
		}
	}
	return c, c.Validate(config.RoleGateway, config.RoleLogic, config.RoleRouter)
}

// readyWait bounds the wait for readiness before something is said about it.
const readyWait = 10 * time.Second

// announce prints where to connect as soon as the system is ready.
func (f *standaloneFlags) announce(ctx context.Context, out io.Writer, s *boot.Standalone, port *admin.Server) {
	waiting, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	if err := boot.AwaitReady(waiting, s); err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "hermod: %v; waiting\n", err)
	}
	if boot.AwaitReady(ctx, s) != nil {
		return // it is being stopped
	}
	adminURL := ""
	if port != nil {
		adminURL = "http://" + port.Addr().String()
	}
	if f.json {
		_ = json.NewEncoder(out).Encode(struct {
			WS    string `json:"ws"`
			TCP   string `json:"tcp"`
			HTTP  string `json:"http"`
			Admin string `json:"admin"`
			PID   int    `json:"pid"`
		}{s.Gateway.WS, s.Gateway.TCP, s.Router.URL(), adminURL, os.Getpid()})
		return
	}
	self := command()
	flags := f.chatFlags(s.Gateway.WS)
	fmt.Fprintf(out, banner, s.Gateway.WS, s.Gateway.TCP, s.Router.URL(), adminURL, f.data, self, flags, f.secretFlag())
}

// command is how this program was started, for commands to copy.
func command() string {
	if path, err := os.Executable(); err == nil && strings.Contains(path, "go-build") {
		return "go run ./cmd/hermod"
	}
	return os.Args[0]
}

// secretFlag is the flag that lets other commands use the same secret.
func (f *standaloneFlags) secretFlag() string {
	switch {
	case f.secret != "":
		return " --secret …"
	case f.data != defaultData:
		return " --data " + f.data
	default:
		return ""
	}
}

// chatFlags are those that 'hermod chat' needs besides the names.
func (f *standaloneFlags) chatFlags(ws string) string {
	if ws == defaultURL {
		return f.secretFlag()
	}
	return " --url " + ws + f.secretFlag()
}

const banner = `
hermod is ready.

  WebSocket  %s
  TCP        %s
  router     %s/api/lookup/{token}
  admin      %s  (/healthz /readyz /metrics)
  data       %s

Chat in two other terminals:

  %[6]s chat --as alice --to bob%[7]s
  %[6]s chat --as bob --to alice%[7]s

A token for a client of your own:

  %[6]s token --account alice%[8]s

Stop with Ctrl-C.

`
