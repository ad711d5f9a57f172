package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/bench"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Put load on a running system and measure what it costs"}
	cmd.AddCommand(benchTalkCommand())
	return cmd
}

// errUnclean makes a run that lost, doubled or reordered something fail.
var errUnclean = errors.New("messages were lost, doubled, reordered or left unanswered")

func benchTalkCommand() *cobra.Command {
	var (
		o      bench.TalkOptions
		secret secretFlags
		pids   []string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "talk",
		Short: "Pairs of accounts send to each other in a closed loop",
		Long: `Pairs of accounts, in each of which one sends to the other in a closed loop: at most
--window messages of a pair are under way, that is not both acknowledged and delivered.
Start the servers with --set limits.enabled=false.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Secret, err = secret.load(); err != nil {
				return err
			}
			for _, p := range pids {
				process, err := bench.ParseProcess(p)
				if err != nil {
					return err
				}
				o.Processes = append(o.Processes, process)
			}
			r, err := bench.Talk(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := printTalk(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !r.Clean() {
				return errUnclean
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.URLs, "url", []string{defaultURL}, "gateway, ws:// or tcp://; may be given again, pairs are spread over them")
	flags.StringVar(&o.App, "app", "default", "tenant of the accounts")
	flags.IntVar(&o.Pairs, "pairs", 100, "pairs of accounts")
	flags.IntVar(&o.Window, "window", 16, "messages of a pair that are under way at once")
	flags.IntVar(&o.Size, "size", 64, "bytes of a message's body")
	flags.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure")
	flags.DurationVar(&o.Warmup, "warmup", 2*time.Second, "how long to run before measuring")
	flags.StringArrayVar(&pids, "pid", nil, "server process whose CPU time is measured, as NAME=PID; may be given again")
	flags.BoolVar(&asJSON, "json", false, "print the result as one line of JSON")
	secret.add(cmd)
	return cmd
}

func printTalk(w io.Writer, r *bench.TalkResult, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	fmt.Fprintf(w, "%d pairs, window %d, %d-byte bodies, %.1f s\n", r.Pairs, r.Window, r.Size, r.Seconds)
	fmt.Fprintf(w, "  messages        %d (%.0f/s)\n", r.Messages, r.Rate)
	for _, l := range []struct {
		name string
		v    bench.Latency
	}{{"send → ack", r.Ack}, {"send → deliver", r.Deliver}} {
		fmt.Fprintf(w, "  %-15s p50 %.2f ms · p99 %.2f ms · p999 %.2f ms · max %.2f ms\n", l.name, l.v.P50, l.v.P99, l.v.P999, l.v.Max)
	}
	for _, name := range slices.Sorted(maps.Keys(r.CPU)) {
		fmt.Fprintf(w, "  CPU %-11s %.1f µs/message\n", name, r.CPU[name])
	}
	if len(r.CPU) > 0 {
		fmt.Fprintf(w, "  CPU total       %.1f µs/message\n", r.TotalCPU)
	}
	for _, status := range slices.Sorted(maps.Keys(r.Refused)) {
		fmt.Fprintf(w, "  refused         %d × %s\n", r.Refused[status], status)
	}
	if len(r.Refused) > 0 {
		fmt.Fprintln(w, "  refused requests cost too: start the servers with --set limits.enabled=false")
	}
	_, err := fmt.Fprintf(w, "  sent %d · acked %d · lost %d · doubled %d · reordered %d · unanswered %d\n",
		r.Sent, r.Acked, r.Lost, r.Doubled, r.Reordered, r.Unanswered)
	return err
}
