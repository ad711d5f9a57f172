// Package sql keeps messages and groups in MySQL, MariaDB or SQLite through gorm: one code, one
// SQL, two dialects. The statements of Append and of the pages that clients read are written by
// hand, because their cost and their locks are what the system stands on.
//
// Lock order: rows of conversations by ascending id, then everything that belongs to them. Who
// adds messages, or adds or removes members, holds the conversation's row. Acks and read positions, which only
// grow, are moved without it.
package sql

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/hermod-im/hermod/storage"
)

// Drivers of Options.
const (
	DriverMySQL  = "mysql"
	DriverSQLite = "sqlite"
)

// Options of a store. Driver and DSN are required.
type Options struct {
	// Driver is DriverMySQL (MySQL 8 and later, MariaDB 10.11 and later) or DriverSQLite.
	Driver string
	// DSN is, for MySQL, user:password@tcp(host:port)/database?parameters as go-sql-driver/mysql
	// reads it, the parameters that hermod needs being added; for SQLite the path of the file, which
	// is made if missing, its folder not.
	DSN string
	// MaxOpenConns bounds the connections to MySQL, half of which are for what is written. Defaults to 16, at least 3. SQLite has
	// one writer and as many readers.
	MaxOpenConns int
	// ConnMaxLifetime is after how long a connection to MySQL is replaced, so that moved servers and
	// idle timeouts on the way do no harm. Defaults to 2 minutes.
	ConnMaxLifetime time.Duration
	// CachedConversations bounds the caches of the ids of conversations of two, and of the last seqs of those written to. Defaults to 200,000, about 250 B each.
	CachedConversations int
	// CachedMembers bounds the cache of groups' members, in accounts. Defaults to 1,000,000, about 40 B each.
	CachedMembers int
	// CachedCounts bounds the cache of how much is unread in conversations where that is much. Defaults
	// to 100,000, about 150 B each.
	CachedCounts int
	// Now is the clock of the times of creation and joining. Defaults to time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.MaxOpenConns <= 0 {
		o.MaxOpenConns = 16
	}
	if o.ConnMaxLifetime <= 0 {
		o.ConnMaxLifetime = 2 * time.Minute
	}
	if o.CachedConversations <= 0 {
		o.CachedConversations = 200_000
	}
	if o.CachedMembers <= 0 {
		o.CachedMembers = 1_000_000
	}
	if o.CachedCounts <= 0 {
		o.CachedCounts = 100_000
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Store is storage.Messages and storage.Groups. Safe for concurrent use, also by several processes
// on one database.
type Store struct {
	ids     storage.IDs
	dialect dialect
	now     func() time.Time
	// writer and reader are pools, so that no page that is slow to read keeps a message from being stored. On SQLite the writer is
	// one connection.
	writer, reader *gorm.DB
	pools          []*stdsql.DB // theirs, in this order

	conversations *otter.Cache[pair, int64]     // ids of conversations of two; they never change
	members       *otter.Cache[int64, *members] // of groups, valid for one member_version
	tallies       *otter.Cache[tallyKey, tally] // of messages, which never change
	ledger        ledger                        // of conversations that this process writes to

	// send is sendPacket, but for tests.
	send func(ctx context.Context, packet string) error
}

var (
	_ storage.Messages = (*Store)(nil)
	_ storage.Groups   = (*Store)(nil)
)

// Open connects to the database and checks that it answers. It does not touch the schema: see
// Migrate and CheckSchema. ids numbers what the store creates.
func Open(ctx context.Context, o Options, ids storage.IDs) (_ *Store, err error) {
	o = o.withDefaults()
	s := &Store{ids: ids, now: o.Now, ledger: ledger{most: o.CachedConversations, byID: make(map[int64]known)}}
	s.send = s.sendPacket
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	switch o.Driver {
	case DriverMySQL:
		s.dialect = mysqlDialect
		err = s.openMySQL(o)
	case DriverSQLite:
		s.dialect = sqliteDialect
		err = s.openSQLite(o)
	default:
		err = fmt.Errorf("unknown driver %q", o.Driver)
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err = s.Ping(ctx); err != nil {
		return nil, err
	}
	if s.conversations, err = otter.New(&otter.Options[pair, int64]{MaximumSize: o.CachedConversations}); err != nil {
		return nil, fmt.Errorf("conversation cache: %w", err)
	}
	if s.tallies, err = otter.New(&otter.Options[tallyKey, tally]{MaximumSize: o.CachedCounts}); err != nil {
		return nil, fmt.Errorf("count cache: %w", err)
	}
	s.members, err = otter.New(&otter.Options[int64, *members]{
		MaximumWeight: uint64(o.CachedMembers),
		Weigher:       func(_ int64, m *members) uint32 { return uint32(len(m.accounts)) + 1 },
	})
	if err != nil {
		return nil, fmt.Errorf("member cache: %w", err)
	}
	return s, nil
}

// wrap makes gorm of a pool. No implicit transactions, no prepared statements to leak, no logger:
// gorm's prints statements, and statements hold bodies.
func wrap(dialector gorm.Dialector) (*gorm.DB, error) {
	return gorm.Open(dialector, &gorm.Config{
		SkipDefaultTransaction: true,
		TranslateError:         true,
		DisableAutomaticPing:   true,
		Logger:                 logger.Discard,
	})
}

// Ping implements storage.Messages.
func (s *Store) Ping(ctx context.Context) error {
	for _, pool := range s.pools {
		if err := pool.PingContext(ctx); err != nil {
			return fmt.Errorf("ping database: %w", err)
		}
	}
	return nil
}

// Close closes the connections.
func (s *Store) Close() error {
	var errs []error
	for _, pool := range s.pools {
		errs = append(errs, pool.Close())
	}
	return errors.Join(errs...)
}

// PrimeIDs draws one id above everything stored. With a fixed node number it must be called before
// serving, because the clock may have stepped back since the last run; a leased number remembers
// its own high mark.
func (s *Store) PrimeIDs(ctx context.Context) error {
	var last int64
	err := s.reader.WithContext(ctx).
		Raw("SELECT COALESCE(MAX(v.id), 0) FROM (SELECT MAX(message_id) AS id FROM messages UNION ALL SELECT MAX(id) FROM conversations) v").
		Scan(&last).Error
	if err != nil {
		return fmt.Errorf("find the last id: %w", err)
	}
	_, err = s.ids.Next(last)
	return err
}
