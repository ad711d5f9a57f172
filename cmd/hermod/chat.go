package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/wire/token"
)

// chatFlags are those of `hermod chat`.
type chatFlags struct {
	secretFlags
	as, to, group, app string
	url, router        string
	token              string
	device             string
	history            int
}

func chatCommand() *cobra.Command {
	var f chatFlags
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Hold a conversation in the terminal",
		Long: `Hold a conversation in the terminal: its history first, then messages as they come. A line
that you enter is sent; ✓ marks it as stored. The connection is made again when it breaks, and what
was entered meanwhile is sent then, once.

With input that is no terminal every line is sent, and the command ends when all are stored. The exit
status is 1 if any was not.`,
		Example: "  hermod chat --as alice --to bob\n  echo hello | hermod chat --as alice --to bob",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.as, "as", "", "your account")
	flags.StringVar(&f.to, "to", "", "the account to talk to")
	flags.StringVar(&f.group, "group", "", "the id of the group to talk in, instead of --to")
	flags.StringVar(&f.app, "app", "", "tenant (default \"default\")")
	flags.StringVar(&f.url, "url", defaultURL, "gateway: ws://, wss://, tcp:// or tls://")
	flags.StringVar(&f.router, "router", "", "router, http:// or https://, that says which gateway to use, instead of --url")
	flags.StringVar(&f.token, "token", "", "login token (default: one is made with the secret)")
	flags.StringVar(&f.device, "device", "", "name of this device (default: a random one)")
	flags.IntVar(&f.history, "history", 20, "messages of history to show, at most 200")
	f.add(cmd)
	_ = cmd.MarkFlagRequired("as") // the flags exist
	cmd.MarkFlagsMutuallyExclusive("to", "group")
	cmd.MarkFlagsOneRequired("to", "group")
	return cmd
}

// defaultURL is where standalone's gateway is.
const defaultURL = "ws://127.0.0.1:8000"

// tokenTTL is how long a token of chat's own making is valid; a new one is made for every connection.
const tokenTTL = time.Hour

// tokens gives the token of --token, or makes one with the secret.
func (f *chatFlags) tokens() (client.TokenSource, error) {
	if f.token != "" {
		return client.StaticToken(f.token), nil
	}
	secret, err := f.load()
	if err != nil {
		return nil, err
	}
	return func(context.Context) (string, error) {
		return token.Issue(secret, token.Claims{Account: f.as, App: f.app, Expires: time.Now().Add(tokenTTL)})
	}, nil
}

// chat is a running conversation.
type chat struct {
	flags  *chatFlags
	client *client.Client
	out    io.Writer // safe for concurrent use

	// unread holds one wake-up when there is more on the screen than the server knows to be read.
	unread chan struct{}

	// Owned by talk: how many lines were entered and how many of them were refused, which the first of
	// these was, and why; and whether one was under way at the end.
	entered, refused, firstRefused int
	firstReason                    error
	cut                            bool

	mu     sync.Mutex
	id     string           // of the conversation, "" while nothing was said; guarded by mu
	shown  int64            // seq of the last message on the screen; guarded by mu
	early  []client.Message // what came before the history; guarded by mu
	opened bool             // the history is on the screen; guarded by mu
	lost   bool             // the connection's end is on the screen; guarded by mu
}

func (f *chatFlags) run(ctx context.Context) error {
	tokens, err := f.tokens()
	if err != nil {
		return err
	}
	if f.device == "" {
		f.device = "chat-" + rand.Text()[:8]
	}
	if f.router != "" {
		f.url = ""
	}
	screen, err := openTerminal()
	if err != nil {
		return err
	}
	defer screen.restore()
	c := &chat{flags: f, out: screen.output, unread: make(chan struct{}, 1)}
	c.client, err = client.New(client.Options{
		URL:       f.url,
		Router:    f.router,
		Token:     tokens,
		Device:    f.device,
		Platform:  "terminal",
		OnMessage: c.receive,
		OnState:   c.state,
		// Somebody is watching: try more often than an application would.
		BackoffMax: 2 * time.Second,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.client.Run(ctx) }()
	if screen.interactive {
		go c.read(ctx)
	}
	typed := make(chan error, 1)
	lines := make(chan entry, typeAhead)
	go func() {
		screen.read(lines)
		if screen.interactive {
			stop() // whoever leaves does not wait for what cannot be sent
		}
	}()
	go func() { typed <- c.talk(ctx, lines) }()
	select {
	case err = <-typed:
		stop()
		<-ended
	case err = <-ended:
		stop()
		<-typed
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if screen.interactive {
		return err
	}
	if err == nil && (c.cut || len(lines) > 0) {
		err = errors.New("interrupted before all lines were stored")
	}
	return errors.Join(err, c.refusals()) // perhaps nobody looks at the screen
}

// refusals is nil if every line was sent that was to be.
func (c *chat) refusals() error {
	if c.refused == 0 {
		return nil
	}
	return fmt.Errorf("lines that were not sent: %d; the first is line %d: %w", c.refused, c.firstRefused, c.firstReason)
}

// typeAhead is how many lines may wait to be sent before the input is not read on.
const typeAhead = 1000

// talk shows the history, and then sends every line of the input.
func (c *chat) talk(ctx context.Context, lines <-chan entry) error {
	if err := c.open(ctx); err != nil {
		return err
	}
	for {
		select {
		case e, more := <-lines:
			if !more {
				return nil
			}
			if err := c.enter(ctx, e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enter sends a line, unless it is blank. A refusal is on the screen; an error ends the input.
func (c *chat) enter(ctx context.Context, e entry) error {
	line, err := strings.TrimSpace(e.line), e.err
	if err != nil && !errors.Is(err, errLongLine) {
		return fmt.Errorf("the input could not be read on after %d lines: %w", c.entered, err)
	}
	c.entered++
	if err == nil && line != "" {
		err = c.send(ctx, line)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || errors.Is(err, client.ErrClosed):
		c.cut = true
		return err
	}
	fmt.Fprintf(c.out, "  ✗ %s (%v)\n", line, err)
	if c.refused++; c.refused == 1 {
		c.firstRefused, c.firstReason = c.entered, err
	}
	return nil
}

// open waits for the first connection and shows the end of the conversation so far.
func (c *chat) open(ctx context.Context) error {
	if err := c.client.Online(ctx); err != nil {
		return err
	}
	page, err := c.client.History(ctx, client.HistoryQuery{Peer: c.flags.to, Group: c.flags.group, Limit: max(1, c.flags.history)})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags.history > 0 {
		for _, m := range page.Messages {
			c.show(m, mark(m, c.flags.as))
		}
	}
	c.advance(page.Conversation, page.LastSeq)
	c.opened = true
	for _, m := range c.early {
		c.receiveLocked(m)
	}
	c.early = nil
	return nil
}

// patience is how long a message may take to be stored before the screen says that it waits.
const patience = 500 * time.Millisecond

// send stores a line, and shows it when it is.
func (c *chat) send(ctx context.Context, line string) error {
	slow := time.AfterFunc(patience, func() { fmt.Fprintf(c.out, "  … %s (waiting)\n", line) })
	defer slow.Stop()
	var sent client.Sent
	var err error
	if c.flags.group != "" {
		sent, err = c.client.TalkGroup(ctx, c.flags.group, client.Text(line))
	} else {
		sent, err = c.client.Talk(ctx, c.flags.to, client.Text(line))
	}
	slow.Stop()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.show(client.Message{Seq: sent.Seq, Sender: c.flags.as, SendTime: sent.SendTime, Body: line}, " ✓")
	return nil
}

// receive shows a message of this conversation that is new.
func (c *chat) receive(m client.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.opened {
		c.early = append(c.early, m)
		return
	}
	c.receiveLocked(m)
}

func (c *chat) receiveLocked(m client.Message) {
	ours := c.flags.group != "" && m.Group == c.flags.group || c.flags.to != "" && m.Peer == c.flags.to
	if ours && m.Seq > c.shown {
		c.advance(m.Conversation, m.Seq)
		c.show(m, mark(m, c.flags.as))
	}
}

// advance notes what is on the screen. Called with mu held.
func (c *chat) advance(conversation string, seq int64) {
	c.id, c.shown = conversation, max(c.shown, seq)
	select {
	case c.unread <- struct{}{}:
	default:
	}
}

// read tells the server, and by it your other devices, that you have read what is on the screen.
func (c *chat) read(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.unread:
		}
		c.mu.Lock()
		id, seq := c.id, c.shown
		c.mu.Unlock()
		if id != "" {
			_ = c.client.MarkRead(ctx, id, seq) // it is a courtesy
		}
	}
}

// mark is the delivery mark of a stored message.
func mark(m client.Message, me string) string {
	if m.Sender == me {
		return " ✓"
	}
	return ""
}

// show prints one message.
func (c *chat) show(m client.Message, mark string) {
	fmt.Fprintf(c.out, "%s  %s: %s%s\n", m.SendTime.Local().Format("15:04"), printable(m.Sender), printable(m.Body), mark)
}

// printable keeps control characters of others off the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}

// state says when the connection is lost and back.
func (c *chat) state(s client.State, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s == client.StateOffline && !c.lost:
		c.lost = true
		fmt.Fprintln(c.out, "  — connection lost, trying again —")
	case s == client.StateOnline && c.lost:
		c.lost = false
		fmt.Fprintln(c.out, "  — connected again —")
	}
}

// screen is where lines come from and messages go to.
type screen struct {
	interactive bool
	line        func() (string, error)
	output      io.Writer // safe for concurrent use
	restore     func()    // undoes what was done to the terminal
}

// entry is a line of the input.
type entry struct {
	line string
	// err is errLongLine, or why the input can not be read on.
	err error
}

// read sends every line of the input, and closes lines at its end.
func (s *screen) read(lines chan<- entry) {
	defer close(lines)
	for {
		line, err := s.line()
		if errors.Is(err, io.EOF) || err != nil && s.interactive {
			return
		}
		lines <- entry{line, err}
		if err != nil && !errors.Is(err, errLongLine) {
			return
		}
	}
}

// errLongLine: a line is longer than the largest packet, and was skipped.
var errLongLine = fmt.Errorf("longer than a packet, which has at most %d bytes", im.DefaultMaxPacket)

// shownOfLong is how much of such a line is shown, in bytes.
const shownOfLong = 40

// readLine reads a line that fits into the buffer, or says errLongLine with its beginning.
func readLine(r *bufio.Reader) (string, error) {
	part, err := r.ReadSlice('\n')
	line := string(part)
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		return strings.ToValidUTF8(line[:shownOfLong], "") + "…", errLongLine
	case errors.Is(err, io.EOF) && line != "":
		return line, nil // the last one
	}
	return line, err
}

// openTerminal gives a line editor on a terminal, and plain lines otherwise.
func openTerminal() (*screen, error) {
	stdin := int(os.Stdin.Fd())
	if !term.IsTerminal(stdin) || !term.IsTerminal(int(os.Stdout.Fd())) {
		input := bufio.NewReaderSize(os.Stdin, im.DefaultMaxPacket)
		return &screen{
			line:    func() (string, error) { return readLine(input) },
			output:  &lockedWriter{w: os.Stdout},
			restore: func() {},
		}, nil
	}
	old, err := term.MakeRaw(stdin)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{os.Stdin, os.Stdout}, "> ")
	if w, h, err := term.GetSize(stdin); err == nil {
		_ = t.SetSize(w, h) // the default will do
	}
	return &screen{
		interactive: true,
		line: func() (string, error) {
			line, err := t.ReadLine()
			if err == nil {
				_, _ = fmt.Fprint(os.Stdout, eraseLineAbove) // it is shown again when it is stored
			}
			return line, err
		},
		output:  t,
		restore: func() { _ = term.Restore(stdin, old) },
	}, nil
}

// eraseLineAbove moves the cursor up and clears that line (ECMA-48: CUU, EL).
const eraseLineAbove = "\x1b[1A\x1b[2K"

// lockedWriter lets several goroutines write lines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
