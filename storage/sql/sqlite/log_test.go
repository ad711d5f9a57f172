package sqlite

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
	"pgregory.net/rapid"
)

// openLogged opens a file with a log, of which a connection remembers only a few pages.
func openLogged(path string) *sql.DB {
	db := sql.OpenDB(&Connector{Path: path, Immediate: true, Pragmas: []string{"journal_mode(WAL)", "cache_size(8)", "wal_autocheckpoint(50)"}})
	db.SetMaxOpenConns(1)
	return db
}

// rowsOf is how many rows table r has, in a database without damage.
func rowsOf(t require.TestingT, db *sql.DB) (n int) {
	var integrity string
	require.NoError(t, db.QueryRow("PRAGMA integrity_check").Scan(&integrity))
	require.Equal(t, "ok", integrity)
	require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM r").Scan(&n))
	return n
}

// What a commit has stored is in the files when it returns, whatever happens to the process then, and what no commit has stored is
// not. A transaction may be larger than what a connection remembers, and read what it wrote.
func TestCommitsAreInTheFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "hermod-log-")
		require.NoError(t, err)
		defer os.RemoveAll(dir) //nolint:errcheck // a test's
		path := filepath.Join(dir, "a.db")
		writers := []*sql.DB{openLogged(path), openLogged(path)}
		for _, w := range writers {
			defer w.Close() //nolint:errcheck // a test's
		}
		_, err = writers[0].Exec("CREATE TABLE r (a INTEGER PRIMARY KEY, b BLOB); CREATE INDEX r_b ON r (b)")
		require.NoError(t, err)
		want := 0
		for range rapid.IntRange(1, 8).Draw(t, "transactions") {
			tx, err := writers[rapid.IntRange(0, 1).Draw(t, "writer")].Begin()
			require.NoError(t, err)
			n := rapid.SampledFrom([]int{1, 3, 40, 200}).Draw(t, "rows")
			for i := range n {
				_, err := tx.Exec("INSERT INTO r (b) VALUES (randomblob(?))", rapid.IntRange(1, 2000).Draw(t, "size"))
				require.NoError(t, err)
				if i%64 == 32 { // reads pages that are in the log only, and uncommitted
					var got int
					require.NoError(t, tx.QueryRow("SELECT COUNT(*) FROM r NOT INDEXED").Scan(&got))
					require.Equal(t, want+i+1, got)
				}
			}
			if rapid.Bool().Draw(t, "commit") {
				require.NoError(t, tx.Commit())
				want += n
			} else {
				require.NoError(t, tx.Rollback())
			}
			require.Equal(t, want, rowsOf(t, writers[0]))
			require.Equal(t, want, rowsOf(t, afterCrash(t, path)))
		}
	})
}

// afterCrash opens a copy of the files, as if the process had ended. To read them takes the process's locks from them, which nobody
// here needs.
func afterCrash(t *rapid.T, path string) *sql.DB {
	dir, err := os.MkdirTemp("", "hermod-log-")
	require.NoError(t, err)
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "a.db"+suffix), data, 0o600))
	}
	db := openLogged(filepath.Join(dir, "a.db"))
	t.Cleanup(func() {
		_ = db.Close()
		_ = os.RemoveAll(dir)
	})
	return db
}

// fullDisk is an xWrite.
func fullDisk(*libc.TLS, uintptr, uintptr, int32, int64) int32 { return sqlite3.SQLITE_FULL }

// A write that fails later than SQLite asked for it fails the transaction, whose pages are not all there, and nothing else.
func TestFullDisk(t *testing.T) {
	tests := map[string][]string{
		"commit":    {"INSERT INTO r (b) VALUES ('small')"},
		"statement": {"INSERT INTO r (b) VALUES ('" + strings.Repeat("large", 100_000) + "')"},
		// The last statement reads what waits to be written, fails, and undoes itself only.
		"read": append(append([]string{"BEGIN IMMEDIATE"}, slices.Repeat([]string{"INSERT INTO r (b) VALUES (randomblob(1500))"}, 120)...),
			"INSERT INTO u (b) SELECT b FROM r WHERE a BETWEEN 70 AND 75"),
	}
	for name, statements := range tests {
		t.Run(name, func(t *testing.T) {
			db := openLogged(filepath.Join(t.TempDir(), "a.db"))
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			exec(t, db, "CREATE TABLE r (a INTEGER PRIMARY KEY, b BLOB); CREATE TABLE u (b BLOB UNIQUE)")
			exec(t, db, "INSERT INTO r (b) VALUES ('before')")
			exec(t, db, "PRAGMA wal_checkpoint(TRUNCATE)")

			methods := systemOfLog(t, db)
			works, broken := *methods, *methods
			broken.FxWrite = pointer(fullDisk)
			last := len(statements) - 1
			for _, query := range statements[:last] {
				exec(t, db, query)
			}
			*methods = broken
			_, err := db.Exec(statements[last])
			*methods = works
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, sqlite3.SQLITE_FULL, e.Primary())
			if last > 0 {
				_, err := db.Exec("COMMIT")
				require.Error(t, err)
				_, _ = db.Exec("ROLLBACK") // which SQLite may have done
			}
			require.Equal(t, 1, rowsOf(t, db))
			exec(t, db, "INSERT INTO r (b) VALUES ('after')")
			require.Equal(t, 2, rowsOf(t, db))
		})
	}
}

// systemOfLog is how the log of the only connection is written.
func systemOfLog(t *testing.T, db *sql.DB) (methods *sqlite3.Tsqlite3_io_methods) {
	t.Helper()
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // back to its pool
	require.NoError(t, c.Raw(func(driver any) error {
		c := driver.(*conn)
		name, err := libc.CString("main")
		require.NoError(t, err)
		defer libc.Xfree(c.tls, name)
		require.Zero(t, sqlite3.Xsqlite3_file_control(c.tls, c.db, name, sqlite3.SQLITE_FCNTL_JOURNAL_POINTER, c.out))
		methods = fileOf(pointerAt(c.out)).of()
		return nil
	}))
	return methods
}

func TestSynchronousIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	for _, level := range []string{"OFF", "NORMAL"} {
		_, err := (&Connector{Path: path, Pragmas: []string{"synchronous(" + level + ")"}}).Connect(t.Context())
		require.ErrorContains(t, err, "must be FULL")
	}
	c, err := (&Connector{Path: path, Pragmas: []string{"synchronous(EXTRA)"}}).Connect(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())
}
