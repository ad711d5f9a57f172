package sqlite

import (
	"math/bits"
	"sync"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite balances a tree in a piece of scratch memory, one for each time that a page is full, of 8 to 16 KiB. The allocator of
// modernc.org/memory maps 64 KiB for a few pieces of such a size, and unmaps them when none is used: if all other maps are
// full, two mmaps, two munmaps and the page faults for each piece. This was 20 % of the CPU time of standalone with 16 messages of each
// sender under way, in some runs from beginning to end, in others not at all.
//
// So some freed pieces are kept for the next one who asks for their size.

const (
	// Sizes of pieces, as powers of 2: smaller ones share a map with many others.
	minPiece, maxPiece = 13, 16
	// mostPieces are kept of each size.
	mostPieces = 4
	// pieceHead is what SQLite's own allocator has before each piece.
	pieceHead = 8
)

// pieces are kept for the whole process, as SQLite's allocator is.
var pieces struct {
	once   sync.Once
	malloc func(tls *libc.TLS, size int32) uintptr // SQLite's own
	free   func(tls *libc.TLS, piece uintptr)
	sizeOf func(tls *libc.TLS, piece uintptr) int32

	mu   sync.Mutex
	kept [maxPiece - minPiece + 1][]uintptr // by size; guarded by mu
}

// keepPieces has SQLite use malloc and free. It does nothing if somebody else in the process has used SQLite before.
func keepPieces(tls *libc.TLS) {
	pieces.once.Do(func() {
		methods := libc.Xmalloc(tls, types.Size_t(unsafe.Sizeof(sqlite3.Tsqlite3_mem_methods{})))
		if methods == 0 {
			return
		}
		defer libc.Xfree(tls, methods)
		args := libc.NewVaList(methods)
		defer libc.Xfree(tls, args)
		if sqlite3.Xsqlite3_config(tls, sqlite3.SQLITE_CONFIG_GETMALLOC, args) != sqlite3.SQLITE_OK {
			return
		}
		m := inC[sqlite3.Tsqlite3_mem_methods](methods)
		pieces.malloc = function[func(*libc.TLS, int32) uintptr](m.FxMalloc)
		pieces.free = function[func(*libc.TLS, uintptr)](m.FxFree)
		pieces.sizeOf = function[func(*libc.TLS, uintptr) int32](m.FxSize)
		m.FxMalloc, m.FxFree = pointer(malloc), pointer(free)
		sqlite3.Xsqlite3_config(tls, sqlite3.SQLITE_CONFIG_MALLOC, args)
	})
}

// pieceOf is the class of pieces with room for the size.
func pieceOf(size int32) (class int, ok bool) {
	class = bits.Len32(uint32(size+pieceHead-1)) - minPiece
	return class, class >= 0 && class < len(pieces.kept)
}

// malloc is xMalloc. All pieces of a class have the same size.
func malloc(tls *libc.TLS, size int32) uintptr {
	class, ok := pieceOf(size)
	if !ok {
		return pieces.malloc(tls, size)
	}
	pieces.mu.Lock()
	if n := len(pieces.kept[class]); n > 0 {
		piece := pieces.kept[class][n-1]
		pieces.kept[class] = pieces.kept[class][:n-1]
		pieces.mu.Unlock()
		return piece
	}
	pieces.mu.Unlock()
	return pieces.malloc(tls, 1<<(class+minPiece)-pieceHead)
}

// free is xFree.
func free(tls *libc.TLS, piece uintptr) {
	size := pieces.sizeOf(tls, piece)
	class, ok := pieceOf(size)
	if ok && size == 1<<(class+minPiece)-pieceHead { // not one that was made smaller
		pieces.mu.Lock()
		if len(pieces.kept[class]) < mostPieces {
			pieces.kept[class] = append(pieces.kept[class], piece)
			pieces.mu.Unlock()
			return
		}
		pieces.mu.Unlock()
	}
	pieces.free(tls, piece)
}
