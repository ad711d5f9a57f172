package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	_ "github.com/go-sql-driver/mysql" // database/sql's "mysql"

	"github.com/hermod-im/hermod/bench"
)

// usage is what the database has stored and flushed so far.
type usage struct {
	bytes  int64 // of messages and their indexes
	fsyncs int64 // of InnoDB, log and data
}

// usageOf asks MariaDB or MySQL.
func usageOf(ctx context.Context, dsn string) (u usage, err error) {
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "ANALYZE TABLE messages"); err != nil { // the sizes are of its statistics
		return u, fmt.Errorf("analyze messages: %w", err)
	}
	const sizes = "SELECT data_length + index_length FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'messages'"
	if err := db.QueryRowContext(ctx, sizes).Scan(&u.bytes); err != nil {
		return u, fmt.Errorf("size of messages: %w", err)
	}
	var name string
	if err := db.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE 'Innodb_data_fsyncs'").Scan(&name, &u.fsyncs); err != nil {
		return u, fmt.Errorf("fsyncs: %w", err)
	}
	return u, nil
}

// enoughStored is how many messages tell their size: a table grows by up to 4 MiB at once.
const enoughStored = 50_000

// since is the use of each of some messages.
func (u usage) since(before usage, messages int64) *bench.DatabaseUse {
	use := &bench.DatabaseUse{MessagesPerFsync: float64(messages) / float64(max(1, u.fsyncs-before.fsyncs))}
	if messages >= enoughStored {
		use.BytesPerMessage = float64(u.bytes-before.bytes) / float64(messages)
	}
	return use
}
