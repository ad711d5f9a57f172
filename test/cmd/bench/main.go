// Command bench measures what messages, connections and logins cost on a cluster and on a standalone, row by
// row, each several times, and writes what it saw as JSON, as a page with plots and into a document:
// `make bench`. It fails if anything was lost, doubled or out of order.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// options are the flags.
type options struct {
	rows   *regexp.Regexp
	runs   int
	quick  bool
	folder string
	docs   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (o options, list bool, err error) {
	rows := flag.String("run", "", "run only the rows whose name matches this regular expression; the others keep the runs they have")
	flag.BoolVar(&list, "list", false, "print the rows' names and loads, and run nothing")
	flag.IntVar(&o.runs, "runs", 3, "runs of each row")
	flag.BoolVar(&o.quick, "quick", false, "one short run of each row, to see that all works; the document stays as it is")
	flag.StringVar(&o.folder, "o", "bench-results", "folder of the results")
	flag.StringVar(&o.docs, "docs", "", "document whose tables are written anew, once there are runs of all rows")
	flag.Parse()
	if o.runs < 1 {
		return o, list, errors.New("-runs: at least 1")
	}
	if o.quick {
		o.runs = 1
	}
	o.rows, err = regexp.Compile(*rows)
	return o, list, err
}

func run(ctx context.Context) error {
	o, list, err := parse()
	if err != nil {
		return err
	}
	if list {
		for _, r := range rows() {
			fmt.Printf("%-26s %s: %s\n", r.name, r.site.name, r.load)
		}
		return nil
	}
	s, err := newSuite(o)
	if err != nil {
		return err
	}
	failed := s.runAll(ctx)
	if ctx.Err() != nil {
		return errors.Join(failed, ctx.Err())
	}
	return errors.Join(failed, s.report())
}
