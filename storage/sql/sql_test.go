package sql_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/sql"
	"github.com/hermod-im/hermod/storage/storagetest"
	"github.com/hermod-im/hermod/test/component"
)

func TestMain(m *testing.M) { component.Main(m, component.KindMySQL) }

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

// sqliteOptions are those of a new database, in a file whose name is no URL.
func sqliteOptions(t testing.TB) sql.Options {
	return sql.Options{Driver: sql.DriverSQLite, DSN: filepath.Join(t.TempDir(), "a ? b%20.db")}
}

// mysqlOptions are those of a new database on the server.
func mysqlOptions(t testing.TB, server string) sql.Options {
	return sql.Options{Driver: sql.DriverMySQL, DSN: component.Database(t, server)}
}

func factory(o sql.Options) storagetest.MessagesFactory {
	return func(t testing.TB, ids storage.IDs) storagetest.MessageStore { return open(t, o, ids) }
}

func TestSQLite(t *testing.T) {
	storagetest.Messages(t, func(t *testing.T) storagetest.MessagesFactory { return factory(sqliteOptions(t)) })
}

func TestMariaDB(t *testing.T) {
	server := component.MySQL(t)
	storagetest.Messages(t, func(t *testing.T) storagetest.MessagesFactory { return factory(mysqlOptions(t, server)) })
}

// TestMySQL9 is part of the run where there is a MySQL 9: see component.MySQL9.
func TestMySQL9(t *testing.T) {
	server, ok := component.MySQL9(t)
	if !ok {
		return
	}
	storagetest.Messages(t, func(t *testing.T) storagetest.MessagesFactory { return factory(mysqlOptions(t, server)) })
}
