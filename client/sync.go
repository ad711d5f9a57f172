package client

import (
	"context"
	"errors"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// synchronise asks for what is missing whenever the inbox wants it.
func (c *Client) synchronise(ctx context.Context, s *session) {
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-c.syncWake:
		}
		c.mu.Lock()
		want := c.inbox.SyncWanted()
		c.mu.Unlock()
		if want == WantSoon && sleep(ctx, gapWait) != nil {
			return
		}
		err := c.syncOnce(ctx, s)
		if err == nil {
			failures = 0
			continue
		}
		c.log.Info("sync failed", "error", err)
		if sleep(ctx, max(retryAfter(err), backoff(failures, c.opts.BackoffBase, c.opts.BackoffMax))) != nil {
			return
		}
		failures++
		wake(c.syncWake)
	}
}

// syncOnce takes all pages of a sync, if it is still wanted, or as many as there is room for.
func (c *Client) syncOnce(ctx context.Context, s *session) error {
	c.mu.Lock()
	if c.inbox.SyncWanted() == WantNothing {
		c.mu.Unlock()
		return nil
	}
	round := c.inbox.Begin()
	c.mu.Unlock()
	for {
		more, err := c.syncPage(ctx, s, round)
		if err != nil {
			c.mu.Lock()
			c.inbox.Fail()
			c.mu.Unlock()
			return err
		}
		if !more {
			return nil
		}
	}
}

// syncPage asks for one page of a sync and takes it.
func (c *Client) syncPage(ctx context.Context, s *session, round int) (more bool, err error) {
	c.mu.Lock()
	req := syncRequest(c.inbox.Request(), c.page)
	c.mu.Unlock()
	var resp pb.SyncResp
	err = c.do(ctx, &request{command: wire.CmdSync, body: req, into: &resp, only: s})

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, ErrDisconnected), errors.Is(err, ErrNoAnswer):
		// Perhaps the page was too large: for the server's queue to this client, for the time.
		c.page = max(1, c.page/4)
		return false, err
	case err != nil:
		return false, err
	}
	progress, more := c.inbox.Page(syncAnswer(&resp))
	defer c.arrived()
	switch {
	case !more:
		c.inbox.End()
		c.page = c.inbox.page
		if c.inbox.Complete() {
			c.synced = round
			c.broadcast()
		}
		return false, nil
	case !c.inbox.roomForPage():
		c.inbox.Fail() // the application is behind: it goes on when there is room
		return false, nil
	case !progress:
		return false, errors.New("the server has more but gives nothing")
	default:
		return true, nil
	}
}

func syncRequest(r Request, limit int) *pb.SyncReq {
	req := &pb.SyncReq{Limit: int32(limit), Buckets: uint32(r.Buckets)}
	for _, n := range r.Only {
		req.Only = append(req.Only, uint32(n))
	}
	for _, k := range r.Cursors {
		cursor := &pb.Cursor{Conversation: k.Conversation, Seq: k.Seq}
		if k.ReadSeq != noRead {
			cursor.ReadSeq = &k.ReadSeq
		}
		req.Cursors = append(req.Cursors, cursor)
	}
	for _, d := range r.Digests {
		digest := &pb.Digest{Conversations: d.Conversations, Ids: d.IDs, Seqs: d.Seqs}
		if !r.NoReads {
			digest.Reads = &d.Reads
		}
		req.Digests = append(req.Digests, digest)
	}
	return req
}

func syncAnswer(resp *pb.SyncResp) Answer {
	a := Answer{Deltas: deltasOf(resp.GetConversations()), More: resp.GetMore(), Gone: resp.GetGone()}
	for _, n := range resp.GetStale() {
		a.Stale = append(a.Stale, int(n))
	}
	return a
}
