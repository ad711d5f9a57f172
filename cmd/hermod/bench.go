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
	cmd.AddCommand(benchTalkCommand(), benchConnectCommand(), benchGroupCommand(), benchSyncCommand())
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
		Short: "Pairs of accounts, one of which sends to the other",
		Long: `Pairs of accounts, in each of which one sends to the other. In a closed loop at most --window messages
of a pair are under way, that is not both acknowledged and delivered; with --rate all pairs together send
so many messages a second, come what may, and a latency counts from when its message was due.
Start the servers with --set limits.enabled=false.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Secret, err = secret.load(); err != nil {
				return err
			}
			if o.Processes, err = parseProcesses(pids); err != nil {
				return err
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
	flags.Float64Var(&o.Rate, "rate", 0, "messages a second of all pairs, an open loop; 0: a closed loop")
	flags.IntVar(&o.Size, "size", 64, "bytes of a message's body")
	flags.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure")
	flags.DurationVar(&o.Warmup, "warmup", 2*time.Second, "how long to run before measuring")
	flags.StringArrayVar(&pids, "pid", nil, "server process whose CPU time is measured, as NAME=PID; may be given again")
	flags.BoolVar(&asJSON, "json", false, "print the result as one line of JSON")
	secret.add(cmd)
	return cmd
}

func parseProcesses(pids []string) (list []bench.Process, err error) {
	for _, p := range pids {
		process, err := bench.ParseProcess(p)
		if err != nil {
			return nil, err
		}
		list = append(list, process)
	}
	return list, nil
}

// errDropped makes a run fail that did not keep all its connections.
var errDropped = errors.New("connections failed, were dropped, or had a ping not answered")

func benchConnectCommand() *cobra.Command {
	var (
		o      bench.ConnectOptions
		secret secretFlags
		pids   []string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "connect",
		Short: "Connections that log in, stay, and ping",
		Long: `Logs in as many accounts as --connections says, holds them for --hold, and measures what a login, an
idle connection and a heartbeat cost the servers. On loopback they come from many addresses. Each
needs a descriptor here and in a gateway (ulimit -n).
Start the servers with --set limits.enabled=false.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Secret, err = secret.load(); err != nil {
				return err
			}
			if o.Processes, err = parseProcesses(pids); err != nil {
				return err
			}
			if !asJSON {
				o.Progress = func(n int) { fmt.Fprintf(cmd.ErrOrStderr(), "\r%d connections", n) }
			}
			r, err := bench.Connect(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := printConnect(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !r.Clean() {
				return errDropped
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.URLs, "url", []string{defaultURL}, "gateway, ws:// or tcp:// with an IPv4 address; may be given again")
	flags.StringVar(&o.App, "app", "default", "tenant of the accounts")
	flags.IntVar(&o.Connections, "connections", 10_000, "connections, each of an account of its own")
	flags.Float64Var(&o.Rate, "rate", 0, "logins begun per second; 0: as fast as they go")
	flags.IntVar(&o.Parallel, "parallel", 32, "logins under way at once")
	flags.IntVar(&o.Sources, "sources", 0, "addresses to connect from on loopback; 0: as many as needed")
	flags.DurationVar(&o.Hold, "hold", 10*time.Second, "how long to hold the connections before measuring memory, and again while measuring pings")
	flags.DurationVar(&o.Heartbeat, "heartbeat", 55*time.Second, "interval of pings")
	flags.StringArrayVar(&pids, "pid", nil, "server process whose CPU time and memory are measured, as NAME=PID; may be given again")
	flags.BoolVar(&asJSON, "json", false, "print the result as one line of JSON")
	secret.add(cmd)
	return cmd
}

func printConnect(w io.Writer, r *bench.ConnectResult, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	fmt.Fprintf(w, "\r%d connections, logged in at %.0f/s\n", r.Connections, r.LoginRate)
	printLatency(w, "login", r.Login)
	printCost(w, "CPU", "µs/login", r.LoginCPU)
	printCost(w, "memory", "bytes/connection", r.Memory)
	printCost(w, "CPU", "µs/ping, all else included", r.HeartbeatCPU)
	if r.Failure != "" {
		fmt.Fprintf(w, "  a login failed: %s\n", r.Failure)
	}
	if r.Dropage != "" {
		fmt.Fprintf(w, "  a connection ended: %s\n", r.Dropage)
	}
	_, err := fmt.Fprintf(w, "  failed %d · dropped %d · pings %d · pongs %d\n", r.Failed, r.Dropped, r.Pings, r.Pongs)
	return err
}

func benchGroupCommand() *cobra.Command {
	var (
		o      bench.GroupOptions
		secret secretFlags
		pids   []string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "group",
		Short: "A group, some of whose members are on line and some of those send",
		Long: `Creates a group of --members, connects --online of them, of which --senders send, in a closed loop of
--window messages each, or all together at --rate messages a second. A message counts as many deliveries
as members are on line. Start the servers with --set limits.enabled=false, and for a group of more
than about 5,000 with a --set gateway.max_packet of 12 bytes a member.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Secret, err = secret.load(); err != nil {
				return err
			}
			if o.Processes, err = parseProcesses(pids); err != nil {
				return err
			}
			if !asJSON {
				o.Progress = func(n int) { fmt.Fprintf(cmd.ErrOrStderr(), "\r%d connections", n) }
			}
			r, err := bench.Group(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := printGroup(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !r.Clean() {
				return errUnclean
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.URLs, "url", []string{defaultURL}, "gateway, ws:// or tcp:// with an IPv4 address; may be given again, members are spread over them")
	flags.StringVar(&o.App, "app", "default", "tenant of the accounts")
	flags.IntVar(&o.Members, "members", 500, "members of the group")
	flags.IntVar(&o.Online, "online", 500, "members that are connected")
	flags.IntVar(&o.Senders, "senders", 4, "members that send, at most 256")
	flags.IntVar(&o.Window, "window", 1, "messages of a sender that are under way at once")
	flags.Float64Var(&o.Rate, "rate", 0, "messages a second of all senders, an open loop; 0: a closed loop")
	flags.IntVar(&o.Size, "size", 64, "bytes of a message's body")
	flags.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure")
	flags.DurationVar(&o.Warmup, "warmup", 2*time.Second, "how long to run before measuring")
	flags.StringArrayVar(&pids, "pid", nil, "server process whose CPU time is measured, as NAME=PID; may be given again")
	flags.BoolVar(&asJSON, "json", false, "print the result as one line of JSON")
	secret.add(cmd)
	return cmd
}

func printGroup(w io.Writer, r *bench.GroupResult, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	fmt.Fprintf(w, "a group of %d, %d on line, %d senders, %d-byte bodies, %.1f s\n", r.Members, r.Online, r.Senders, r.Size, r.Seconds)
	fmt.Fprintf(w, "  messages        %d (%.0f/s)\n", r.Messages, float64(r.Messages)/r.Seconds)
	fmt.Fprintf(w, "  deliveries      %d (%.0f/s)\n", r.Deliveries, float64(r.Deliveries)/r.Seconds)
	printLatency(w, "send → ack", r.Ack)
	printLatency(w, "send → deliver", r.Deliver)
	printCost(w, "CPU", "µs/delivery", r.CPU)
	printRefused(w, r.Refused)
	if r.Dropage != "" {
		fmt.Fprintf(w, "  a connection ended: %s\n", r.Dropage)
	}
	_, err := fmt.Fprintf(w, "  sent %d · acked %d · lost %d · doubled %d · reordered %d · unanswered %d · dropped %d\n",
		r.Sent, r.Acked, r.Lost, r.Doubled, r.Reordered, r.Unanswered, r.Dropped)
	return err
}

func printLatency(w io.Writer, what string, l bench.Latency) {
	fmt.Fprintf(w, "  %-15s p50 %.2f ms · p99 %.2f ms · p999 %.2f ms · max %.2f ms\n", what, l.P50, l.P99, l.P999, l.Max)
}

func printRefused(w io.Writer, refused map[string]int64) {
	for _, status := range slices.Sorted(maps.Keys(refused)) {
		fmt.Fprintf(w, "  refused         %d × %s\n", refused[status], status)
	}
	if len(refused) > 0 {
		fmt.Fprintln(w, "  refused requests cost too: start the servers with --set limits.enabled=false")
	}
}

func benchSyncCommand() *cobra.Command {
	var (
		o      bench.SyncOptions
		secret secretFlags
		pids   []string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Clients that log in at once and fetch what they have missed",
		Long: `Stores --unread messages for each of --clients accounts, then logs them in, all at once or --rate a
second, and has each fetch everything with chat.sync. Start the servers with --set limits.enabled=false.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Secret, err = secret.load(); err != nil {
				return err
			}
			if o.Processes, err = parseProcesses(pids); err != nil {
				return err
			}
			r, err := bench.Sync(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := printSync(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !r.Clean() {
				return errUnclean
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.URLs, "url", []string{defaultURL}, "gateway, ws:// or tcp://; may be given again, clients are spread over them")
	flags.StringVar(&o.App, "app", "default", "tenant of the accounts")
	flags.IntVar(&o.Clients, "clients", 1000, "accounts that log in")
	flags.IntVar(&o.Unread, "unread", 100, "messages that wait for each")
	flags.IntVar(&o.Peers, "peers", 10, "accounts that they are from: conversations of each client")
	flags.IntVar(&o.Size, "size", 64, "bytes of a message's body")
	flags.Float64Var(&o.Rate, "rate", 0, "clients that begin per second; 0: all at once, --parallel at a time")
	flags.IntVar(&o.Parallel, "parallel", 64, "clients under way at once")
	flags.StringArrayVar(&pids, "pid", nil, "server process whose CPU time is measured, as NAME=PID; may be given again")
	flags.BoolVar(&asJSON, "json", false, "print the result as one line of JSON")
	secret.add(cmd)
	return cmd
}

func printSync(w io.Writer, r *bench.SyncResult, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	fmt.Fprintf(w, "%d clients, %d unread messages of %d bytes each, in %d conversations, %.1f s\n", r.Clients, r.Unread, r.Size, r.Peers, r.Seconds)
	fmt.Fprintf(w, "  messages        %d in %d pages\n", r.Messages, r.Pages)
	printLatency(w, "login and sync", r.Complete)
	printCost(w, "CPU", "µs/client", r.CPU)
	fmt.Fprintf(w, "  %-15s %.1f µs/message\n", "CPU total", r.CPUMessage.Total)
	_, err := fmt.Fprintf(w, "  lost %d · doubled %d · reordered %d\n", r.Lost, r.Doubled, r.Reordered)
	return err
}

// printCost prints a line for each process and one for all; nothing if none was measured.
func printCost(w io.Writer, what, unit string, c bench.Cost) {
	if len(c.ByProcess) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.ByProcess)) {
		fmt.Fprintf(w, "  %-15s %.1f %s\n", what+" "+name, c.ByProcess[name], unit)
	}
	fmt.Fprintf(w, "  %-15s %.1f %s\n", what+" total", c.Total, unit)
}

func printTalk(w io.Writer, r *bench.TalkResult, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	loop := fmt.Sprintf("window %d", r.Window)
	if r.DueRate > 0 {
		loop = fmt.Sprintf("%.0f/s", r.DueRate)
	}
	fmt.Fprintf(w, "%d pairs, %s, %d-byte bodies, %.1f s\n", r.Pairs, loop, r.Size, r.Seconds)
	fmt.Fprintf(w, "  messages        %d (%.0f/s)\n", r.Messages, r.Rate)
	printLatency(w, "send → ack", r.Ack)
	printLatency(w, "send → deliver", r.Deliver)
	printCost(w, "CPU", "µs/message", r.CPU)
	printRefused(w, r.Refused)
	_, err := fmt.Fprintf(w, "  sent %d · acked %d · lost %d · doubled %d · reordered %d · unanswered %d\n",
		r.Sent, r.Acked, r.Lost, r.Doubled, r.Reordered, r.Unanswered)
	return err
}
