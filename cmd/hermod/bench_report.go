package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/bench"
	"github.com/hermod-im/hermod/bench/report"
)

func benchReport() *cobra.Command {
	var page string
	cmd := &cobra.Command{
		Use: "report [FILE…]", Short: "Tables and plots of many runs",
		Long: `Reads runs as the loads print them with --json, one after the other, from files or the standard input,
and prints tables in Markdown: least, median and most of the runs that were asked for the same, and how the
figures grow with the number of pairs, conversations, members, connections and bytes. --html writes a page
with plots, too, which needs nothing else.`,
		RunE: func(cmd *cobra.Command, files []string) (err error) {
			runs, err := readRuns(cmd.InOrStdin(), files)
			if err != nil {
				return err
			}
			r := report.New(runs)
			if page != "" {
				if err := writeFile(page, r.HTML); err != nil {
					return err
				}
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), r.Markdown())
			return err
		},
	}
	cmd.Flags().StringVar(&page, "html", "", "write a page with plots to this file")
	return cmd
}

// readRuns reads all files, or in if there are none.
func readRuns(in io.Reader, files []string) ([]*bench.Run, error) {
	if len(files) == 0 {
		return report.Read(in)
	}
	var all []*bench.Run
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		runs, err := report.Read(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, runs...)
	}
	return all, nil
}

// writeFile creates a file and has it written.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
