package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/bench"
)

func benchFloor() *cobra.Command {
	var (
		o      bench.FloorOptions
		asJSON bool
		relay  bool
	)
	cmd := &cobra.Command{
		Use: "floor", Short: "What the sockets of a message cost on this machine, at the moment", Args: cobra.NoArgs,
		Long: `Measures a relay that does nothing but read each message from its sender's socket, write an acknowledgement to
it, and write the message to its receiver's socket. No server that talks to every client itself can take less
for a message. Machines that are shared are slower in one hour than in another: what the other commands of bench
measure is compared with what this one says in the same minute. It needs no server.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if relay {
				return bench.FloorRelay(cmd.InOrStdin(), cmd.OutOrStdout())
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			o.Spawn = func() *exec.Cmd { return exec.Command(program, "bench", "floor", "--relay") }
			r, err := bench.Floor(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d pairs, window %d, %.1f s\n  messages        %d (%.0f/s)\n  CPU relay       %.1f µs/message\n",
				o.Pairs, o.Window, o.Duration.Seconds(), r.Messages, r.Rate, r.CPU)
			return err
		},
	}
	cmd.Flags().IntVar(&o.Pairs, "pairs", 100, "senders, with a receiver each")
	cmd.Flags().IntVar(&o.Window, "window", 1, "messages of a sender under way, at most 256")
	cmd.Flags().DurationVar(&o.Duration, "duration", 2*time.Second, "how long to measure")
	cmd.Flags().DurationVar(&o.Warmup, "warmup", 500*time.Millisecond, "how long to go on before that")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as one line of JSON")
	cmd.Flags().BoolVar(&relay, "relay", false, "be the relay")
	_ = cmd.Flags().MarkHidden("relay") // the flag exists
	return cmd
}
