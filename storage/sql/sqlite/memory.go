package sqlite

import (
	"sync"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
)

// SQLite balances a tree in a piece of scratch memory, one for each time that a page is full, of 8 to 16 KiB. The allocator of
// modernc.org/memory maps 64 KiB for three such pieces, and unmaps them when none is used: without others of the size,
// two mmaps, two munmaps and the page faults for each split of a page, which were 20 % of the CPU time of standalone
// with 16 messages of each sender under way. So some pieces are kept, beside which there is room.

const (
	// scratchSize is the largest that the allocator does not map by itself.
	scratchSize = 16 << 10
	// scratchPieces share a map; the allocator has its own notes in it.
	scratchPieces = 3
	// scratchMaps is how many maps stay: what else has this size and stays, too, may fill one of them.
	scratchMaps = 2
)

var scratch sync.Once

// keepScratch has the allocator keep maps for scratch memory, once in a process.
func keepScratch(tls *libc.TLS) {
	scratch.Do(func() {
		for range scratchMaps {
			var rest [scratchPieces - 1]uintptr
			libc.Xmalloc(tls, types.Size_t(scratchSize)) // never freed
			for i := range rest {
				rest[i] = libc.Xmalloc(tls, types.Size_t(scratchSize))
			}
			defer func() {
				for _, p := range rest {
					libc.Xfree(tls, p)
				}
			}()
		}
	})
}
