package sql

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"time"

	gormsqlite "github.com/glebarez/sqlite"
	mysqldriver "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage/sql/sqlite"
)

// dialect is where the two families of databases differ.
type dialect struct {
	name string
	// forUpdate locks the rows of a SELECT. SQLite has locked the whole database at BEGIN.
	forUpdate string
	// greatest is the function that returns its largest argument.
	greatest string
	// insert begins an INSERT whose failure ends the transaction.
	insert string
	// rows is how many rows one statement inserts at most.
	rows int
	// moves is how many conversations one statement moves on at most: its cost grows with the square.
	moves int
	// keys is how many rows, or parts of a condition, a statement asks for at most.
	keys int
	// packets: several statements travel together. See packet.
	packets bool
	// kept: the driver keeps statements compiled, so that they should not be of every size.
	kept bool
	// index makes a hint that keeps MySQL from scanning a table which its statistics call small:
	// under FOR UPDATE such a scan waits for rows that nobody asked for.
	index func(name string) string
	// straight fixes the order of a join.
	straight string
	// transient reports whether a transaction that failed with err before COMMIT may succeed when repeated.
	transient func(err error) bool
	// refused reports whether the server has answered, so that a failed COMMIT is known to have failed.
	refused func(err error) bool
}

var mysqlDialect = dialect{
	name:      DriverMySQL,
	forUpdate: " FOR UPDATE",
	greatest:  "GREATEST",
	insert:    "INSERT INTO ",
	// One round trip for most batches; 10 placeholders each stay far below MySQL's 65,535.
	rows:      1000,
	moves:     500,
	keys:      500,
	packets:   true,
	index:     func(name string) string { return " FORCE INDEX (" + name + ")" },
	straight:  "STRAIGHT_JOIN",
	transient: mysqlTransient,
	refused: func(err error) bool {
		var e *mysqldriver.MySQLError
		return errors.As(err, &e)
	},
}

var sqliteDialect = dialect{
	name:     DriverSQLite,
	greatest: "MAX",
	// FAIL: nothing is written to undo a statement that is undone with its transaction.
	insert: "INSERT OR FAIL INTO ",
	// There is no round trip to save.
	rows: 16,
	// A statement that changes one row needs no journal of its own.
	moves:     1,
	keys:      64,
	kept:      true,
	index:     func(string) string { return "" },
	straight:  "CROSS JOIN",
	transient: sqliteTransient,
	refused: func(err error) bool {
		var e *sqlite.Error
		return errors.As(err, &e)
	},
}

func mysqlTransient(err error) bool {
	var e *mysqldriver.MySQLError
	if !errors.As(err, &e) {
		return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysqldriver.ErrInvalidConn)
	}
	switch e.Number {
	case 1205, // lock wait timeout
		1213, // deadlock
		1020, // record has changed since last read (MariaDB, snapshot isolation)
		1053, // server shutdown in progress
		1927: // connection was killed (MariaDB)
		return true
	}
	return false
}

func sqliteTransient(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Primary() == sqlite.Busy || e.Primary() == sqlite.Locked)
}

// openMySQL opens a pool for what is written and another for what is read: pages that are slow to read leave the commits their
// connections. The writers are two at least, because a migration has one beside the one that holds its lock.
func (s *Store) openMySQL(o Options) error {
	cfg, err := mysqldriver.ParseDSN(o.DSN)
	if err != nil {
		return err
	}
	// One round trip a statement instead of prepare, execute, close.
	cfg.InterpolateParams = true
	// A transaction in one round trip. Whatever comes from outside is an argument, or quoted by appendBinary.
	cfg.MultiStatements = true
	// The driver's logger would write to stderr what it returns as an error too.
	cfg.Logger = &mysqldriver.NopLogger{}
	// A server that became read-only in a failover is left instead of failing every statement.
	cfg.RejectReadOnly = true
	for timeout, fallback := range map[*time.Duration]time.Duration{
		&cfg.Timeout: 5 * time.Second, &cfg.ReadTimeout: 30 * time.Second, &cfg.WriteTimeout: 30 * time.Second,
	} {
		if *timeout == 0 {
			*timeout = fallback
		}
	}
	inner, err := mysqldriver.NewConnector(cfg)
	if err != nil {
		return err
	}
	open := func(conns int) (*gorm.DB, error) {
		pool := stdsql.OpenDB(sessionConnector{inner})
		pool.SetMaxOpenConns(conns)
		pool.SetMaxIdleConns(conns)
		pool.SetConnMaxLifetime(o.ConnMaxLifetime)
		pool.SetConnMaxIdleTime(frozenAfter / 2) // before the server closes it
		s.pools = append(s.pools, pool)
		return wrap(mysql.New(mysql.Config{Conn: pool, DSNConfig: cfg, SkipInitializeWithVersion: true}))
	}
	writers := max(2, o.MaxOpenConns/2)
	if s.writer, err = open(writers); err != nil {
		return err
	}
	s.reader, err = open(max(1, o.MaxOpenConns-writers))
	return err
}

// sessionConnector sets up every new connection. Not in the DSN, because the variable of the
// isolation level has one name in MySQL and another in MariaDB; this statement is the same.
type sessionConnector struct{ driver.Connector }

// READ COMMITTED: a transaction that waited for a conversation's lock must see what the one before
// it committed, and no gap is locked.
var sessionSetup = []string{
	"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
	"SET SESSION sql_mode = 'STRICT_ALL_TABLES'",
	// Whatever the DSN or init_connect says: in other character sets a backslash may be half of a character, which
	// would undo its escaping.
	"SET NAMES utf8mb4",
	fmt.Sprintf("SET SESSION wait_timeout = %d", int(frozenAfter.Seconds())),
	fmt.Sprintf("SET SESSION innodb_lock_wait_timeout = %d", int(lockWait.Seconds())),
}

// lockWait is how long a statement waits for a lock: less than anybody waits for a commit, so that none that was given up, whose
// message is in doubt, is executed much later. Who waited in vain tries again.
const lockWait = 5 * time.Second

// frozenAfter is after how long without a statement the server takes a connection for dead. A node that is
// frozen in the middle of a transaction holds its conversations' locks, its sockets being alive:
// until then nobody can write there.
const frozenAfter = 10 * time.Second

func (c sessionConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	for _, statement := range sessionSetup {
		if _, err := conn.(driver.ExecerContext).ExecContext(ctx, statement, nil); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("set up connection: %w", err)
		}
	}
	return conn, nil
}

// openSQLite opens one connection for writing, whose transactions are locked from BEGIN on so that
// none fails half-way for lack of the lock, and others for reading beside it.
func (s *Store) openSQLite(o Options) (err error) {
	if s.writer, err = s.sqlitePool(o.DSN, true, 1); err != nil {
		return err
	}
	s.reader, err = s.sqlitePool(o.DSN, false, max(4, runtime.GOMAXPROCS(0)))
	return err
}

// walPragma lets the log grow to 32 MB before its pages are copied to the database. Most commits write the
// same pages again, the ends of the conversations that are talked in, and only the last state of each is copied.
const walPragma = "wal_autocheckpoint(8000)"

func (s *Store) sqlitePool(path string, writes bool, conns int) (*gorm.DB, error) {
	if path == "" || path == ":memory:" {
		return nil, errors.New("sqlite needs a file")
	}
	pool := stdsql.OpenDB(&sqlite.Connector{
		Path:      path,
		Immediate: writes,
		// FULL: a commit has reached the disk before the sender is told (I1).
		Pragmas: []string{"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-16000)", walPragma},
	})
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	s.pools = append(s.pools, pool)
	return wrap(sqliteDialector{&gormsqlite.Dialector{Conn: pool}})
}

// sqliteDialector is gorm's, on our driver.
type sqliteDialector struct{ *gormsqlite.Dialector }

// Translate implements gorm.ErrorTranslator.
func (sqliteDialector) Translate(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) && (e.Code == sqlite.Unique || e.Code == sqlite.PrimaryKey) {
		return gorm.ErrDuplicatedKey
	}
	return err
}

// octets is a string that is bound and stored as bytes: compared byte by byte everywhere.
type octets string

// Value implements driver.Valuer.
func (b octets) Value() (driver.Value, error) { return []byte(b), nil }

// Scan implements sql.Scanner; NULL is "".
func (b *octets) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*b = ""
	case []byte:
		*b = octets(v)
	case string:
		*b = octets(v)
	default:
		return fmt.Errorf("cannot scan %T into octets", src)
	}
	return nil
}
