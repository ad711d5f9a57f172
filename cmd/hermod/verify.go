package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/verify"
)

func verifyCommand() *cobra.Command {
	var (
		o        verify.Options
		secret   secretFlags
		duration time.Duration
		rows     int
		asJSON   bool
		quiet    bool
	)
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Show that a running system loses, doubles and reorders nothing",
		Long: `New accounts with several devices talk to each other, in groups and in pairs, over every
gateway: clients with the SDK, clients of the fixed protocol, clients that misbehave. An oracle
that shares no code with the servers records every send, every answer and everything that each
device shows, and compares: with each other, and with the database if --dsn is given.

Break what you like while it runs: kill processes, cut lines, restart everything. Every --duration it
pauses, waits until every device has everything that is stored, and prints a row. At the end a new
device of each account reads everything from nothing. The exit status is 1 if anything was lost,
doubled, out of order, stored under two ids, answered but not stored, shown to somebody who may not
read it, or refused. docs/verify.md explains the table.

The servers' rate limits are high enough for the defaults; for more give them --set limits.enabled=false.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := checkVerify(o); err != nil {
				return err
			}
			if o.Secret, err = secret.load(); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if !quiet {
				o.Log = func(format string, args ...any) {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
				}
			}
			report, err := runVerify(cmd.Context(), o, rows, duration)
			if err != nil {
				return err
			}
			if err := printReport(out, report, asJSON); err != nil {
				return err
			}
			return report.Err()
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Router, "router", "", "URL of the router, which names the gateways")
	flags.StringSliceVar(&o.URLs, "url", nil, "gateways, ws:// or tcp://, separated by commas; with --router, for every second device")
	flags.StringVar(&o.DSN, "dsn", "", "the cluster's MySQL database (user:password@tcp(host:port)/name), only read; without it members of the conversations are asked")
	flags.StringVar(&o.App, "app", "default", "tenant of the accounts")
	flags.IntVar(&o.Accounts, "accounts", 200, "accounts")
	flags.IntVar(&o.Groups, "groups", 50, "groups, of random sizes")
	flags.IntVar(&o.Devices, "devices", 3, "devices of an account")
	flags.Float64Var(&o.OldClients, "old", 0.2, "share of accounts with a client of the fixed protocol")
	flags.Float64Var(&o.Rate, "rate", 200, "messages per second of all together")
	flags.Float64Var(&o.Hostile.Drop, "drop", 0.05, "share of accounts with a device that loses its connections")
	flags.Float64Var(&o.Hostile.Resend, "resend", 0.05, "share with a device that sends everything again")
	flags.Float64Var(&o.Hostile.Deaf, "deaf", 0.05, "share with a device that reads nothing for a while")
	flags.Float64Var(&o.Hostile.Flap, "flap", 0.01, "share with a device that logs in and hangs up 10 times a second")
	flags.DurationVar(&duration, "duration", time.Minute, "how long a row lasts")
	flags.IntVar(&rows, "rows", 1, "rows")
	flags.Uint64Var(&o.Seed, "seed", 0, "seed of all random choices (default from the clock)")
	flags.DurationVar(&o.BackoffMax, "backoff-max", 0, "longest wait of a client between connections (default 15s)")
	flags.BoolVar(&asJSON, "json", false, "print the report as one line of JSON")
	flags.BoolVar(&quiet, "quiet", false, "do not say what happens on standard error")
	secret.add(cmd)
	return cmd
}

// checkVerify refuses what cannot be. A zero would silently be the default of verify.Options.
func checkVerify(o verify.Options) error {
	switch {
	case o.Accounts < 4:
		return fmt.Errorf("--accounts %d: give at least 4", o.Accounts)
	case o.Groups < 1:
		return fmt.Errorf("--groups %d: give at least 1", o.Groups)
	case o.Devices < 1:
		return fmt.Errorf("--devices %d: give at least 1", o.Devices)
	case !(o.Rate > 0): // nor NaN
		return fmt.Errorf("--rate %v: give more than 0", o.Rate)
	}
	return nil
}

// runVerify runs the workload for some rows. An interrupt ends the row that it falls into.
func runVerify(ctx context.Context, o verify.Options, rows int, duration time.Duration) (verify.Report, error) {
	// The run outlives the interrupt: what was sent is still judged.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	started := context.AfterFunc(ctx, end)
	run, err := verify.Start(life, o)
	if !started() {
		return verify.Report{}, context.Cause(ctx)
	}
	if err != nil {
		return verify.Report{}, err
	}
	for row := 1; ctx.Err() == nil; row++ {
		timer := time.NewTimer(duration)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		if run.Begin(fmt.Sprintf("row %d", row)); row == rows {
			break
		}
		if _, err := run.Settle(life); err != nil {
			o.Log("%v", err)
		}
	}
	report, err := run.Finish(life)
	if err != nil && len(report.Rows) == 0 {
		return report, err
	}
	return report, nil // the row says it
}

func printReport(w io.Writer, r verify.Report, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := fmt.Fprintf(w, "run %s, seed %d\n\n%s", r.Run, r.Seed, r.Table())
	return err
}
