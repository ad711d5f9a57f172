package verify

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	_ "github.com/go-sql-driver/mysql" // the driver of sqlLedger

	"github.com/hermod-im/hermod/verify/internal/oracle"
	"github.com/hermod-im/hermod/verify/oldclient"
)

// ledger is where one learns what is stored.
type ledger interface {
	// rows gives every message of the run that is stored behind these seqs, by conversation.
	rows(ctx context.Context, from map[string]int64, take func(oracle.Row)) error
	// last returns the last seq of each conversation, or nothing if that is too much to ask.
	last(ctx context.Context) (map[string]int64, error)
	close()
}

func (r *Run) openLedger() (ledger, error) {
	if r.o.DSN == "" {
		return &historyLedger{r}, nil
	}
	db, err := sql.Open("mysql", r.o.DSN)
	if err != nil {
		return nil, fmt.Errorf("verify: DSN: %w", err)
	}
	db.SetMaxOpenConns(2)
	return &sqlLedger{db: db, app: r.o.App, prefix: r.Name + "-"}, nil
}

// sqlLedger reads the database (docs/architecture.md, "Storage").
type sqlLedger struct {
	db          *sql.DB
	app, prefix string
}

func (l *sqlLedger) close() { _ = l.db.Close() }

// each calls scan for every row of a query.
func (l *sqlLedger) each(ctx context.Context, scan func(rows *sql.Rows) error, query string, args ...any) error {
	rows, err := l.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err says it
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// conversations are those that an account of the run belongs to.
func (l *sqlLedger) conversations(ctx context.Context) (ids []string, err error) {
	err = l.each(ctx, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, strconv.FormatInt(id, 10))
		return err
	}, "SELECT DISTINCT conversation_id FROM members WHERE app = ? AND account >= ? AND account < ?", l.app, l.prefix, l.prefix+"~")
	return ids, err
}

func (l *sqlLedger) last(ctx context.Context) (map[string]int64, error) {
	ids, err := l.conversations(ctx)
	if err != nil {
		return nil, err
	}
	last := map[string]int64{}
	for chunk := range slices.Chunk(ids, 500) {
		err := l.each(ctx, func(rows *sql.Rows) error {
			var id, seq int64
			err := rows.Scan(&id, &seq)
			last[strconv.FormatInt(id, 10)] = seq
			return err
		}, "SELECT id, last_seq FROM conversations WHERE id IN ("+strings.Join(chunk, ",")+")") // they are numbers
		if err != nil {
			return nil, err
		}
	}
	return last, nil
}

func (l *sqlLedger) rows(ctx context.Context, from map[string]int64, take func(oracle.Row)) error {
	ids, err := l.conversations(ctx)
	if err != nil {
		return err
	}
	for id := range from {
		if !slices.Contains(ids, id) {
			ids = append(ids, id) // whatever became of its members
		}
	}
	for _, id := range ids {
		err := l.each(ctx, func(rows *sql.Rows) error {
			m := oracle.Row{Conversation: id}
			err := rows.Scan(&m.Seq, &m.ID, &m.Sender, &m.ClientID, &m.Body)
			if err == nil {
				take(m)
			}
			return err
		}, "SELECT seq, message_id, sender, COALESCE(client_id, ''), body FROM messages WHERE conversation_id = ? AND seq > ? ORDER BY seq", id, from[id])
		if err != nil {
			return err
		}
	}
	return nil
}

// historyLedger asks for chat.history, as one member of each conversation.
type historyLedger struct{ r *Run }

func (l *historyLedger) close() {}

func (l *historyLedger) last(context.Context) (map[string]int64, error) { return nil, nil }

// historyPage is the most messages of a page.
const historyPage = 200

func (l *historyLedger) rows(ctx context.Context, from map[string]int64, take func(oracle.Row)) error {
	byReader := map[int][]*topic{}
	var readers []int
	for i := range l.r.topics {
		t := &l.r.topics[i]
		reader := t.members[0]
		if byReader[reader] == nil {
			readers = append(readers, reader)
		}
		byReader[reader] = append(byReader[reader], t)
	}
	return parallel(len(readers), 8, func(i int) error {
		return l.r.visit(ctx, readers[i], "audit", func(c *oldclient.Client) error {
			for _, t := range byReader[readers[i]] {
				of := oldclient.HistoryOf{Group: t.group}
				if t.group == "" {
					of.Peer = l.r.accounts[t.members[1]].name
				}
				if err := l.topic(c, of, from, take); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// topic pages backwards to what is known.
func (l *historyLedger) topic(c *oldclient.Client, of oldclient.HistoryOf, from map[string]int64, take func(oracle.Row)) error {
	for before := int64(0); ; {
		page, err := c.History(of, before, historyPage)
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if m.Seq > from[page.Conversation] {
				take(oracle.Row{Conversation: page.Conversation, Seq: m.Seq, ID: m.ID, Sender: m.Sender, Body: m.Body, ClientID: m.ClientID})
			}
		}
		if len(page.Messages) == 0 || page.Messages[0].Seq <= max(from[page.Conversation], page.JoinedSeq)+1 {
			return nil
		}
		before = page.Messages[0].Seq
	}
}
