package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/bench"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Put load on a running system and measure what it costs"}
	for _, load := range []*benchLoad{benchTalk(), benchConnect(), benchGroup(), benchSync()} {
		cmd.AddCommand(load.Command)
	}
	cmd.AddCommand(benchFloor(), benchReport())
	return cmd
}

// errUnclean makes a sync that lost, doubled or reordered something fail.
var errUnclean = errors.New("messages were lost, doubled or reordered")

// benchLoad is what the commands of bench have in common: where the servers are, what is measured,
// and how the result is shown.
type benchLoad struct {
	*cobra.Command
	secret secretFlags
	pids   []string
	site   string
	asJSON bool
}

// newBenchLoad makes a command of a load. run is called with the secret and the processes, and returns
// what it measured.
func newBenchLoad(use, short, long string, run func(cmd *cobra.Command, secret []byte, processes []bench.Process, progress *progress) (benchResult, error)) *benchLoad {
	l := &benchLoad{}
	l.Command = &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secret, err := l.secret.load()
			if err != nil {
				return err
			}
			processes, err := parseProcesses(l.pids)
			if err != nil {
				return err
			}
			progress := newProgress(!l.asJSON)
			result, err := run(cmd, secret, processes, progress)
			progress.show("")
			if err != nil {
				return err
			}
			result.run.Site, result.run.At = l.site, time.Now().UTC()
			return result.show(cmd.OutOrStdout(), l.asJSON)
		},
	}
	l.Flags().StringArrayVar(&l.pids, "pid", nil, "server process whose CPU time and memory are measured, as NAME=PID; may be given again")
	l.Flags().BoolVar(&l.asJSON, "json", false, "print the result as one line of JSON, for bench report")
	l.Flags().StringVar(&l.site, "site", "", "what to call the servers in a report")
	l.secret.add(l.Command)
	return l
}

// servers adds the flags that say where the servers are.
func (l *benchLoad) servers(urls *[]string, app *string, url string) {
	l.Flags().StringSliceVar(urls, "url", []string{defaultURL}, "gateway, "+url+"; may be given again, clients are spread over them")
	l.Flags().StringVar(app, "app", "default", "tenant of the accounts")
}

// benchResult is what a load measured.
type benchResult struct {
	run   bench.Run
	print func(io.Writer) error
	// unclean is the error of a run that is not clean.
	unclean error
}

func (r benchResult) show(w io.Writer, asJSON bool) error {
	show := r.print
	if asJSON {
		show = func(w io.Writer) error { return json.NewEncoder(w).Encode(r.run) }
	}
	if err := show(w); err != nil || r.run.Clean() {
		return err
	}
	return r.unclean
}

// progress is a line on the terminal that says how far a load is.
type progress struct {
	mu sync.Mutex
	w  io.Writer // nil if nobody is there to see it
}

// newProgress writes to standard error, if that is a terminal and people want to see it.
func newProgress(people bool) *progress {
	p := &progress{}
	if info, err := os.Stderr.Stat(); people && err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.w = os.Stderr
	}
	return p
}

// show replaces the line; an empty one removes it.
func (p *progress) show(format string, args ...any) {
	const erase = "\r\x1b[K" // to the end of the line
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w != nil {
		fmt.Fprintf(p.w, erase+format, args...)
	}
}

func (p *progress) connections(n int) { p.show("%d connections", n) }

func benchTalk() *benchLoad {
	var o bench.TalkOptions
	l := newBenchLoad("talk", "Pairs of accounts, one of which sends to the other", `Pairs of accounts, in each of which one sends to the other. In a closed loop at most --window messages
of a pair are under way, that is not both acknowledged and delivered; with --rate all pairs together send
so many messages a second, come what may, and a latency counts from when its message was due.
Start the servers with --set limits.enabled=false.`, func(cmd *cobra.Command, secret []byte, processes []bench.Process, progress *progress) (benchResult, error) {
		o.Secret, o.Processes = secret, processes
		o.Progress = func(pairs int, delivered int64) { progress.show("%d pairs, %d messages", pairs, delivered) }
		r, err := bench.Talk(cmd.Context(), o)
		if err != nil {
			return benchResult{}, err
		}
		return benchResult{bench.Run{Talk: r}, func(w io.Writer) error { return printTalk(w, r) }, r.Err()}, nil
	})
	l.servers(&o.URLs, &o.App, "ws:// or tcp://")
	l.Flags().IntVar(&o.Pairs, "pairs", 100, "pairs of accounts")
	l.Flags().IntVar(&o.Conversations, "conversations", 0, "conversations: each sender takes turns with as many receivers as that takes; 0: one for each pair")
	l.Flags().IntVar(&o.Window, "window", 16, "messages of a sender that are under way at once")
	l.Flags().Float64Var(&o.Rate, "rate", 0, "messages a second of all pairs, an open loop; 0: a closed loop")
	l.Flags().IntVar(&o.Size, "size", 64, "bytes of a message's body")
	l.Flags().DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure")
	l.Flags().DurationVar(&o.Warmup, "warmup", 2*time.Second, "how long to run before measuring")
	return l
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

func benchConnect() *benchLoad {
	var (
		o      bench.ConnectOptions
		worker bool
	)
	l := newBenchLoad("connect", "Connections that log in, stay, and ping", `Logs in as many accounts as --connections says, holds them for --hold, and measures what a login, an
idle connection and a heartbeat cost the servers. On loopback they come from many addresses. Each
needs a descriptor here and in a gateway: the command runs as many processes as 'ulimit -n' asks for,
but gateways you must start yourself. For messages that flow at the same time, run 'hermod bench talk
--rate' beside it, during a --hold that is long enough.
Start the servers with --set limits.enabled=false.`, func(cmd *cobra.Command, secret []byte, processes []bench.Process, progress *progress) (_ benchResult, err error) {
		o.Secret, o.Processes = secret, processes
		o.Progress = progress.connections
		if o.Spawn, err = connectWorker(); err != nil {
			return benchResult{}, err
		}
		r, err := bench.Connect(cmd.Context(), o)
		if err != nil {
			return benchResult{}, err
		}
		return benchResult{bench.Run{Connect: r}, func(w io.Writer) error { return printConnect(w, r) }, errDropped}, nil
	})
	l.servers(&o.URLs, &o.App, "ws:// or tcp:// with an IPv4 address")
	l.Flags().IntVar(&o.Connections, "connections", 10_000, "connections, each of an account of its own")
	l.Flags().Float64Var(&o.Rate, "rate", 0, "logins begun per second; 0: as fast as they go")
	l.Flags().IntVar(&o.Parallel, "parallel", bench.DefaultParallel, "logins under way at once; each takes 50 ms at least")
	l.Flags().IntVar(&o.Workers, "processes", 0, "processes to connect from; 0: as many as the limit of descriptors asks for")
	l.Flags().BoolVar(&o.InTurn, "in-turn", false, "one process after the other logs in, at one gateway after the other: for hundreds of thousands")
	l.Flags().IntVar(&o.Sources, "sources", 0, "addresses to connect from on loopback; 0: as many as needed")
	l.Flags().DurationVar(&o.Hold, "hold", 10*time.Second, "how long to hold the connections before measuring memory, and again while measuring pings")
	l.Flags().DurationVar(&o.Heartbeat, "heartbeat", 55*time.Second, "interval of pings")
	l.Flags().BoolVar(&worker, "worker", false, "be one of those processes")
	_ = l.Flags().MarkHidden("worker") // the flag exists
	run := l.RunE
	l.RunE = func(cmd *cobra.Command, args []string) error {
		if worker {
			return bench.ConnectWorker(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		}
		return run(cmd, args)
	}
	return l
}

// workerMemory bounds a process of connections. With less it collects all the time while its logins run; what they
// took is given back after them.
const workerMemory = "16MiB"

// connectWorker makes commands of this program as a process of connections.
func connectWorker() (func() *exec.Cmd, error) {
	program, err := os.Executable()
	return func() *exec.Cmd {
		cmd := exec.Command(program, "bench", "connect", "--worker")
		cmd.Env = append(os.Environ(), "GOMEMLIMIT="+workerMemory)
		return cmd
	}, err
}

func printConnect(w io.Writer, r *bench.ConnectResult) error {
	fmt.Fprintf(w, "%d connections, logged in at %.0f/s\n", r.Connections, r.LoginRate)
	printLatency(w, "login", r.Login)
	printCost(w, "CPU", "µs/login", r.LoginCPU)
	printCost(w, "memory", "bytes/connection", r.Memory)
	printCost(w, "CPU", "µs/ping, all else included", r.HeartbeatCPU)
	fmt.Fprintf(w, "  %-15s %.0f bytes/connection in %d processes\n", "bench's own", r.OwnMemory, r.Workers)
	if r.Failure != "" {
		fmt.Fprintf(w, "  a login failed: %s\n", r.Failure)
	}
	if r.Dropage != "" {
		fmt.Fprintf(w, "  a connection ended: %s\n", r.Dropage)
	}
	_, err := fmt.Fprintf(w, "  failed %d · dropped %d · pings %d · pongs %d\n", r.Failed, r.Dropped, r.Pings, r.Pongs)
	return err
}

func benchGroup() *benchLoad {
	var o bench.GroupOptions
	l := newBenchLoad("group", "A group, some of whose members are on line and some of those send", `Creates a group of --members, connects --online of them, of which --senders send, in a closed loop of
--window messages each, or all together at --rate messages a second. A message counts as many deliveries
as members are on line. Start the servers with --set limits.enabled=false, and for a group of more
than about 5,000 with a --set gateway.max_packet of 12 bytes a member.`, func(cmd *cobra.Command, secret []byte, processes []bench.Process, progress *progress) (benchResult, error) {
		o.Secret, o.Processes = secret, processes
		o.Progress = progress.connections
		r, err := bench.Group(cmd.Context(), o)
		if err != nil {
			return benchResult{}, err
		}
		return benchResult{bench.Run{Group: r}, func(w io.Writer) error { return printGroup(w, r) }, r.Err()}, nil
	})
	l.servers(&o.URLs, &o.App, "ws:// or tcp:// with an IPv4 address")
	l.Flags().IntVar(&o.Members, "members", 500, "members of the group")
	l.Flags().IntVar(&o.Online, "online", 0, "members that are connected; 0: all")
	l.Flags().IntVar(&o.Senders, "senders", 4, "members that send, at most 256")
	l.Flags().IntVar(&o.Window, "window", 1, "messages of a sender that are under way at once")
	l.Flags().Float64Var(&o.Rate, "rate", 0, "messages a second of all senders, an open loop; 0: a closed loop")
	l.Flags().IntVar(&o.Size, "size", 64, "bytes of a message's body")
	l.Flags().DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure")
	l.Flags().DurationVar(&o.Warmup, "warmup", 2*time.Second, "how long to run before measuring")
	return l
}

func printGroup(w io.Writer, r *bench.GroupResult) error {
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

func printRefused(w io.Writer, refused bench.Refusals) {
	for _, status := range slices.Sorted(maps.Keys(refused)) {
		fmt.Fprintf(w, "  refused         %d × %s\n", refused[status], status)
	}
	if len(refused) > 0 {
		fmt.Fprintf(w, "  refused requests cost too: %s\n", refused.Advice())
	}
}

func benchSync() *benchLoad {
	var o bench.SyncOptions
	l := newBenchLoad("sync", "Clients that log in at once and fetch what they have missed", `Stores --unread messages for each of --clients accounts, then logs them in, all at once or --rate a
second, and has each fetch everything with chat.sync. Start the servers with --set limits.enabled=false.`, func(cmd *cobra.Command, secret []byte, processes []bench.Process, progress *progress) (benchResult, error) {
		o.Secret, o.Processes = secret, processes
		o.Progress = func(stored, synced int64) { progress.show("%d messages stored, %d clients done", stored, synced) }
		r, err := bench.Sync(cmd.Context(), o)
		if err != nil {
			return benchResult{}, err
		}
		return benchResult{bench.Run{Sync: r}, func(w io.Writer) error { return printSync(w, r) }, errUnclean}, nil
	})
	l.servers(&o.URLs, &o.App, "ws:// or tcp://")
	l.Flags().IntVar(&o.Clients, "clients", 1000, "accounts that log in")
	l.Flags().IntVar(&o.Unread, "unread", 100, "messages that wait for each")
	l.Flags().IntVar(&o.Peers, "peers", 10, "accounts that they are from: conversations of each client")
	l.Flags().IntVar(&o.Size, "size", 64, "bytes of a message's body")
	l.Flags().Float64Var(&o.Rate, "rate", 0, "clients that begin per second; 0: all at once, --parallel at a time")
	l.Flags().IntVar(&o.Parallel, "parallel", 64, "clients under way at once")
	return l
}

func printSync(w io.Writer, r *bench.SyncResult) error {
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

func printTalk(w io.Writer, r *bench.TalkResult) error {
	loop := fmt.Sprintf("window %d", r.Window)
	if r.DueRate > 0 {
		loop = fmt.Sprintf("%.0f/s", r.DueRate)
	}
	fmt.Fprintf(w, "%d pairs, %d conversations, %s, %d-byte bodies, %.1f s\n", r.Pairs, r.Conversations, loop, r.Size, r.Seconds)
	fmt.Fprintf(w, "  messages        %d (%.0f/s)\n", r.Messages, r.Rate)
	printLatency(w, "send → ack", r.Ack)
	printLatency(w, "send → deliver", r.Deliver)
	printCost(w, "CPU", "µs/message", r.CPU)
	printRefused(w, r.Refused)
	if r.Misdirected > 0 {
		fmt.Fprintf(w, "  misdirected     %d, the first: %s\n", r.Misdirected, r.Misdirection)
	}
	_, err := fmt.Fprintf(w, "  sent %d · acked %d · lost %d · doubled %d · reordered %d · unanswered %d\n",
		r.Sent, r.Acked, r.Lost, r.Doubled, r.Reordered, r.Unanswered)
	return err
}
