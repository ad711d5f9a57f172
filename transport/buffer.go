package transport

import (
	"math/bits"
	"sync"
)

const (
	minBufferBits = 7  // 128 bytes: a close frame for each of a million channels is not much
	maxBufferBits = 20 // 1 MiB; larger ones are left to the garbage collector
)

// buffer is a borrowed slice with a read position: data[off:] is unread.
type buffer struct {
	data   []byte
	off    int
	frames int // queued in it, for the metrics
}

func (b *buffer) unread() []byte { return b.data[b.off:] }

// buffers lends buffers of powers of two. Safe for concurrent use.
type buffers struct {
	classes [maxBufferBits - minBufferBits + 1]sync.Pool
}

// get returns an empty buffer with room for n bytes.
func (bs *buffers) get(n int) *buffer {
	class := bufferClass(n)
	if class >= len(bs.classes) {
		return &buffer{data: make([]byte, 0, n)}
	}
	if b, ok := bs.classes[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{data: make([]byte, 0, 1<<(class+minBufferBits))}
}

// put takes b back; it may be nil. Nobody may hold on to its data.
func (bs *buffers) put(b *buffer) {
	if b == nil {
		return
	}
	class := bufferClass(cap(b.data))
	if class >= len(bs.classes) {
		return
	}
	b.data, b.off, b.frames = b.data[:0], 0, 0
	bs.classes[class].Put(b)
}

// grow returns b with room for n more bytes after its data: itself or a larger one.
func (bs *buffers) grow(b *buffer, n int) *buffer {
	if cap(b.data)-len(b.data) >= n {
		return b
	}
	larger := bs.get(max(len(b.data)+n, 2*cap(b.data)))
	larger.data = append(larger.data, b.unread()...)
	larger.frames = b.frames
	bs.put(b)
	return larger
}

// bufferClass is the smallest class that holds n bytes.
func bufferClass(n int) int {
	return max(bits.Len(uint(max(n, 1)-1))-minBufferBits, 0)
}
