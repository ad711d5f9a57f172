package sql_test

import (
	stdsql "database/sql"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/component"
)

// maxStored is what a message of 64 bytes may cost with its indexes, in bytes, when its client id is a UUID.
const maxStored = 290

// TestSize keeps an eye on what a stored message costs: it is most of what a database of messages is.
func TestSize(t *testing.T) {
	const conversations, size = 50, 1000
	// InnoDB takes megabytes at a time, so that the average means something only for many messages.
	const few, many = 10, 120
	fill := func(s storage.Messages, batches int) {
		for b := range batches {
			batch := make([]*storage.Draft, size)
			for i := range batch {
				batch[i] = &storage.Draft{
					App: "hermod", Kind: storage.KindUser, Sender: fmt.Sprint("alice", i%conversations), Dest: fmt.Sprint("bobby", i%conversations),
					ClientID: uuid.NewString(), Type: 1, Body: strings.Repeat("x", 64), SendTime: 1_700_000_000_000_000_000 + int64(b*size+i),
				}
			}
			require.NoError(t, s.Append(t.Context(), batch))
		}
	}
	o := sqliteOptions(t)
	s := open(t, o, fixed(t, 1))
	fill(s, few)
	require.NoError(t, s.Close())
	info, err := os.Stat(o.DSN)
	require.NoError(t, err)
	t.Logf("SQLite: %d bytes a message", info.Size()/(few*size))
	require.Less(t, info.Size(), int64(maxStored*few*size))

	o = mysqlOptions(t, component.MySQL(t))
	s = open(t, o, fixed(t, 1))
	fill(s, many)
	db, err := stdsql.Open("mysql", o.DSN)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("ANALYZE TABLE messages")
	require.NoError(t, err)
	var data, index int64
	err = db.QueryRow("SELECT data_length, index_length FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'messages'").Scan(&data, &index)
	require.NoError(t, err)
	t.Logf("MariaDB: %d + %d bytes a message", data/(many*size), index/(many*size))
	require.Less(t, data+index, int64(maxStored*many*size))
}
