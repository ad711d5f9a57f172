package sqlite

import (
	"fmt"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// Error is an error of SQLite's.
type Error struct {
	// Code is the extended result code: https://www.sqlite.org/rescode.html.
	Code    int
	message string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("sqlite: %s (%d)", e.message, e.Code) }

// Primary is the code without its extension.
func (e *Error) Primary() int { return e.Code & 0xff }

// Codes that have a meaning to those who use a database.
const (
	Busy   = sqlite3.SQLITE_BUSY
	Locked = sqlite3.SQLITE_LOCKED
	// Unique and PrimaryKey are extended codes: there is such a row already.
	Unique     = sqlite3.SQLITE_CONSTRAINT_UNIQUE
	PrimaryKey = sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
)

// check is the error of a result code, which must be that of the connection's last call.
func (c *conn) check(code int32) error {
	if code == sqlite3.SQLITE_OK {
		return nil
	}
	return &Error{Code: int(code), message: libc.GoString(sqlite3.Xsqlite3_errmsg(c.tls, c.db))}
}
