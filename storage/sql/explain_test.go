package sql

import (
	"context"
	stdsql "database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/snowflake"
	"github.com/hermod-im/hermod/test/component"
)

// statement is one that a store has run.
type statement struct {
	query string
	args  []any
}

// recorder is a pool that remembers what goes through it.
type recorder struct {
	*stdsql.DB
	log *recording
}

type recording struct {
	mu         sync.Mutex
	statements []statement
	// before is called before each statement and each BEGIN. May be nil.
	before func()
}

func (r *recording) add(query string, args []any) {
	r.mu.Lock()
	r.statements = append(r.statements, statement{query, args})
	r.mu.Unlock()
	r.begin()
}

func (r *recording) begin() {
	if r.before != nil {
		r.before()
	}
}

func (r *recording) take() []statement {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.statements
	r.statements = nil
	return out
}

func (r recorder) ExecContext(ctx context.Context, query string, args ...any) (stdsql.Result, error) {
	r.log.add(query, args)
	return r.DB.ExecContext(ctx, query, args...)
}

func (r recorder) QueryContext(ctx context.Context, query string, args ...any) (*stdsql.Rows, error) {
	r.log.add(query, args)
	return r.DB.QueryContext(ctx, query, args...)
}

func (r recorder) BeginTx(ctx context.Context, o *stdsql.TxOptions) (gorm.ConnPool, error) {
	r.log.begin()
	tx, err := r.DB.BeginTx(ctx, o)
	return &recorderTx{tx, r.log}, err
}

type recorderTx struct {
	*stdsql.Tx
	log *recording
}

func (r *recorderTx) ExecContext(ctx context.Context, query string, args ...any) (stdsql.Result, error) {
	r.log.add(query, args)
	return r.Tx.ExecContext(ctx, query, args...)
}

func (r *recorderTx) QueryContext(ctx context.Context, query string, args ...any) (*stdsql.Rows, error) {
	r.log.add(query, args)
	return r.Tx.QueryContext(ctx, query, args...)
}

// record makes the store remember its statements from now on.
func record(s *Store) *recording {
	log := new(recording)
	s.send = func(ctx context.Context, packet string) error {
		log.add(packet, nil)
		return s.sendPacket(ctx, packet)
	}
	for _, db := range []*gorm.DB{s.writer, s.reader} {
		switch pool := db.Statement.ConnPool.(type) {
		case *stdsql.DB:
			db.Statement.ConnPool = recorder{pool, log}
		case recorder:
			db.Statement.ConnPool = recorder{pool.DB, log}
		}
	}
	return log
}

func newStore(t testing.TB, o Options) *Store {
	t.Helper()
	ids, err := snowflake.New(snowflake.Fixed(1))
	require.NoError(t, err)
	s, err := Open(t.Context(), o, ids)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	_, err = s.Migrate(t.Context())
	require.NoError(t, err)
	return s
}

// onEach runs the test on every database there is.
func onEach(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, Options{Driver: DriverSQLite, DSN: filepath.Join(t.TempDir(), "hermod.db")})
	})
	t.Run("mariadb", func(t *testing.T) {
		test(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
	})
	if server, ok := component.MySQL9(t); ok {
		t.Run("mysql9", func(t *testing.T) {
			test(t, Options{Driver: DriverMySQL, DSN: component.Database(t, server)})
		})
	}
}

// Flaw 24: "no index that serves the query". Whether the tables' statistics are there or not.
func TestEveryStatementIsServedByAnIndex(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s := newStore(t, o)
		ctx := t.Context()
		const peers = 400
		group, err := s.CreateGroup(ctx, storage.Group{App: "app", Owner: "alice", Members: manyMembers(300)}, storage.GroupLimits{Groups: 1000})
		require.NoError(t, err)
		for round := range 10 {
			var batch []*storage.Draft
			for i := range peers {
				batch = append(batch,
					&storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: fmt.Sprint("peer", i), ClientID: fmt.Sprint(round)},
					&storage.Draft{App: "app", Kind: storage.KindUser, Sender: fmt.Sprint("x", i), Dest: "y"})
			}
			require.NoError(t, s.Append(ctx, batch))
		}
		log := record(s)
		exercise(t, s, group)
		statements := log.take()
		require.Greater(t, len(statements), 30)
		if o.Driver == DriverMySQL {
			checkMySQLPlans(t, s, statements)
			for _, table := range []string{"conversations", "members", "messages", "chat_groups"} {
				require.NoError(t, s.exec(s.writer.WithContext(ctx), "ANALYZE TABLE "+table))
			}
			checkMySQLPlans(t, s, statements)
		} else {
			checkSQLitePlans(t, s, statements)
		}
	})
}

func manyMembers(n int) []storage.Member {
	out := make([]storage.Member, n)
	for i := range out {
		out[i].Account = fmt.Sprint("member", i)
	}
	return out
}

// exercise uses everything that a store offers, cold and warm.
func exercise(t *testing.T, s *Store, group string) {
	t.Helper()
	ctx := t.Context()
	user := func(clientID string) *storage.Draft {
		return &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: "peer7", ClientID: clientID}
	}
	talk := &storage.Draft{App: "app", Kind: storage.KindGroup, Sender: "alice", Dest: group}
	fresh := &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: "somebody new"}
	s.conversations.InvalidateAll()
	first := user("new")
	require.NoError(t, s.Append(ctx, []*storage.Draft{first, talk, fresh}))
	require.NoError(t, s.Append(ctx, []*storage.Draft{user("new"), user("newer"), talk}))
	_, err := s.CreateGroup(ctx, storage.Group{App: "app", Owner: "alice"}, storage.GroupLimits{Groups: 1000})
	require.NoError(t, err)
	_, err = s.Join(ctx, "app", group, "new member", storage.GroupLimits{Members: 1000, Groups: 1000})
	require.NoError(t, err)
	_, err = s.Group(ctx, "app", group, "alice")
	require.NoError(t, err)
	_, err = s.Quit(ctx, "app", group, "alice")
	require.NoError(t, err)

	_, err = s.Sync(ctx, "app", "alice", storage.SyncQuery{Limit: 300})
	require.NoError(t, err)
	_, err = s.Sync(ctx, "app", "alice", storage.SyncQuery{
		Cursors: map[int64]storage.Cursor{first.Conversation: {Seq: 3, ReadSeq: 1}},
		Scope:   storage.Scope{Buckets: 7, Only: []uint32{uint32(first.Conversation % 7), 3}}, Limit: 300,
	})
	require.NoError(t, err)
	for _, noReads := range []bool{false, true} {
		_, err = s.Stale(ctx, "app", "alice", slices.Repeat([]storage.Digest{{NoReads: noReads}}, 61))
		require.NoError(t, err)
	}
	_, moved, err := s.Read(ctx, "app", "alice", first.Conversation, 2)
	require.NoError(t, err)
	require.True(t, moved)
	_, err = s.History(ctx, "app", "alice", storage.Range{Kind: storage.KindUser, Dest: "peer3", Limit: 50})
	require.NoError(t, err)
	_, err = s.History(ctx, "app", "alice", storage.Range{Conversation: first.Conversation, BeforeSeq: 5, Limit: 50})
	require.NoError(t, err)
	entries, err := s.Index(ctx, "app", "alice", 0, false, 200)
	require.NoError(t, err)
	last := entries[len(entries)-1].ID
	for _, acknowledged := range []bool{false, true} {
		_, err = s.Index(ctx, "app", "alice", last, acknowledged, 200)
		require.NoError(t, err)
	}
	_, err = s.Content(ctx, "app", "alice", []int64{entries[0].ID, last})
	require.NoError(t, err)
	var runs []storage.Run
	for _, e := range entries {
		runs = append(runs, storage.Run{Conversation: e.Conversation, From: e.Seq, To: e.Seq, MessageID: last})
	}
	for _, e := range []storage.IndexEntry{entries[100], entries[len(entries)-1]} {
		acked, err := s.Ack(ctx, "app", "alice", e.ID, runs)
		require.NoError(t, err)
		require.EqualValues(t, e.Seq, acked[e.Conversation])
	}
	require.NoError(t, s.PrimeIDs(ctx))
}

// explained is the statement of a packet that reads.
func explained(query string) string {
	update, isPacket := strings.CutPrefix(query, packetBegin)
	if isPacket {
		update, _, _ = strings.Cut(update, ";INSERT")
	}
	return update
}

func explainable(query string) bool {
	verb, _, _ := strings.Cut(query, " ")
	return verb == "SELECT" || verb == "UPDATE" || verb == "DELETE"
}

func checkMySQLPlans(t *testing.T, s *Store, statements []statement) {
	t.Helper()
	for _, st := range statements {
		st.query = explained(st.query)
		if !explainable(st.query) {
			continue
		}
		for _, plan := range planOf(t, s, st.query, st.args) {
			switch {
			case plan["table"] == "" || strings.HasPrefix(plan["table"], "<"): // no table, or a derived one
			case plan["type"] == "ALL" || plan["type"] == "index" || plan["key"] == "":
				t.Errorf("%s\nscans: %v", st.query, plan)
			case strings.Contains(st.query, "messages") && strings.Contains(plan["extra"], "filesort"):
				t.Errorf("%s\nsorts: %v", st.query, plan)
			}
		}
	}
}

// planOf is the rows of EXPLAIN, by their columns' names in small letters.
func planOf(t *testing.T, s *Store, query string, args []any) (plans []map[string]string) {
	t.Helper()
	rows, err := s.pools[0].Query("EXPLAIN "+query, args...)
	require.NoError(t, err, query)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	for rows.Next() {
		values := make([]stdsql.NullString, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		require.NoError(t, rows.Scan(into...))
		plan := make(map[string]string)
		for i, c := range columns {
			plan[strings.ToLower(c)] = values[i].String
		}
		plans = append(plans, plan)
	}
	require.NoError(t, rows.Err())
	return plans
}

func checkSQLitePlans(t *testing.T, s *Store, statements []statement) {
	t.Helper()
	for _, st := range statements {
		if !explainable(st.query) {
			continue
		}
		rows, err := s.pools[0].Query("EXPLAIN QUERY PLAN "+st.query, st.args...)
		require.NoError(t, err, st.query)
		for rows.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
			if strings.HasPrefix(detail, "SCAN") && detail != "SCAN v" && !strings.HasSuffix(detail, "CONSTANT ROW") {
				t.Errorf("%s\nscans: %s", st.query, detail)
			}
		}
		require.NoError(t, rows.Close())
	}
}

// A client with a thousand conversations and nothing new costs one query.
func TestSyncOfNothingIsOneQuery(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s := newStore(t, o)
		var drafts []*storage.Draft
		for i := range 1000 {
			drafts = append(drafts, &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: fmt.Sprint("peer", i)})
		}
		require.NoError(t, s.Append(t.Context(), drafts))
		cursors := make(map[int64]storage.Cursor)
		for _, d := range drafts {
			cursors[d.Conversation] = storage.Cursor{Seq: d.Seq}
		}
		log := record(s)
		news, err := s.Sync(t.Context(), "app", "alice", storage.SyncQuery{Cursors: cursors, Limit: 500})
		require.NoError(t, err)
		require.Equal(t, storage.News{}, news)
		require.Len(t, log.take(), 1)
	})
}

// The statements of a batch that needs nothing but to be stored: one each to lock, insert and move, and one
// packet where the conversations are known.
func TestAppendIsOneRoundTrip(t *testing.T) {
	o := Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))}
	batch := func() (out []*storage.Draft) {
		for i := range 300 {
			out = append(out, &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: fmt.Sprint("peer", i), Body: "x"})
		}
		return out
	}
	s := newStore(t, o)
	require.NoError(t, s.Append(t.Context(), batch()))
	log := record(s)
	require.NoError(t, s.Append(t.Context(), batch()))
	require.Len(t, queries(log), 1)
	s.ledger.byID = make(map[int64]known)
	require.NoError(t, s.Append(t.Context(), batch()))
	require.Len(t, queries(log), 3)
	require.NoError(t, s.Append(t.Context(), batch()))
	require.Len(t, queries(log), 1)
}

// queries are what was recorded, without arguments.
func queries(log *recording) (out []string) {
	for _, st := range log.take() {
		out = append(out, st.query[:min(len(st.query), 80)])
	}
	return out
}
