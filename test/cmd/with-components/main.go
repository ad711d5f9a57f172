// Command with-components runs a command with the servers that hermod's tests need: it starts
// MariaDB, Redis and a Consul agent on free loopback ports, tells the command where they are in
// HERMOD_TEST_MYSQL, HERMOD_TEST_REDIS and HERMOD_TEST_CONSUL, and ends them after it. A server
// that the environment names already is not started.
//
//	go run ./test/cmd/with-components go test ./...
//	go run ./test/cmd/with-components -only mysql,redis -mysql9 -- go test ./storage/...
//
// The exit code is that of the command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hermod-im/hermod/test/component"
)

// interruptWait is how long the command may take to end after SIGINT or SIGTERM.
const interruptWait = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "with-components:", err)
	}
	stop()
	os.Exit(code)
}

// run starts the servers, runs the command and returns its exit code, or why there is none.
func run(ctx context.Context, args []string) (code int, err error) {
	kinds, command, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0, nil
	}
	if err != nil {
		return 2, err
	}
	begin := time.Now()
	end, err := component.StartMissing(ctx, kinds...)
	if err != nil {
		return 1, err
	}
	defer func() {
		if endErr := end(); endErr != nil {
			err = errors.Join(err, endErr)
			code = max(code, 1)
		}
	}()
	fmt.Fprintf(os.Stderr, "with-components: %s ready after %v\n", list(kinds), time.Since(begin).Round(time.Millisecond))
	return runCommand(ctx, command)
}

// parse reads the flags; the first argument that is none begins the command.
func parse(args []string) (kinds []component.Kind, command []string, err error) {
	flags := flag.NewFlagSet("with-components", flag.ContinueOnError)
	only := flags.String("only", "mysql,redis,consul", "the servers to start, comma-separated")
	mysql9 := flags.Bool("mysql9", false, "start MySQL 9 too, from the root that `make mysql9-root` makes, and insist that tests use it")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: with-components [flags] command [argument…]")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return nil, nil, err
	}
	for name := range strings.SplitSeq(*only, ",") {
		switch name {
		case "mysql":
			kinds = append(kinds, component.KindMySQL)
		case "redis":
			kinds = append(kinds, component.KindRedis)
		case "consul":
			kinds = append(kinds, component.KindConsul)
		case "":
		default:
			return nil, nil, fmt.Errorf("-only: unknown server %q", name)
		}
	}
	if *mysql9 {
		kinds = append(kinds, component.KindMySQL9)
		if err := os.Setenv(component.EnvRequireMySQL9, "1"); err != nil {
			return nil, nil, err
		}
	}
	if flags.NArg() == 0 {
		return nil, nil, errors.New("no command given")
	}
	return kinds, flags.Args(), nil
}

func list(kinds []component.Kind) string {
	var names []string
	for _, k := range slices.Sorted(slices.Values(kinds)) {
		names = append(names, k.String())
	}
	return strings.Join(names, ", ")
}

// runCommand runs it in the terminal's foreground group, where Ctrl-C reaches it by itself; a
// SIGTERM that was sent to us alone is passed on.
func runCommand(ctx context.Context, command []string) (code int, err error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = interruptWait
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	default:
		return 1, err
	}
}
