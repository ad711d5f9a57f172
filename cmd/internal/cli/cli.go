// Package cli is what hermod's mains share: flags of the configuration, and the commands that run
// one service.
package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/config"
)

// version is set by the Makefile: -ldflags "-X …/cmd/internal/cli.version=…".
var version string

// Version is the release, or the module version that the Go toolchain knows.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// Main runs a command until it ends or SIGINT or SIGTERM asks it to stop; a second signal ends the
// process at once. It returns the exit status.
func Main(cmd *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the default action is back after the first signal
	cmd.Version = Version()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
		return 1
	}
	return 0
}

// ConfigFlags are --config and --set.
type ConfigFlags struct {
	file string
	set  []string
}

// Add defines the flags on a command.
func (f *ConfigFlags) Add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "", "YAML file of the configuration; see 'hermod config print'")
	f.AddSet(cmd)
}

// AddSet defines --set alone.
func (f *ConfigFlags) AddSet(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "set a config key, as key=value; may be given again")
}

// Load reads the sources over base, then the overrides (key=value), and validates for the roles.
func (f *ConfigFlags) Load(base config.Config, overrides []string, roles ...config.Role) (config.Config, error) {
	c, err := config.Load(base, config.Sources{File: f.file, Environ: os.Environ(), Set: append(f.set, overrides...)})
	if err != nil {
		return config.Config{}, err
	}
	return c, c.Validate(roles...)
}

// Service is the command that runs one service.
func Service(role config.Role) *cobra.Command {
	var flags ConfigFlags
	cmd := &cobra.Command{
		Use:   string(role),
		Short: descriptions[role],
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.Load(config.Default(), nil, role)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), role, c)
		},
	}
	flags.Add(cmd)
	return cmd
}

var descriptions = map[config.Role]string{
	config.RoleGateway: "Run a gateway: holds the clients' connections",
	config.RoleLogic:   "Run a logic node: decides and stores",
	config.RoleRouter:  "Run a router: tells clients which gateways to use",
}

func serve(ctx context.Context, role config.Role, c config.Config) error {
	percent := boot.GatewayGCPercent // and of routers
	if role == config.RoleLogic {
		percent = boot.LogicGCPercent
	}
	boot.TuneRuntime(c, percent)
	env, err := boot.NewEnv(c, Version())
	if err != nil {
		return err
	}
	defer env.Close() //nolint:errcheck // the process ends
	switch role {
	case config.RoleGateway:
		g, err := boot.NewGateway(c, env)
		if err != nil {
			return err
		}
		env.Log.WithField("ws", g.WS).WithField("tcp", g.TCP).Info("gateway listens")
		return boot.Serve(ctx, c, env, g)
	case config.RoleLogic:
		l, err := boot.NewLogic(ctx, c, env)
		if err != nil {
			return err
		}
		env.Log.WithField("address", l.Address).Info("logic listens")
		return boot.Serve(ctx, c, env, l, l.Checks()...)
	default:
		r, err := boot.NewRouter(c, env)
		if err != nil {
			return err
		}
		env.Log.WithField("url", r.URL()).Info("router listens")
		return boot.Serve(ctx, c, env, r)
	}
}
