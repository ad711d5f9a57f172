// Command faults runs every fault of test/faults for about a minute under load, and prints what was seen
// as a table in Markdown: `make faults`. It fails if anything was lost, doubled or out of order.
//
// HERMOD_FAULTS_SEED repeats the random choices of a run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/hermod-im/hermod/test/faults"
	"github.com/hermod-im/hermod/verify"
)

// startWait bounds the start of everything, building included.
const startWait = 5 * time.Minute

// options are the flags.
type options struct {
	rows   *regexp.Regexp
	long   time.Duration
	output string
	load   verify.Options
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func parse() (o options, err error) {
	rows := flag.String("run", "", "run only the rows whose name matches this regular expression")
	flag.DurationVar(&o.long, "for", 40*time.Second, "how long each row's faults are repeated, at least")
	flag.StringVar(&o.output, "o", "", "write the table to this file, too")
	flag.IntVar(&o.load.Accounts, "accounts", 200, "number of accounts")
	flag.IntVar(&o.load.Groups, "groups", 50, "number of groups")
	flag.Float64Var(&o.load.Rate, "rate", 0, "messages sent per second by all together (0: the workload's default)")
	flag.Float64Var(&o.load.OldClients, "old", 0.1, "share of accounts with a client of the fixed protocol")
	flag.Parse()
	if o.rows, err = regexp.Compile(*rows); err != nil {
		return o, err
	}
	o.load.Seed, err = faults.SeedFrom(os.Getenv(faults.EnvSeed))
	return o, err
}

func run() (err error) {
	o, err := parse()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "hermod-faults-")
	if err != nil {
		return err
	}
	log("%s=%d", faults.EnvSeed, o.load.Seed)
	starting, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	site, err := faults.Start(starting, dir, log)
	if err != nil {
		return err
	}
	defer func() {
		if e := site.Finish(err != nil); err == nil {
			err = e
		}
	}()
	report, err := site.RunAll(ctx, o.load, o.rows.MatchString, o.long)
	table := report.Table()
	fmt.Println(table)
	if err == nil && o.output != "" {
		err = os.WriteFile(o.output, []byte(table), 0o644)
	}
	if err != nil {
		return err
	}
	return report.Err()
}

func log(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05.000 ")+format+"\n", args...)
}
