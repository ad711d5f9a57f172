package transport

import (
	"errors"
	"fmt"
	"io"

	im "github.com/hermod-im/hermod"
)

const (
	// firstRead is the size of a reader's first buffer, in bytes.
	firstRead = 2 << 10
	// maxRead is what the buffer of a busy reader grows to, in bytes, unless its limit is less. A larger frame takes more.
	maxRead = 64 << 10
)

// errAgain: the source has nothing now; call again when it has.
var errAgain = errors.New("would block")

var (
	errContinuation = fmt.Errorf("%w: continuation of nothing", im.ErrProtocol)
	errInterleaved  = fmt.Errorf("%w: new message within a fragmented one", im.ErrProtocol)
)

// frameReader turns bytes into frames, joining fragments. What it holds grows with the bytes that
// came, not with the length that the peer declares.
type frameReader struct {
	src     io.Reader
	codec   Codec
	limit   int
	buffers *buffers
	buf     *buffer // bytes not parsed yet; nil or empty at a frame's boundary

	msg   *buffer   // fragments so far; after fresh, the message last returned
	op    im.OpCode // of the fragmented message
	inMsg bool      // waiting for continuation frames
	full  bool      // the last read filled the buffer
	lends bool      // a frame may be in use when the reader is released: a client's, see Client.Read
}

// next returns the next control frame or whole message, valid until the next call. An error of the
// source (errAgain, a timeout) leaves the reader as it was.
func (r *frameReader) next() (Frame, error) {
	if r.msg != nil && !r.inMsg {
		r.buffers.put(r.msg)
		r.msg = nil
	}
	for {
		var b []byte
		if r.buf != nil {
			b = r.buf.unread()
		}
		f, n, err := r.codec.Parse(b, r.limit)
		if err != nil {
			return Frame{}, err
		}
		if n > len(b) {
			if err := r.fill(n); err != nil {
				return Frame{}, err
			}
			continue
		}
		r.buf.off += n
		if f, ok, err := r.join(f); ok || err != nil {
			return f, err
		}
	}
}

// join adds a frame to the message it belongs to; ok if there is something to return.
func (r *frameReader) join(f Frame) (_ Frame, ok bool, err error) {
	switch {
	case f.Op.IsControl():
		return f, true, nil
	case f.Op == im.OpContinuation && !r.inMsg:
		return f, false, errContinuation
	case f.Op != im.OpContinuation && r.inMsg:
		return f, false, errInterleaved
	case !r.inMsg && !f.More:
		return f, true, nil
	}
	if r.msg == nil {
		r.msg = r.buffers.get(len(f.Payload))
		r.op = f.Op
	}
	if len(r.msg.data)+len(f.Payload) > r.limit {
		return f, false, im.ErrFrameTooLarge
	}
	r.msg = r.buffers.grow(r.msg, len(f.Payload))
	r.msg.data = append(r.msg.data, f.Payload...)
	r.inMsg = f.More
	return Frame{Op: r.op, Payload: r.msg.data}, !f.More, nil
}

// fill reads once. need is the size of the frame at the start of the buffer, as far as known.
func (r *frameReader) fill(need int) error {
	r.makeRoom(need)
	b := r.buf
	n, err := r.src.Read(b.data[len(b.data):cap(b.data)])
	if n > 0 {
		b.data = b.data[:len(b.data)+n]
		r.full = len(b.data) == cap(b.data)
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if err == io.EOF && !r.idle() {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r *frameReader) makeRoom(need int) {
	b := r.buf
	switch {
	case b == nil:
		r.buf = r.buffers.get(firstRead)
	case b.off == len(b.data):
		b.data, b.off = b.data[:0], 0
		if r.full && cap(b.data) < min(maxRead, r.limit) {
			r.buf = r.buffers.grow(b, 2*cap(b.data))
		}
	case len(b.data) == cap(b.data), b.off+need > cap(b.data):
		if b.off > 0 {
			b.data, b.off = b.data[:copy(b.data, b.unread())], 0
		}
		if len(b.data) == cap(b.data) {
			r.buf = r.buffers.grow(b, cap(b.data))
		}
	}
	r.full = false
}

// add puts bytes that were read elsewhere before those of the source.
func (r *frameReader) add(p []byte) {
	if len(p) == 0 {
		return
	}
	if r.buf == nil {
		r.buf = r.buffers.get(max(len(p), firstRead))
	}
	r.buf = r.buffers.grow(r.buf, len(p))
	r.buf.data = append(r.buf.data, p...)
}

// take moves unparsed bytes to p: for those who read below the frames.
func (r *frameReader) take(p []byte) int {
	if r.buf == nil {
		return 0
	}
	n := copy(p, r.buf.unread())
	r.buf.off += n
	return n
}

// idle says that nothing is unfinished: no bytes and no fragments wait.
func (r *frameReader) idle() bool {
	return !r.inMsg && (r.buf == nil || r.buf.off == len(r.buf.data))
}

// release returns the buffers, or leaves them to the garbage collector.
func (r *frameReader) release() {
	if !r.lends {
		r.buffers.put(r.buf)
		r.buffers.put(r.msg)
	}
	r.buf, r.msg, r.inMsg = nil, nil, false
}

// forget drops what is unfinished and keeps the buffer.
func (r *frameReader) forget() {
	if r.buf != nil {
		r.buf.data, r.buf.off = r.buf.data[:0], 0
	}
	r.buffers.put(r.msg)
	r.msg, r.inMsg = nil, false
}

// split moves what is unfinished to a reader of its own; what is left here is to be forgotten.
func (r *frameReader) split() *frameReader {
	own := &frameReader{
		codec: r.codec, limit: r.limit, buffers: r.buffers,
		msg: r.msg, op: r.op, inMsg: r.inMsg,
	}
	own.add(r.buf.unread())
	r.msg, r.inMsg = nil, false
	return own
}
