package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// open opens a file whose name would be cut if it were read as a URL.
func open(t testing.TB) *sql.DB {
	t.Helper()
	db := sql.OpenDB(&Connector{Path: filepath.Join(t.TempDir(), "a ? b%20.db"), Immediate: true, Pragmas: []string{"journal_mode(WAL)"}})
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func exec(t testing.TB, db *sql.DB, query string, args ...any) {
	t.Helper()
	_, err := db.Exec(query, args...)
	require.NoError(t, err)
}

func TestValues(t *testing.T) {
	db := open(t)
	exec(t, db, "CREATE TABLE v (a, at TIMESTAMP); -- a comment behind\n")
	large := strings.Repeat("x", 2*keptArena)
	for _, v := range []any{nil, int64(-1 << 63), 1.5, "", "text\x00with zero", large, []byte{}, []byte("blob\x00"), []byte(large)} {
		exec(t, db, "INSERT INTO v (a) VALUES (?)", v)
		var got any
		require.NoError(t, db.QueryRow("SELECT a FROM v").Scan(&got))
		require.Equal(t, v, got)
		result, err := db.Exec("DELETE FROM v")
		require.NoError(t, err)
		n, err := result.RowsAffected()
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	}
	exec(t, db, "INSERT INTO v VALUES (?, datetime('2026-01-02 03:04:05'))", true)
	var is bool
	var at sql.NullTime
	require.NoError(t, db.QueryRow("SELECT * FROM v").Scan(&is, &at))
	require.True(t, is)
	require.Equal(t, 2026, at.Time.Year())
}

func TestErrors(t *testing.T) {
	db := open(t)
	exec(t, db, "CREATE TABLE u (a INTEGER PRIMARY KEY, b UNIQUE)")
	exec(t, db, "INSERT INTO u VALUES (1, 1)")
	var e *Error
	_, err := db.Exec("INSERT INTO u VALUES (?, 2)", 1)
	require.ErrorAs(t, err, &e)
	require.Equal(t, PrimaryKey, e.Code)
	_, err = db.Exec("INSERT INTO u VALUES (2, ?)", 1)
	require.ErrorAs(t, err, &e)
	require.Equal(t, Unique, e.Code)
	for _, query := range []string{"nonsense", "SELECT ?", "SELECT 1; SELECT 2", ""} {
		_, err = db.Query(query) //nolint:rowserrcheck // there are none
		require.Error(t, err, query)
	}
	_, err = db.Exec("DELETE FROM u; DELETE FROM u WHERE a = ?", 1)
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = db.ExecContext(ctx, "DELETE FROM u")
	require.ErrorIs(t, err, context.Canceled)
}

// A COMMIT that failed left its transaction open, and every later BEGIN of the connection failed.
func TestFailedCommitEndsTheTransaction(t *testing.T) {
	db := open(t)
	db.SetMaxOpenConns(1)
	exec(t, db, "PRAGMA foreign_keys(ON)")
	exec(t, db, "CREATE TABLE parent (a INTEGER PRIMARY KEY); CREATE TABLE child (p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
	for range 2 {
		tx, err := db.Begin()
		require.NoError(t, err)
		_, err = tx.Exec("INSERT INTO child VALUES (7)")
		require.NoError(t, err)
		require.Error(t, tx.Commit())
	}
}

// Statements are compiled once, whatever happens between two uses of them.
func TestStatementsAreKept(t *testing.T) {
	db := open(t)
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer c.Close()
	ctx := t.Context()
	_, err = c.ExecContext(ctx, "CREATE TABLE k (a); INSERT INTO k VALUES (1), (2)")
	require.NoError(t, err)

	// The same text twice at once, and again.
	const query = "SELECT a FROM k ORDER BY a"
	first, err := c.QueryContext(ctx, query)
	require.NoError(t, err)
	require.True(t, first.Next())
	second, err := c.QueryContext(ctx, query)
	require.NoError(t, err)
	for want := 1; second.Next(); want++ {
		var got int
		require.NoError(t, second.Scan(&got))
		require.Equal(t, want, got)
	}
	require.NoError(t, errors.Join(second.Err(), second.Close()))
	require.True(t, first.Next())
	require.NoError(t, errors.Join(first.Err(), first.Close()))

	raw := func(f func(c *conn)) {
		require.NoError(t, c.Raw(func(driverConn any) error { f(driverConn.(*conn)); return nil }))
	}
	raw(func(c *conn) {
		s, _, err := c.take(query)
		require.NoError(t, err)
		again, _, err := c.take(query)
		require.NoError(t, err)
		require.NotEqual(t, s.handle, again.handle)
		c.give(again)
		c.give(s)
		kept, _, err := c.take(query)
		require.NoError(t, err)
		require.Same(t, s, kept)
		c.give(kept)
	})
	_, err = c.ExecContext(ctx, "ALTER TABLE k ADD COLUMN b")
	require.NoError(t, err)
	for i := range 3 * cacheSize {
		_, err = c.ExecContext(ctx, fmt.Sprintf("INSERT INTO k VALUES (%d, ?)", i), i)
		require.NoError(t, err)
	}
	var n int
	require.NoError(t, c.QueryRowContext(ctx, "SELECT COUNT(*) FROM k").Scan(&n))
	require.Equal(t, 3*cacheSize+2, n)
	raw(func(c *conn) {
		require.Len(t, c.statements, cacheSize)
		require.Equal(t, cacheSize, c.recent.Len())
	})
}

// What a statement costs that is run again and again: nothing but its result.
func TestExecDoesNotAllocate(t *testing.T) {
	db := open(t)
	exec(t, db, "CREATE TABLE a (a INTEGER PRIMARY KEY, b)")
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer c.Close()
	args := []driver.NamedValue{{Ordinal: 1, Value: int64(1)}, {Ordinal: 2, Value: []byte("body")}}
	require.NoError(t, c.Raw(func(driverConn any) error {
		c := driverConn.(*conn)
		allocs := testing.AllocsPerRun(100, func() {
			_, err := c.ExecContext(context.Background(), "INSERT OR REPLACE INTO a VALUES (?, ?)", args)
			require.NoError(t, err)
		})
		require.LessOrEqual(t, allocs, 1.0)
		return nil
	}))
}
