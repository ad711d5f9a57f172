package sql

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/snowflake"
	"github.com/hermod-im/hermod/test/component"
)

// faultyPool fails transactions as it is told.
type faultyPool struct {
	*stdsql.DB
	// insert and commit are asked before those statements; after a commit that failed with
	// errAfter it has happened all the same. They return nil to do no harm.
	insert, commit func() error
	// rolledBack is told of a transaction that was undone. May be nil.
	rolledBack func()
}

// errAfter: the connection broke after the server had committed.
var errAfter = fmt.Errorf("after: %w", driver.ErrBadConn)

func (p *faultyPool) BeginTx(ctx context.Context, o *stdsql.TxOptions) (gorm.ConnPool, error) {
	tx, err := p.DB.BeginTx(ctx, o)
	return &faultyTx{tx, p}, err
}

type faultyTx struct {
	*stdsql.Tx
	pool *faultyPool
}

func (t *faultyTx) ExecContext(ctx context.Context, query string, args ...any) (stdsql.Result, error) {
	if err := t.pool.insert(); err != nil {
		return nil, err
	}
	return t.Tx.ExecContext(ctx, query, args...)
}

func (t *faultyTx) Commit() error {
	switch err := t.pool.commit(); {
	case errors.Is(err, errAfter):
		return errors.Join(err, t.Tx.Commit())
	case err != nil:
		return errors.Join(err, t.Tx.Rollback())
	}
	return t.Tx.Commit()
}

func (t *faultyTx) Rollback() error {
	err := t.Tx.Rollback()
	if t.pool.rolledBack != nil {
		t.pool.rolledBack()
	}
	return err
}

// fails returns errs one after the other, and then nil.
func fails(errs ...error) func() error {
	var n atomic.Int32
	return func() error {
		if i := int(n.Add(1)); i <= len(errs) {
			return errs[i-1]
		}
		return nil
	}
}

func drafts(clientIDs ...string) (out []*storage.Draft) {
	for i, id := range clientIDs {
		out = append(out, &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: "bob", ClientID: id, Body: fmt.Sprint(i), SendTime: int64(i)})
	}
	return out
}

func bodies(t testing.TB, s *Store) (out []string) {
	t.Helper()
	d, err := s.History(t.Context(), "app", "alice", storage.Range{Kind: storage.KindUser, Dest: "bob", Limit: 1000})
	require.NoError(t, err)
	for i, m := range d.Messages {
		require.EqualValues(t, i+1, m.Seq)
		out = append(out, m.Body)
	}
	return out
}

func TestFailedTransactionsAreRepeatedWhereThatIsSafe(t *testing.T) {
	deadlock := &mysql.MySQLError{Number: 1213, Message: "deadlock"}
	full := &mysql.MySQLError{Number: 1114, Message: "table is full"}
	none := func() error { return nil }
	for _, c := range []struct {
		name           string
		insert, commit func() error
		ids            []string
		fails          bool
		stored         int
	}{
		{"deadlock", fails(deadlock, deadlock), none, []string{"", "a"}, false, 2},
		{"connection lost before the commit", fails(mysql.ErrInvalidConn), none, []string{""}, false, 1},
		{"the server refuses", fails(full), none, []string{"a"}, true, 0},
		{"for ever deadlocked", func() error { return deadlock }, none, []string{"a"}, true, 0},
		{"commit refused", none, fails(deadlock), []string{"", "a"}, false, 2},
		{"commit lost before it happened", none, fails(driver.ErrBadConn), []string{"a", "b"}, false, 2},
		{"commit lost after it happened", none, fails(errAfter, errAfter), []string{"a", "b"}, false, 2},
		{"commit lost after it happened, without client ids", none, fails(errAfter), []string{"a", "", ""}, false, 3},
		{"commit lost before it happened, without client ids", none, fails(driver.ErrBadConn), []string{"a", "", ""}, false, 3},
		{"commits lost before and after", none, fails(driver.ErrBadConn, errAfter, driver.ErrBadConn), []string{"a", "", ""}, false, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
			warm := drafts("warm")
			warm[0].Dest = "carol"
			require.NoError(t, s.Append(t.Context(), warm))
			_, err := s.resolve(t.Context(), []pair{pairOf("app", "alice", "bob")})
			require.NoError(t, err)
			s.writer.Statement.ConnPool = &faultyPool{DB: s.pools[0], insert: c.insert, commit: c.commit}

			batch := drafts(c.ids...)
			err = s.Append(t.Context(), batch)
			if c.fails {
				require.Error(t, err)
			} else {
				require.NoError(t, err)
				for i, d := range batch {
					require.NoError(t, d.Err)
					require.False(t, d.Duplicate, "stored by this call, however often it tried: the push is owed")
					require.EqualValues(t, i+1, d.Seq)
				}
			}
			require.Len(t, bodies(t, s), c.stored)
		})
	}
}

// Who is to be told of a message that may be stored is known, and what cannot be stored is not in doubt.
func TestAppendInDoubt(t *testing.T) {
	s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
	_, err := s.resolve(t.Context(), []pair{pairOf("app", "alice", "bob")})
	require.NoError(t, err)
	pool := &faultyPool{DB: s.pools[0], insert: fails(), commit: func() error { return errAfter }}
	s.writer.Statement.ConnPool = pool
	batch := drafts("")
	require.ErrorIs(t, s.Append(t.Context(), batch), storage.ErrInDoubt)
	require.Equal(t, []string{"alice", "bob"}, batch[0].Members)
	require.Len(t, bodies(t, s), 1)

	pool.insert = func() error { return &mysql.MySQLError{Number: 1114, Message: "table is full"} }
	err = s.Append(t.Context(), drafts(""))
	require.Error(t, err)
	require.NotErrorIs(t, err, storage.ErrInDoubt)
}

// Ids that other messages have already: a fixed node number and a clock that has stepped back.
func TestPrimeIDs(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s := newStore(t, o)
		require.NoError(t, s.PrimeIDs(t.Context()), "an empty database")
		ahead := int64(7<<22) + time.Now().Add(time.Hour).UnixMilli()<<22 - snowflake.Epoch<<22
		require.NoError(t, s.exec(s.writer.WithContext(t.Context()),
			"INSERT INTO messages (conversation_id, seq, message_id, sender, type, body, send_time) VALUES (1, 1, ?, 'x', 1, '', 1)", ahead))
		require.NoError(t, s.PrimeIDs(t.Context()))
		d := drafts("")
		require.NoError(t, s.Append(t.Context(), d))
		require.Greater(t, d[0].MessageID, ahead)
	})
}

func TestSchema(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		ctx := t.Context()
		stores := make([]*Store, 4)
		for i := range stores {
			s, err := Open(ctx, o, nil)
			require.NoError(t, err)
			defer s.Close()
			stores[i] = s
		}
		current, needed, err := stores[0].SchemaVersion(ctx)
		require.NoError(t, err)
		require.Zero(t, current)
		err = stores[0].CheckSchema(ctx)
		require.ErrorIs(t, err, ErrSchema)
		require.ErrorContains(t, err, "run `hermod migrate`")

		// Several at once, as when every node migrates on start. A SQLite file has one owner.
		if o.Driver == DriverSQLite {
			stores = stores[:1]
		}
		var applied atomic.Int32
		var wg sync.WaitGroup
		for _, s := range stores {
			wg.Go(func() {
				versions, err := s.Migrate(ctx)
				if err != nil {
					t.Error(err)
				}
				applied.Add(int32(len(versions)))
			})
		}
		wg.Wait()
		require.EqualValues(t, needed, applied.Load(), "each migration once")
		current, _, err = stores[0].SchemaVersion(ctx)
		require.NoError(t, err)
		require.Equal(t, needed, current)
		require.NoError(t, stores[0].CheckSchema(ctx))

		// The next release has migrated already.
		require.NoError(t, stores[0].exec(stores[0].writer.WithContext(ctx), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, ?)", needed+1, true))
		require.NoError(t, stores[0].CheckSchema(ctx))
	})
}

func TestOpenRefuses(t *testing.T) {
	for _, o := range []Options{
		{},
		{Driver: "postgres", DSN: "x"},
		{Driver: DriverSQLite},
		{Driver: DriverSQLite, DSN: ":memory:"},
		{Driver: DriverSQLite, DSN: t.TempDir() + "/no/such/folder.db"},
		{Driver: DriverMySQL, DSN: "no dsn"},
		{Driver: DriverMySQL, DSN: "root@tcp(127.0.0.1:1)/x"},
	} {
		_, err := Open(t.Context(), o, nil)
		require.Error(t, err, "%+v", o)
	}
}

// I1 and I3 with a database that dies by SIGKILL under load: what was answered is there, and what
// was not can be sent again.
func TestDatabaseIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a MariaDB of its own")
	}
	server, err := component.StartMySQL(t.Context(), "", component.MySQLOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, server.DSN)})
	const workers, kills, perRound = 6, 2, 60
	type result struct{ id, seq int64 }
	var mu sync.Mutex
	answered := make(map[string]result)
	var wg sync.WaitGroup
	var done atomic.Int64
	progress := make(chan struct{}, 1)
	for w := range workers {
		wg.Go(func() {
			for i := range kills * perRound {
				ids := []string{fmt.Sprint(w, "-", i, "a"), fmt.Sprint(w, "-", i, "b")}
				batch := drafts(ids...)
				for s.Append(t.Context(), batch) != nil && t.Context().Err() == nil {
					_ = backOff(t.Context(), 4)
					batch = drafts(ids...)
				}
				mu.Lock()
				for _, d := range batch {
					answered[d.ClientID] = result{d.MessageID, d.Seq}
				}
				mu.Unlock()
				done.Add(1)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for kill := range kills {
		for done.Load() < int64(workers*perRound*kill+workers*perRound/3) {
			<-progress
		}
		require.NoError(t, server.Kill())
		require.NoError(t, server.Restart(t.Context()))
	}
	wg.Wait()
	d, err := s.History(t.Context(), "app", "alice", storage.Range{Kind: storage.KindUser, Dest: "bob", Limit: 10_000})
	require.NoError(t, err)
	require.Len(t, d.Messages, workers*kills*perRound*2)
	for i, m := range d.Messages {
		require.EqualValues(t, i+1, m.Seq)
		require.Equal(t, answered[m.ClientID], result{m.ID, m.Seq})
	}
}

// A node that is frozen within a transaction held its conversations' locks for as long as it lived.
func TestFrozenTransactionLosesItsLocks(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the server's timeout")
	}
	o := Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))}
	frozen, other := newStore(t, o), newStore(t, o)
	require.NoError(t, frozen.Append(t.Context(), drafts("1")))
	tx := frozen.writer.Begin()
	require.NoError(t, tx.Error)
	defer tx.Rollback()
	require.NoError(t, tx.Exec("UPDATE conversations SET last_seq = last_seq + 1").Error) // and says nothing more

	ctx, cancel := context.WithTimeout(t.Context(), 3*frozenAfter)
	defer cancel()
	next := drafts("2")
	require.NoError(t, other.Append(ctx, next))
	require.EqualValues(t, 2, next[0].Seq)
	require.Error(t, tx.Commit().Error)
}
