package sql_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/sql"
	"github.com/hermod-im/hermod/storage/storagetest"
)

// open opens and migrates a database, and closes it with the test.
func open(t testing.TB, o sql.Options, ids storage.IDs) *sql.Store {
	t.Helper()
	s, err := sql.Open(t.Context(), o, ids)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	_, err = s.Migrate(t.Context())
	require.NoError(t, err)
	return s
}

func sqliteOptions(t testing.TB) sql.Options {
	return sql.Options{Driver: sql.DriverSQLite, DSN: filepath.Join(t.TempDir(), "a ? b%20.db")}
}

func factory(o sql.Options) storagetest.MessagesFactory {
	return func(t testing.TB, ids storage.IDs) storagetest.MessageStore { return open(t, o, ids) }
}

func TestSQLite(t *testing.T) {
	storagetest.Messages(t, func(t *testing.T) storagetest.MessagesFactory { return factory(sqliteOptions(t)) })
}
