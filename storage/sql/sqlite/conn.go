// Package sqlite is a driver of database/sql for SQLite on modernc.org/sqlite/lib, the C library translated
// to Go. It keeps the statements of a connection compiled: to compile one costs more than to run it, and
// the driver beside gorm's dialect does so each time.
//
// A context is looked at before a statement and between its rows; a statement that runs is not interrupted.
package sqlite

import (
	"container/list"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
	sqlite3 "modernc.org/sqlite/lib"
)

// Connector opens connections to one file: see sql.OpenDB.
type Connector struct {
	// Path of the file, which is made if missing, its folder not. Required.
	Path string
	// Immediate: a transaction has the lock for writing from BEGIN on.
	Immediate bool
	// Pragmas are run on every new connection, for example "journal_mode(WAL)". Connect refuses a synchronous of less than FULL,
	// SQLite's default: a commit would be told to other connections before they can read it, see writeLog.
	Pragmas []string
}

// Driver implements driver.Connector.
func (c *Connector) Driver() driver.Driver { return opener{} }

type opener struct{}

// Open implements driver.Driver.
func (opener) Open(string) (driver.Conn, error) { return nil, errors.New("sqlite: needs a Connector") }

// cacheSize is how many compiled statements a connection keeps, a few KB each.
const cacheSize = 128

// conn is one connection. Used by one goroutine at a time, as database/sql promises.
type conn struct {
	tls   *libc.TLS
	db    uintptr // sqlite3*
	out   uintptr // two pointers, for what SQLite returns by address
	begin string

	// The compiled statements by their text, the last used in front.
	statements map[string]*list.Element // of *stmt
	recent     *list.List
}

var (
	_ driver.ExecerContext  = (*conn)(nil)
	_ driver.QueryerContext = (*conn)(nil)
	_ driver.ConnBeginTx    = (*conn)(nil)
)

// Connect implements driver.Connector.
func (c *Connector) Connect(ctx context.Context) (_ driver.Conn, err error) {
	out := &conn{tls: libc.NewTLS(), begin: "BEGIN", statements: make(map[string]*list.Element), recent: list.New()}
	if c.Immediate {
		out.begin = "BEGIN IMMEDIATE"
	}
	defer func() {
		if err != nil {
			_ = out.Close()
		}
	}()
	if out.out, err = out.malloc(2 * int(pointerSize)); err != nil {
		return nil, err
	}
	if err = out.open(c.Path); err != nil {
		return nil, err
	}
	for _, pragma := range c.Pragmas {
		if _, err = out.ExecContext(ctx, "PRAGMA "+pragma, nil); err != nil {
			return nil, fmt.Errorf("pragma %s: %w", pragma, err)
		}
	}
	return out, out.checkSynchronous(ctx)
}

func (c *conn) checkSynchronous(ctx context.Context) error {
	rows, err := c.QueryContext(ctx, "PRAGMA synchronous", nil)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // always nil
	var level [1]driver.Value
	if err := rows.Next(level[:]); err != nil {
		return fmt.Errorf("pragma synchronous: %w", err)
	}
	const full = 2
	if n, ok := level[0].(int64); !ok || n < full {
		return fmt.Errorf("sqlite: synchronous is %v, and must be FULL (%d) or more", level[0], full)
	}
	return nil
}

func (c *conn) open(path string) error {
	name, err := libc.CString(path)
	if err != nil {
		return err
	}
	defer libc.Xfree(c.tls, name)
	keepPieces(c.tls)
	files, err := vfsName(c.tls)
	if err != nil {
		return err
	}
	const flags = sqlite3.SQLITE_OPEN_READWRITE | sqlite3.SQLITE_OPEN_CREATE | sqlite3.SQLITE_OPEN_NOMUTEX | sqlite3.SQLITE_OPEN_EXRESCODE
	code := sqlite3.Xsqlite3_open_v2(c.tls, name, c.out, flags, files)
	c.db = pointerAt(c.out)
	return c.check(code)
}

func (c *conn) malloc(n int) (uintptr, error) {
	if p := libc.Xmalloc(c.tls, types.Size_t(n)); p != 0 {
		return p, nil
	}
	return 0, fmt.Errorf("sqlite: no memory for %d bytes", n)
}

// Close implements driver.Conn.
func (c *conn) Close() error {
	for e := c.recent.Front(); e != nil; e = e.Next() {
		e.Value.(*stmt).finalize()
	}
	code := sqlite3.Xsqlite3_close_v2(c.tls, c.db)
	libc.Xfree(c.tls, c.out)
	c.tls.Close()
	if code != sqlite3.SQLITE_OK {
		return &Error{Code: int(code), message: "close"}
	}
	return nil
}

// ExecContext implements driver.ExecerContext. Several statements, divided by semicolons, have no arguments.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s, rest, err := c.take(query)
		if err != nil {
			return nil, err
		}
		if rest != "" && len(args) > 0 {
			err = errors.New("sqlite: several statements with arguments")
		}
		if s != nil {
			if err == nil {
				err = s.exec(args)
			}
			c.give(s)
		}
		if err != nil {
			return nil, err
		}
		if query = rest; query == "" {
			return result{
				id:   sqlite3.Xsqlite3_last_insert_rowid(c.tls, c.db),
				rows: int64(sqlite3.Xsqlite3_changes(c.tls, c.db)),
			}, nil
		}
	}
}

type result struct{ id, rows int64 }

func (r result) LastInsertId() (int64, error) { return r.id, nil }
func (r result) RowsAffected() (int64, error) { return r.rows, nil }

// QueryContext implements driver.QueryerContext, for one statement.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, rest, err := c.take(query)
	if err != nil {
		return nil, err
	}
	if s == nil || rest != "" {
		err = errors.New("sqlite: a query is one statement")
	} else {
		err = s.bind(args)
	}
	if err != nil {
		if s != nil {
			c.give(s)
		}
		return nil, err
	}
	return &rows{s}, nil
}

// BeginTx implements driver.ConnBeginTx. Every transaction is serializable.
func (c *conn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	if _, err := c.ExecContext(ctx, c.begin, nil); err != nil {
		return nil, err
	}
	return tx{c}, nil
}

// Begin implements driver.Conn.
func (c *conn) Begin() (driver.Tx, error) { return c.BeginTx(context.Background(), driver.TxOptions{}) }

type tx struct{ c *conn }

// Commit ends the transaction also if it fails.
func (t tx) Commit() error {
	_, err := t.c.ExecContext(context.Background(), "COMMIT", nil)
	if err != nil && sqlite3.Xsqlite3_get_autocommit(t.c.tls, t.c.db) == 0 {
		return errors.Join(err, t.Rollback())
	}
	return err
}

// Rollback ends the transaction, which some errors have done already.
func (t tx) Rollback() error {
	if sqlite3.Xsqlite3_get_autocommit(t.c.tls, t.c.db) != 0 {
		return nil
	}
	_, err := t.c.ExecContext(context.Background(), "ROLLBACK", nil)
	return err
}

// Prepare implements driver.Conn. There is nothing to do: what is run is kept.
func (c *conn) Prepare(query string) (driver.Stmt, error) { return prepared{c, query}, nil }

type prepared struct {
	c     *conn
	query string
}

func (p prepared) Close() error  { return nil }
func (p prepared) NumInput() int { return -1 }

func (p prepared) Exec(args []driver.Value) (driver.Result, error) {
	return p.c.ExecContext(context.Background(), p.query, named(args))
}

func (p prepared) Query(args []driver.Value) (driver.Rows, error) {
	return p.c.QueryContext(context.Background(), p.query, named(args))
}

func named(args []driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, v := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return out
}
