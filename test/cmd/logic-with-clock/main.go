// Command logic-with-clock is `hermod logic` on a host whose clock is wrong: by -shift, which may be
// negative. Fault tests run it; the product's binaries have no such switch.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/config"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "logic-with-clock:", err)
		os.Exit(1)
	}
}

func run() error {
	var set []string
	shift := flag.Duration("shift", 0, "how far the clock is ahead of the host's")
	flag.Func("set", "config key, as key=value; may be given again", func(kv string) error {
		set = append(set, kv)
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := config.Load(config.Default(), config.Sources{Environ: os.Environ(), Set: set})
	if err != nil {
		return err
	}
	if err := c.Validate(config.RoleLogic); err != nil {
		return err
	}
	env, err := boot.NewEnv(c, "with-clock")
	if err != nil {
		return err
	}
	defer env.Close() //nolint:errcheck // the process ends
	env.Now = func() time.Time { return time.Now().Add(*shift) }
	l, err := boot.NewLogic(ctx, c, env)
	if err != nil {
		return err
	}
	env.Log.WithField("address", l.Address).WithField("shift", *shift).Warn("logic listens, with a clock that is wrong")
	return boot.Serve(ctx, c, env, l, l.Checks()...)
}
