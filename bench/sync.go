package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// SyncOptions are the load of Sync: clients that log in at once and fetch what they have missed.
type SyncOptions struct {
	// URLs of gateways (ws:// or tcp://); clients are spread over them.
	URLs   []string
	Secret []byte
	// App is the tenant. Defaults to "default".
	App     string
	Clients int
	// Unread messages wait for each client, from Peers accounts: conversations of two.
	Unread, Peers int
	// Size of a message's body in bytes, at least MinSize.
	Size int
	// Rate is how many clients a second begin; 0: all at once, Parallel of them at a time.
	Rate float64
	// Parallel is how many are under way at once. Defaults to 64.
	Parallel  int
	Processes []Process
	// Progress is told now and then how many messages are stored, and then how many clients have them. May be nil.
	Progress func(stored, synced int64)
}

func (o SyncOptions) withDefaults() (SyncOptions, error) {
	if o.App == "" {
		o.App = "default"
	}
	if o.Parallel == 0 {
		o.Parallel = 64
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	if len(o.URLs) == 0 || o.Clients < 1 || o.Unread < 0 || o.Peers < 1 || o.Size < MinSize {
		return o, fmt.Errorf("give a URL, at least 1 client, at least 1 peer and a size of at least %d", MinSize)
	}
	return o, nil
}

// SyncResult is what Sync measured.
type SyncResult struct {
	Clients  int     `json:"clients"`
	Unread   int     `json:"unread"`
	Peers    int     `json:"peers"`
	Size     int     `json:"size"`
	Seconds  float64 `json:"seconds"`
	Messages int64   `json:"messages"` // synced
	Pages    int64   `json:"pages"`    // answers to chat.sync
	Complete Latency `json:"complete"` // connect → the last page

	CPU        Cost `json:"cpu_us_per_client"`  // login and sync
	CPUMessage Cost `json:"cpu_us_per_message"` // the same, spread over the messages

	Lost      int64 `json:"lost"`      // not in any page
	Doubled   int64 `json:"doubled"`   // in two
	Reordered int64 `json:"reordered"` // not in seq order
}

// Clean reports whether every client got every message once and in order.
func (r *SyncResult) Clean() bool { return r.Lost == 0 && r.Doubled == 0 && r.Reordered == 0 }

// syncRun is one run of Sync.
type syncRun struct {
	o        SyncOptions
	id       string
	complete *recorder

	stored, synced                            atomic.Int64 // messages and clients
	messages, pages, lost, doubled, reordered atomic.Int64
}

// Sync stores the messages, logs the clients in and returns what that cost. An error means that the
// run says nothing.
func Sync(ctx context.Context, o SyncOptions) (*SyncResult, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &syncRun{o: o, id: runID(), complete: &recorder{}}
	if err := r.each(ctx, o.Peers, 0, r.store); err != nil {
		return nil, fmt.Errorf("store the messages: %w", err)
	}
	before, err := read(o.Processes)
	if err != nil {
		return nil, err
	}
	if err := r.each(ctx, o.Clients, o.Rate, r.sync); err != nil {
		return nil, err
	}
	after, err := read(o.Processes)
	if err != nil {
		return nil, err
	}
	return &SyncResult{
		Clients: o.Clients, Unread: o.Unread, Peers: o.Peers, Size: o.Size,
		Seconds:  after.at.Sub(before.at).Seconds(),
		Messages: r.messages.Load(), Pages: r.pages.Load(), Complete: r.complete.latency(),
		CPU:        after.cpuSince(before, o.Processes, int64(o.Clients)),
		CPUMessage: after.cpuSince(before, o.Processes, r.messages.Load()),
		Lost:       r.lost.Load(), Doubled: r.doubled.Load(), Reordered: r.reordered.Load(),
	}, nil
}

// each calls f with 0 to n-1, Parallel at a time, until one fails.
func (r *syncRun) each(ctx context.Context, n int, rate float64, f func(i int, begun time.Time) error) error {
	var first atomic.Pointer[error]
	each(ctx, n, r.o.Parallel, rate, func(i int, begun time.Time) bool {
		if err := f(i, begun); err != nil {
			first.CompareAndSwap(nil, &err)
		}
		return first.Load() == nil
	})
	if err := first.Load(); err != nil {
		return *err
	}
	return ctx.Err()
}

func (r *syncRun) client(i int) string { return fmt.Sprintf("bench-%s-c%d", r.id, i) }

// storeWindow is how many messages of one peer are under way while they are stored.
const storeWindow = 64

// store sends the peer's share of every client's messages.
func (r *syncRun) store(peer int, _ time.Time) error {
	u, err := login(r.o.URLs[peer%len(r.o.URLs)], r.o.App, fmt.Sprintf("bench-%s-p%d", r.id, peer), r.o.Secret, userOptions)
	if err != nil {
		return err
	}
	defer u.Close()
	share := r.o.Unread / r.o.Peers
	if peer < r.o.Unread%r.o.Peers {
		share++
	}
	body := strings.Repeat("x", r.o.Size)
	under := 0
	for i := range r.o.Clients * share {
		b, err := proto.Marshal(&pb.MessageReq{Type: 1, Body: body, ClientId: strconv.Itoa(i)})
		if err != nil {
			return err
		}
		if err := u.request(wire.CmdUserTalk, r.client(i%r.o.Clients), uint32(i+2), b); err != nil {
			return err
		}
		if under++; under < storeWindow {
			continue
		}
		if err := r.awaitStored(u); err != nil {
			return err
		}
		under--
	}
	for ; under > 0; under-- {
		if err := r.awaitStored(u); err != nil {
			return err
		}
	}
	return nil
}

func (r *syncRun) awaitStored(u *user) error {
	err := u.stored()
	if n := r.stored.Add(1); n%1000 == 0 {
		r.o.Progress(n, 0)
	}
	return err
}

// stored waits for the answer to one of the messages.
func (u *user) stored() error {
	for {
		p, err := u.next()
		if err != nil {
			return err
		}
		if p.Flag != wire.FlagResponse {
			continue
		}
		if p.Status != wire.StatusSuccess {
			return fmt.Errorf("answered with %s: start the servers with --set limits.enabled=false", p.Status)
		}
		return nil
	}
}

// sync is one client: it logs in and fetches all pages. Its latency counts from begun.
func (r *syncRun) sync(i int, begun time.Time) error {
	u, err := login(r.o.URLs[i%len(r.o.URLs)], r.o.App, r.client(i), r.o.Secret, userOptions)
	if err != nil {
		return err
	}
	defer u.Close()
	cursors := map[string]int64{}
	var got int64
	for seq, more := uint32(2), true; more; seq++ {
		req := &pb.SyncReq{}
		for id, at := range cursors {
			req.Cursors = append(req.Cursors, &pb.Cursor{Conversation: id, Seq: at})
		}
		resp, err := u.syncPage(seq, req)
		if err != nil {
			return err
		}
		r.pages.Add(1)
		for _, c := range resp.Conversations {
			for _, m := range c.Messages {
				at := cursors[c.Conversation]
				switch {
				case m.Seq <= at:
					r.doubled.Add(1)
				case m.Seq > at+1:
					r.reordered.Add(1)
				default:
					got++
				}
				cursors[c.Conversation] = max(at, m.Seq)
			}
		}
		if more = resp.More; more && len(resp.Conversations) == 0 {
			return errors.New("the server has more but gives nothing")
		}
	}
	r.complete.record(i, time.Since(begun))
	r.o.Progress(r.stored.Load(), r.synced.Add(1))
	r.messages.Add(got)
	r.lost.Add(max(0, int64(r.o.Unread)-got))
	return nil
}

func (u *user) syncPage(seq uint32, req *pb.SyncReq) (*pb.SyncResp, error) {
	body, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	if err := u.request(wire.CmdSync, "", seq, body); err != nil {
		return nil, err
	}
	for {
		p, err := u.next()
		if err != nil {
			return nil, err
		}
		if p.Command != wire.CmdSync || p.Sequence != seq {
			continue
		}
		if p.Status != wire.StatusSuccess {
			return nil, fmt.Errorf("chat.sync was answered with %s", p.Status)
		}
		resp := new(pb.SyncResp)
		return resp, proto.Unmarshal(p.Body, resp)
	}
}
