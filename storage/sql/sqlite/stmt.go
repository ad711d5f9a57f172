package sqlite

import (
	"container/list"
	"database/sql/driver"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// stmt is a compiled statement.
type stmt struct {
	c       *conn
	query   string
	handle  uintptr // sqlite3_stmt*
	params  int
	columns []string
	// times are the columns that are declared as TIMESTAMP.
	times []bool // as SQLite's datetime() writes it
	// place is where the connection keeps it; nil if it does not.
	place *list.Element
	// running: another use of the same text needs a statement of its own.
	running bool
	// The bytes of the arguments, in C's memory.
	arena uintptr
	size  int
}

// take returns the first statement of the query, compiled, and the text behind it. nil: there was only a comment.
func (c *conn) take(query string) (s *stmt, rest string, err error) {
	if e, ok := c.statements[query]; ok && !e.Value.(*stmt).running {
		s = e.Value.(*stmt)
		c.recent.MoveToFront(e)
		s.running = true
		return s, "", nil
	}
	text, err := libc.CString(query)
	if err != nil {
		return nil, "", err
	}
	defer libc.Xfree(c.tls, text)
	tail := c.out + pointerSize
	code := sqlite3.Xsqlite3_prepare_v3(c.tls, c.db, text, int32(len(query)), sqlite3.SQLITE_PREPARE_PERSISTENT, c.out, tail)
	if err := c.check(code); err != nil {
		return nil, "", err
	}
	rest = strings.TrimSpace(query[pointerAt(tail)-text:])
	handle := pointerAt(c.out)
	if handle == 0 {
		return nil, rest, nil
	}
	s = &stmt{c: c, query: query, handle: handle, running: true, params: int(sqlite3.Xsqlite3_bind_parameter_count(c.tls, handle))}
	s.columns = make([]string, sqlite3.Xsqlite3_column_count(c.tls, handle))
	s.times = make([]bool, len(s.columns))
	for i := range s.columns {
		s.columns[i] = libc.GoString(sqlite3.Xsqlite3_column_name(c.tls, handle, int32(i)))
		s.times[i] = libc.GoString(sqlite3.Xsqlite3_column_decltype(c.tls, handle, int32(i))) == "TIMESTAMP"
	}
	if _, taken := c.statements[query]; !taken && rest == "" {
		s.place = c.recent.PushFront(s)
		c.statements[query] = s.place
	}
	return s, rest, nil
}

// give ends a use of the statement. Those that the connection keeps too many of are dropped.
func (c *conn) give(s *stmt) {
	// Its error is that of the last step again.
	sqlite3.Xsqlite3_reset(c.tls, s.handle)
	s.running = false
	if s.place == nil {
		s.finalize()
		return
	}
	for e := c.recent.Back(); e != nil && c.recent.Len() > cacheSize; {
		old := e.Value.(*stmt)
		before := e.Prev()
		if !old.running {
			delete(c.statements, old.query)
			c.recent.Remove(e)
			old.finalize()
		}
		e = before
	}
}

func (s *stmt) finalize() {
	sqlite3.Xsqlite3_finalize(s.c.tls, s.handle)
	libc.Xfree(s.c.tls, s.arena)
}

// exec runs the statement to its end.
func (s *stmt) exec(args []driver.NamedValue) error {
	if err := s.bind(args); err != nil {
		return err
	}
	for {
		switch code := sqlite3.Xsqlite3_step(s.c.tls, s.handle); code {
		case sqlite3.SQLITE_DONE:
			return nil
		case sqlite3.SQLITE_ROW:
		default:
			return s.c.check(code)
		}
	}
}

// bind sets the arguments, which are copied: SQLite reads them until the statement is given back.
func (s *stmt) bind(args []driver.NamedValue) error {
	if len(args) != s.params {
		return fmt.Errorf("sqlite: %d arguments for %d parameters", len(args), s.params)
	}
	if err := s.reserve(args); err != nil {
		return err
	}
	at := s.arena
	for i := range args {
		var code int32
		n := int32(i + 1)
		switch v := args[i].Value.(type) {
		case nil:
			code = sqlite3.Xsqlite3_bind_null(s.c.tls, s.handle, n)
		case int64:
			code = sqlite3.Xsqlite3_bind_int64(s.c.tls, s.handle, n, v)
		case float64:
			code = sqlite3.Xsqlite3_bind_double(s.c.tls, s.handle, n, v)
		case bool:
			code = sqlite3.Xsqlite3_bind_int64(s.c.tls, s.handle, n, int64(libc.Bool32(v)))
		case string:
			copy(bytesAt(at, len(v)), v)
			code = sqlite3.Xsqlite3_bind_text(s.c.tls, s.handle, n, at, int32(len(v)), static)
			at += uintptr(len(v))
		case []byte:
			if v == nil {
				code = sqlite3.Xsqlite3_bind_null(s.c.tls, s.handle, n)
				break
			}
			copy(bytesAt(at, len(v)), v)
			code = sqlite3.Xsqlite3_bind_blob(s.c.tls, s.handle, n, at, int32(len(v)), static)
			at += uintptr(len(v))
		default:
			return fmt.Errorf("sqlite: cannot bind a %T", v)
		}
		if err := s.c.check(code); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of what a statement keeps for its arguments, in bytes: not what a large body has needed once.
const (
	minArena  = 512
	keptArena = 1 << 20
)

// reserve makes room for the bytes of the arguments.
func (s *stmt) reserve(args []driver.NamedValue) (err error) {
	need := 1 // where an empty argument points to
	for i := range args {
		switch v := args[i].Value.(type) {
		case string:
			need += len(v)
		case []byte:
			need += len(v)
		}
	}
	if need <= s.size && (s.size <= keptArena || need > keptArena) {
		return nil
	}
	if need > math.MaxInt32 {
		return fmt.Errorf("sqlite: arguments of %d bytes", need)
	}
	libc.Xfree(s.c.tls, s.arena)
	s.arena, s.size = 0, 0
	need = max(need, minArena)
	if s.arena, err = s.c.malloc(need); err == nil {
		s.size = need
	}
	return err
}

// rows are the answer to a query, as it is computed.
type rows struct{ s *stmt }

// Columns implements driver.Rows.
func (r *rows) Columns() []string { return r.s.columns }

// Close implements driver.Rows.
func (r *rows) Close() error {
	r.s.c.give(r.s)
	return nil
}

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error {
	tls, handle := r.s.c.tls, r.s.handle
	switch code := sqlite3.Xsqlite3_step(tls, handle); code {
	case sqlite3.SQLITE_ROW:
	case sqlite3.SQLITE_DONE:
		return io.EOF
	default:
		return r.s.c.check(code)
	}
	for i := range dest {
		n := int32(i)
		switch sqlite3.Xsqlite3_column_type(tls, handle, n) {
		case sqlite3.SQLITE_INTEGER:
			dest[i] = sqlite3.Xsqlite3_column_int64(tls, handle, n)
		case sqlite3.SQLITE_FLOAT:
			dest[i] = sqlite3.Xsqlite3_column_double(tls, handle, n)
		case sqlite3.SQLITE_NULL:
			dest[i] = nil
		case sqlite3.SQLITE_TEXT:
			dest[i] = string(r.bytes(n))
			if r.s.times[i] {
				if t, err := time.Parse(time.DateTime, string(r.bytes(n))); err == nil {
					dest[i] = t
				}
			}
		default:
			dest[i] = append([]byte{}, r.bytes(n)...)
		}
	}
	return nil
}

// bytes is a column of the current row, which is SQLite's.
func (r *rows) bytes(column int32) []byte {
	tls, handle := r.s.c.tls, r.s.handle
	at := sqlite3.Xsqlite3_column_blob(tls, handle, column)
	return bytesAt(at, int(sqlite3.Xsqlite3_column_bytes(tls, handle, column)))
}

// static tells SQLite that the bytes stay where they are.
const static = 0

const pointerSize = unsafe.Sizeof(uintptr(0))

// bytesAt is memory of C's, which the garbage collector neither moves nor frees.
func bytesAt(at uintptr, n int) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), n)
}

// pointerAt is the pointer that C has stored there.
func pointerAt(at uintptr) uintptr { return **(**uintptr)(unsafe.Pointer(&at)) }
