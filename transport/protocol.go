package transport

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"unicode/utf8"

	im "github.com/hermod-im/hermod"
)

const (
	// MaxControl is the largest payload of a close, ping or pong frame, in bytes (RFC 6455, 5.5).
	MaxControl = 125
	// MaxHeader is the most that any codec puts before a payload, in bytes.
	MaxHeader = 14
)

// Codec frames and unframes bytes. It has no state; equal codecs (==) write the same bytes, so a
// frame made once may be queued to every channel of the codec.
type Codec interface {
	// Parse looks at the frame at the start of b. n is the size of that frame on the wire: the
	// frame is there if n ≤ len(b), otherwise at least n bytes are needed to go on. The payload
	// points into b, which may be changed (unmasked) once, when the frame is whole.
	// A payload above maxPayload is im.ErrFrameTooLarge as soon as its length is seen; broken
	// framing is im.ErrProtocol.
	Parse(b []byte, maxPayload int) (f Frame, n int, err error)
	// AppendFrame appends the payload as one final frame, at most MaxHeader bytes more.
	AppendFrame(dst []byte, op im.OpCode, payload []byte) []byte
}

// Protocol is the server's side of a transport.
type Protocol interface {
	Codec
	// Name is a label for logs and metrics.
	Name() string
	// Upgrade does what comes before the first frame on a fresh connection, whose deadline is set.
	// It returns what it has read beyond that.
	Upgrade(conn net.Conn) (rest []byte, err error)
}

// Frame is one frame on the wire, or one message joined from its fragments. Implements im.Frame.
type Frame struct {
	Op      im.OpCode
	Payload []byte
	// More says that continuation frames follow.
	More bool
}

var _ im.Frame = (*Frame)(nil)

// SetOpCode sets the kind of the frame.
func (f *Frame) SetOpCode(op im.OpCode) { f.Op = op }

// GetOpCode returns the kind of the frame.
func (f *Frame) GetOpCode() im.OpCode { return f.Op }

// SetPayload sets the payload, without a copy.
func (f *Frame) SetPayload(p []byte) { f.Payload = p }

// GetPayload returns the payload, without a copy.
func (f *Frame) GetPayload() []byte { return f.Payload }

// PeerClosedError is the close frame of the peer. errors.Is(err, io.EOF) is true.
type PeerClosedError struct {
	// Code is a WebSocket close code; 1005 if the frame had none.
	Code uint16
	Text string
}

// Error names the code and the text.
func (e *PeerClosedError) Error() string {
	return fmt.Sprintf("closed by peer: %d %s", e.Code, e.Text)
}

// Is makes a close frame an end of file.
func (e *PeerClosedError) Is(target error) bool { return target == io.EOF }

// codeNone stands for a close frame without a code (RFC 6455, 7.1.5).
const codeNone = 1005

// appendClose appends the payload of a close frame: the code, big-endian, and a text.
func appendClose(dst []byte, code uint16, text string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, code), text...)
}

var (
	errCloseCode = fmt.Errorf("%w: invalid close code", im.ErrProtocol)
	errCloseText = fmt.Errorf("%w: close text is no UTF-8", im.ErrProtocol)
	errText      = &im.CloseError{Reason: im.ReasonUnsupportedData}
)

// parseClose reads the payload of a close frame (RFC 6455, 5.5.1 and 7.4).
func parseClose(p []byte) (*PeerClosedError, error) {
	if len(p) == 0 {
		return &PeerClosedError{Code: codeNone}, nil
	}
	if len(p) == 1 {
		return nil, errCloseCode
	}
	code := binary.BigEndian.Uint16(p)
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
	default:
		return nil, errCloseCode
	}
	if !utf8.Valid(p[2:]) {
		return nil, errCloseText
	}
	return &PeerClosedError{Code: code, Text: string(p[2:])}, nil
}
