package sql_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

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

// cpuTime is what this process has used: wall-clock time on a shared machine is noise.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend stores batches of 100 messages of 64 bytes in 100 conversations.
func BenchmarkAppend(b *testing.B) {
	benchmarks(b, func(b *testing.B, o sql.Options) {
		s := open(b, o, fixed(b, 0))
		body := strings.Repeat("x", 64)
		n := 0
		batch := func() []*storage.Draft {
			drafts := make([]*storage.Draft, 100)
			for i := range drafts {
				n++
				drafts[i] = &storage.Draft{
					App: "app", Kind: storage.KindUser, Sender: fmt.Sprint("alice", i), Dest: fmt.Sprint("bob", i),
					ClientID: fmt.Sprint("client-", n), Type: 1, Body: body, SendTime: int64(n),
				}
			}
			return drafts
		}
		require.NoError(b, s.Append(b.Context(), batch()))
		b.ReportAllocs()
		b.ResetTimer()
		before := cpuTime(b)
		for b.Loop() {
			if err := s.Append(b.Context(), batch()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N)/100, "own-CPU-µs/message")
	})
}

// BenchmarkSyncNothing is a client with 1,000 conversations that has everything.
func BenchmarkSyncNothing(b *testing.B) {
	benchmarks(b, func(b *testing.B, o sql.Options) {
		s := open(b, o, fixed(b, 0))
		drafts := make([]*storage.Draft, 1000)
		for i := range drafts {
			drafts[i] = &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: fmt.Sprint("bob", i), Body: "x"}
		}
		require.NoError(b, s.Append(b.Context(), drafts))
		cursors := make(map[int64]int64)
		for _, d := range drafts {
			cursors[d.Conversation] = d.Seq
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := s.Sync(b.Context(), "app", "alice", cursors, 500); err != nil {
				b.Fatal(err)
			}
		}
	})
}
