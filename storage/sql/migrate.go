package sql

import (
	"context"
	stdsql "database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// migrateLock names the lock of migrations, within the 64 characters that a server's lock name may
// have (MySQL 9 has no MD5), and migrateWait is how long one `hermod migrate` waits for another, in seconds.
const (
	migrateLock = "CONCAT('hermod migrate ', LEFT(SHA2(DATABASE(), 256), 32))"
	migrateWait = 60
)

// ErrSchema: the database's schema is not the one that this program needs. The error says what to do.
var ErrSchema = errors.New("database schema")

// Migrate brings the schema to the version this program needs, and returns the versions it applied.
// On MySQL several callers at once wait for each other; a SQLite file belongs to one process.
// A newer schema is left alone: see CheckSchema.
func (s *Store) Migrate(ctx context.Context) (applied []int64, err error) {
	folder, err := fs.Sub(migrations, "migrations/"+s.dialect.name)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	gooseDialect := goose.DialectMySQL
	if s.dialect.name == DriverSQLite {
		gooseDialect = goose.DialectSQLite3
	}
	provider, err := goose.NewProvider(gooseDialect, s.pools[0], folder, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	unlock, err := s.lockMigrations(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	results, err := provider.Up(ctx)
	for _, r := range results {
		applied = append(applied, r.Source.Version)
	}
	if err != nil {
		return applied, fmt.Errorf("migrate: %w", err)
	}
	return applied, nil
}

// lockMigrations takes a lock of the server, which lasts no longer than its connection. SQLite has none.
func (s *Store) lockMigrations(ctx context.Context) (unlock func() error, err error) {
	if s.dialect.name != DriverMySQL {
		return func() error { return nil }, nil
	}
	conn, err := s.pools[0].Conn(ctx)
	if err != nil {
		return nil, err
	}
	var got stdsql.NullInt64
	err = conn.QueryRowContext(ctx, "SELECT GET_LOCK("+migrateLock+", ?)", migrateWait).Scan(&got)
	if err == nil && got.Int64 != 1 {
		err = errors.New("another migration is running")
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() error {
		_, err := conn.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK("+migrateLock+")")
		return errors.Join(err, conn.Close())
	}, nil
}

// SchemaVersion returns the version of the database's schema, 0 for none, and the one that this
// program needs. It changes nothing.
func (s *Store) SchemaVersion(ctx context.Context) (current, needed int64, err error) {
	if needed, err = neededVersion(s.dialect.name); err != nil {
		return 0, 0, err
	}
	db := s.reader.WithContext(ctx)
	if !db.Migrator().HasTable(goose.DefaultTablename) {
		return 0, needed, s.Ping(ctx)
	}
	err = db.Raw("SELECT COALESCE(MAX(version_id), 0) FROM " + goose.DefaultTablename + " WHERE is_applied").Scan(&current).Error
	if err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	return current, needed, nil
}

// CheckSchema returns an error that wraps ErrSchema unless the schema is the one this program
// needs. A schema that is newer is accepted: nodes of two releases run beside each other while a
// cluster is updated, so migrations keep what the release before them uses.
func (s *Store) CheckSchema(ctx context.Context) error {
	current, needed, err := s.SchemaVersion(ctx)
	if err != nil {
		return err
	}
	if current < needed {
		return fmt.Errorf("%w is at version %d, this program needs %d: run `hermod migrate`", ErrSchema, current, needed)
	}
	return nil
}

// neededVersion is the largest number of the embedded migrations.
func neededVersion(dialect string) (needed int64, err error) {
	files, err := fs.Glob(migrations, path.Join("migrations", dialect, "*.sql"))
	if err != nil {
		return 0, fmt.Errorf("list migrations: %w", err)
	}
	for _, file := range files {
		number, _, _ := strings.Cut(path.Base(file), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("migration %s has no number: %w", file, err)
		}
		needed = max(needed, version)
	}
	return needed, nil
}
