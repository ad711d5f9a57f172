package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/test/cost"
)

// lengthCodec is the smallest codec: op (its top bit: more follows), u32 length, payload.
type lengthCodec struct{}

func (lengthCodec) Parse(b []byte, maxPayload int) (f Frame, n int, err error) {
	if len(b) < 5 {
		return f, 5, nil
	}
	f.Op, f.More = im.OpCode(b[0]&0x7f), b[0]&0x80 != 0
	size := binary.BigEndian.Uint32(b[1:])
	if uint64(size) > uint64(maxPayload) {
		return f, 0, im.ErrFrameTooLarge
	}
	if n = 5 + int(size); n > len(b) {
		return f, n, nil
	}
	f.Payload = b[5:n]
	return f, n, nil
}

func (lengthCodec) AppendFrame(dst []byte, op im.OpCode, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, byte(op)), uint32(len(payload)))
	return append(dst, payload...)
}

func newTestReader(src io.Reader, limit int) *frameReader {
	return &frameReader{src: src, codec: lengthCodec{}, limit: limit, buffers: new(buffers)}
}

// The same frames come out whatever the pieces in which the bytes come in.
func TestReaderPieces(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var stream []byte
	var want [][]byte
	for i := range 400 {
		payload := make([]byte, random.IntN(3000)*(1+i%50/49*40))
		for j := range payload {
			payload[j] = byte(random.Uint32())
		}
		want = append(want, payload)
		head := payload
		for len(head) > 10 && random.IntN(3) == 0 { // fragments
			cut := random.IntN(len(head))
			op := im.OpBinary
			if len(head) < len(payload) {
				op = im.OpContinuation
			}
			stream = lengthCodec{}.AppendFrame(stream, op|0x80, head[:cut])
			head = head[cut:]
			if cut == 0 {
				break
			}
		}
		op := im.OpBinary
		if n := len(stream); len(head) < len(payload) || n > 0 && endsInFragment(stream) {
			op = im.OpContinuation
		}
		stream = lengthCodec{}.AppendFrame(stream, op, head)
	}
	for name, src := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r },
		"bytes": iotest.OneByteReader,
		"half":  iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestReader(src(bytes.NewReader(stream)), 1<<20)
			for i := range want {
				f, err := r.next()
				require.NoError(t, err)
				require.Equal(t, im.OpBinary, f.Op)
				require.True(t, bytes.Equal(want[i], f.Payload), "frame %d", i)
			}
			_, err := r.next()
			require.Equal(t, io.EOF, err)
			require.True(t, r.idle())
		})
	}
}

// endsInFragment says whether the last frame of the stream has its "more" bit set.
func endsInFragment(stream []byte) bool {
	more := false
	for len(stream) > 0 {
		f, n, _ := lengthCodec{}.Parse(stream, 1<<30)
		more, stream = f.More, stream[n:]
	}
	return more
}

func TestReaderEndsWithinAFrame(t *testing.T) {
	whole := lengthCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 10))
	_, err := newTestReader(bytes.NewReader(whole[:7]), 100).next()
	require.Equal(t, io.ErrUnexpectedEOF, err)

	fragment := lengthCodec{}.AppendFrame(nil, im.OpBinary|0x80, make([]byte, 10))
	_, err = newTestReader(bytes.NewReader(fragment), 100).next()
	require.Equal(t, io.ErrUnexpectedEOF, err)
}

// What a peer declares is not allocated: the buffer grows with what it sends (flaw 15).
func TestReaderAllocatesWhatCame(t *testing.T) {
	const limit = 64 << 20
	header := binary.BigEndian.AppendUint32([]byte{byte(im.OpBinary)}, limit)
	for _, came := range []int{0, 100, 10_000, 1 << 20} {
		r := newTestReader(bytes.NewReader(append(header[:5:5], make([]byte, came)...)), limit)
		_, err := r.next()
		require.Equal(t, io.ErrUnexpectedEOF, err)
		require.LessOrEqual(t, cap(r.buf.data), max(firstRead, 4*(came+5)), "%d bytes came", came)
	}
	tooLarge := binary.BigEndian.AppendUint32([]byte{byte(im.OpBinary)}, limit+1)
	r := newTestReader(bytes.NewReader(tooLarge), limit)
	_, err := r.next()
	require.Equal(t, im.ErrFrameTooLarge, err)
	require.Equal(t, firstRead, cap(r.buf.data))
}

// A busy reader gets a larger buffer, and reads in as few calls.
func TestReaderGrowsWhenBusy(t *testing.T) {
	frame := lengthCodec{}.AppendFrame(nil, im.OpBinary, make([]byte, 1019)) // 1 KiB
	r := newTestReader(bytes.NewReader(bytes.Repeat(frame, 1000)), 1<<20)
	for range 1000 {
		_, err := r.next()
		require.NoError(t, err)
	}
	require.Equal(t, maxRead, cap(r.buf.data))
}

// Nor than its frames: who may send small ones only has no large buffer for many of them.
func TestReaderGrowsToItsLimit(t *testing.T) {
	const limit = 4 << 10
	pings := bytes.Repeat(lengthCodec{}.AppendFrame(nil, im.OpPing, make([]byte, 123)), 1024)
	r := newTestReader(bytes.NewReader(pings), limit)
	for range 1024 {
		_, err := r.next()
		require.NoError(t, err)
	}
	require.Equal(t, limit, cap(r.buf.data))
}

func TestCostOfReader(t *testing.T) {
	var stream []byte
	for i := range 2000 {
		stream = lengthCodec{}.AppendFrame(stream, im.OpBinary, make([]byte, i%300))
	}
	src := bytes.NewReader(stream)
	r := newTestReader(src, 1<<20)
	cost.Allocs(t, "a frame", 0, func() {
		if _, err := r.next(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBuffers(t *testing.T) {
	var bs buffers
	for _, c := range []struct{ n, capacity int }{
		{0, 128}, {1, 128}, {128, 128}, {129, 256}, {64 << 10, 64 << 10}, {1 << 20, 1 << 20}, {1<<20 + 1, 1<<20 + 1},
	} {
		b := bs.get(c.n)
		require.Equal(t, c.capacity, cap(b.data), fmt.Sprint(c.n))
		require.Empty(t, b.data)
		bs.put(b)
	}
	b := bs.get(10)
	b.data = append(b.data, "0123456789"...)
	b.off, b.frames = 4, 3
	b = bs.grow(b, 1000)
	require.Equal(t, "456789", string(b.data))
	require.Equal(t, 3, b.frames)
	require.Zero(t, b.off)
	bs.put(nil)
}
