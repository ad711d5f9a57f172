package sqlite

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

func TestPiecesAreKept(t *testing.T) {
	open(t)
	tls := libc.NewTLS()
	defer tls.Close()
	first := sqlite3.Xsqlite3_malloc(tls, 9_000)
	require.GreaterOrEqual(t, int(sqlite3.Xsqlite3_msize(tls, first)), 9_000)
	sqlite3.Xsqlite3_free(tls, first)
	second := sqlite3.Xsqlite3_malloc(tls, 16_000)
	require.Equal(t, first, second)
	require.GreaterOrEqual(t, int(sqlite3.Xsqlite3_msize(tls, second)), 16_000)
	sqlite3.Xsqlite3_free(tls, second)

	// One that has grown or shrunk is of no class.
	for _, size := range []int32{5_000, 20_000} {
		piece := sqlite3.Xsqlite3_realloc(tls, sqlite3.Xsqlite3_malloc(tls, 9_000), size)
		sqlite3.Xsqlite3_free(tls, piece)
		for _, again := range []int32{5_000, 9_000, 20_000} {
			piece := sqlite3.Xsqlite3_malloc(tls, again)
			require.GreaterOrEqual(t, int(sqlite3.Xsqlite3_msize(tls, piece)), int(again))
			clear(bytesAt(piece, int(again)))
			sqlite3.Xsqlite3_free(tls, piece)
		}
	}
}

// No piece is given to two at a time.
func TestPiecesOfManyThreads(t *testing.T) {
	open(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			tls := libc.NewTLS()
			defer tls.Close()
			for i := range 2_000 {
				var held [2 * mostPieces]uintptr
				for k := range held {
					size := int32(3_000 << ((i + k) % 6))
					held[k] = sqlite3.Xsqlite3_malloc(tls, size)
					for b := range bytesAt(held[k], 16) {
						bytesAt(held[k], 16)[b] = byte(g)
					}
				}
				for _, piece := range held {
					for _, b := range bytesAt(piece, 16) {
						if b != byte(g) {
							t.Errorf("thread %d has a piece of thread %d", g, b)
							return
						}
					}
					sqlite3.Xsqlite3_free(tls, piece)
				}
			}
		})
	}
	wg.Wait()
}
