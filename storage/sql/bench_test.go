package sql_test

import (
	stdsql "database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/snowflake"
	"github.com/hermod-im/hermod/storage/sql"
	"github.com/hermod-im/hermod/test/component"
)

func benchmarks(b *testing.B, run func(b *testing.B, o sql.Options)) {
	b.Run("sqlite", func(b *testing.B) { run(b, sqliteOptions(b)) })
	b.Run("mariadb", func(b *testing.B) { run(b, mysqlOptions(b, component.MySQL(b))) })
}

func fixed(t testing.TB, number int64) storage.IDs {
	t.Helper()
	ids, err := snowflake.New(snowflake.Fixed(number))
	require.NoError(t, err)
	return ids
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs f as the benchmark's loop, and reports what it costs this process and a MySQL server:
// wall-clock time on a shared machine is noise.
func measure(b *testing.B, o sql.Options, f func() error) {
	b.Helper()
	server := func() time.Duration { return 0 }
	if o.Driver == sql.DriverMySQL {
		server = serverTime(b, o.DSN)
	}
	b.ReportAllocs()
	b.ResetTimer()
	own, theirs := cpuTime(b), server()
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuTime(b)-own).Microseconds())/float64(b.N), "own-CPU-µs/op")
	b.ReportMetric(float64((server()-theirs).Microseconds())/float64(b.N), "server-CPU-µs/op")
}

// serverTime reads the CPU time of the server, which runs on this machine.
func serverTime(b *testing.B, dsn string) func() time.Duration {
	b.Helper()
	db, err := stdsql.Open("mysql", dsn)
	require.NoError(b, err)
	defer db.Close()
	var file string
	require.NoError(b, db.QueryRow("SELECT @@pid_file").Scan(&file))
	pid, err := os.ReadFile(file)
	require.NoError(b, err)
	return func() time.Duration {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		require.NoError(b, err)
		_, rest, _ := strings.Cut(string(stat), ") ")
		const utime, stime, tick = 11, 12, 10 * time.Millisecond // fields behind the name, and their unit
		fields := strings.Fields(rest)
		u, err := strconv.Atoi(fields[utime])
		require.NoError(b, err)
		k, err := strconv.Atoi(fields[stime])
		require.NoError(b, err)
		return time.Duration(u+k) * tick
	}
}

// BenchmarkAppend stores batches of messages of 64 bytes, each in a conversation of its own out of 1,000. An op is a message.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 30, 100, 500} {
		b.Run(fmt.Sprint("batch-", size), func(b *testing.B) {
			benchmarks(b, func(b *testing.B, o sql.Options) { benchmarkAppend(b, o, size) })
		})
	}
}

func benchmarkAppend(b *testing.B, o sql.Options, size int) {
	const conversations = 1000
	s := open(b, o, fixed(b, 0))
	body, n := strings.Repeat("x", 64), 0
	batch := func(size int) error {
		drafts := make([]*storage.Draft, size)
		for i := range drafts {
			n++
			drafts[i] = &storage.Draft{
				App: "app", Kind: storage.KindUser, Sender: fmt.Sprint("alice", n%conversations), Dest: fmt.Sprint("bob", n%conversations),
				ClientID: uuid.NewString(), Type: 1, Body: body, SendTime: time.Now().UnixNano(),
			}
		}
		return s.Append(b.Context(), drafts)
	}
	require.NoError(b, batch(conversations))
	fsyncs := func() int { return 0 }
	if o.Driver == sql.DriverMySQL {
		fsyncs = serverFsyncs(b, o.DSN)
	}
	before := fsyncs()
	i := 0
	measure(b, o, func() (err error) {
		if i%size == 0 {
			err = batch(size)
		}
		i++
		return err
	})
	if o.Driver == sql.DriverMySQL {
		b.ReportMetric(float64(fsyncs()-before)/float64(b.N), "fsyncs/op")
	}
}

// serverFsyncs counts what InnoDB has had written to the disk, of its log and of its data.
func serverFsyncs(b *testing.B, dsn string) func() int {
	b.Helper()
	db, err := stdsql.Open("mysql", dsn)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	return func() (n int) {
		rows, err := db.Query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_data_fsyncs', 'Innodb_os_log_fsyncs')")
		require.NoError(b, err)
		defer rows.Close()
		for rows.Next() {
			var name string
			var value int
			require.NoError(b, rows.Scan(&name, &value))
			n = max(n, value) // the log's are among those of the data, where they are counted at all
		}
		require.NoError(b, rows.Err())
		return n
	}
}

// thousand is a store in which alice has 1,000 conversations, whose ids are returned, and a client that
// has everything: its cursors.
func thousand(b *testing.B, o sql.Options) (*sql.Store, map[int64]storage.Cursor) {
	b.Helper()
	s := open(b, o, fixed(b, 0))
	drafts := make([]*storage.Draft, 1000)
	for i := range drafts {
		drafts[i] = &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: fmt.Sprint("bob", i), Body: "x"}
	}
	require.NoError(b, s.Append(b.Context(), drafts))
	cursors := make(map[int64]storage.Cursor)
	for _, d := range drafts {
		cursors[d.Conversation] = storage.Cursor{Seq: d.Seq}
	}
	return s, cursors
}

// digests are what a client sends instead of these cursors.
func digests(cursors map[int64]storage.Cursor, buckets int) []storage.Digest {
	out := make([]storage.Digest, buckets)
	for id, c := range cursors {
		d := &out[id%int64(buckets)]
		d.Conversations++
		d.IDs += uint64(id % storage.DigestModulus)
		d.Seqs += uint64(c.Seq)
		d.Reads += uint64(c.ReadSeq)
	}
	return out
}

// BenchmarkSyncCursorsNothing is a client with 1,000 conversations that has everything, and says so of each.
func BenchmarkSyncCursorsNothing(b *testing.B) {
	benchmarks(b, func(b *testing.B, o sql.Options) {
		s, cursors := thousand(b, o)
		measure(b, o, func() error {
			_, err := s.Sync(b.Context(), "app", "alice", storage.SyncQuery{Cursors: cursors, Limit: 500})
			return err
		})
	})
}

// BenchmarkSyncDigestNothing is the same by 61 digests.
func BenchmarkSyncDigestNothing(b *testing.B) {
	benchmarks(b, func(b *testing.B, o sql.Options) {
		s, cursors := thousand(b, o)
		known := digests(cursors, 61)
		measure(b, o, func() error {
			stale, err := s.Stale(b.Context(), "app", "alice", known)
			require.Empty(b, stale)
			return err
		})
	})
}

// BenchmarkSyncDigestTen is the same with a new message in 10 of them: the digests, then the cursors in what is stale.
func BenchmarkSyncDigestTen(b *testing.B) {
	benchmarks(b, func(b *testing.B, o sql.Options) {
		s, cursors := thousand(b, o)
		known := digests(cursors, 61)
		for i := range 10 {
			d := &storage.Draft{App: "app", Kind: storage.KindUser, Sender: fmt.Sprint("bob", i*99), Dest: "alice", Body: "x"}
			require.NoError(b, s.Append(b.Context(), []*storage.Draft{d}))
		}
		measure(b, o, func() error {
			stale, err := s.Stale(b.Context(), "app", "alice", known)
			if err != nil {
				return err
			}
			q := storage.SyncQuery{Cursors: make(map[int64]storage.Cursor), Scope: storage.Scope{Buckets: 61, Only: stale}, Limit: 500}
			for id, c := range cursors {
				if q.Scope.Has(id) {
					q.Cursors[id] = c
				}
			}
			news, err := s.Sync(b.Context(), "app", "alice", q)
			require.Len(b, news.Deltas, 10)
			return err
		})
	})
}

// BenchmarkReadBehind is a device that reads on, one message at a time, with 100,000 unread ones beyond.
func BenchmarkReadBehind(b *testing.B) {
	benchmarks(b, func(b *testing.B, o sql.Options) {
		s := open(b, o, fixed(b, 0))
		var id int64
		for range 100 {
			drafts := make([]*storage.Draft, 1000)
			for i := range drafts {
				drafts[i] = &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "bob", Dest: "alice", Body: strings.Repeat("x", 64)}
			}
			require.NoError(b, s.Append(b.Context(), drafts))
			id = drafts[0].Conversation
		}
		seq := int64(0)
		measure(b, o, func() error {
			seq++
			at, _, err := s.Read(b.Context(), "app", "alice", id, seq)
			require.Equal(b, 100_000-min(seq, 100_000), at.Unread)
			return err
		})
	})
}
