package websocket

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/gobwas/ws"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

// The bits of a frame's first two bytes (RFC 6455, 5.2).
const (
	bitFin    = 0x80
	bitsRsv   = 0x70
	bitsOp    = 0x0f
	bitMask   = 0x80
	bitsLen   = 0x7f
	len16     = 126 // the length follows in 2 bytes
	len64     = 127 // in 8 bytes
	maskBytes = 4
)

var (
	errRsv      = fmt.Errorf("%w: reserved bits", im.ErrProtocol)
	errOpCode   = fmt.Errorf("%w: unknown opcode", im.ErrProtocol)
	errControl  = fmt.Errorf("%w: control frame fragmented or too long", im.ErrProtocol)
	errMask     = fmt.Errorf("%w: frame not masked", im.ErrProtocol)
	errNoMask   = fmt.Errorf("%w: masked frame from a server", im.ErrProtocol)
	errLength   = fmt.Errorf("%w: length not in its shortest form", im.ErrProtocol)
	errNegative = fmt.Errorf("%w: length above 2^63", im.ErrProtocol)
)

// serverCodec reads masked frames and writes unmasked ones.
type serverCodec struct{}

func (serverCodec) Parse(b []byte, maxPayload int) (transport.Frame, int, error) {
	return parse(b, maxPayload, true)
}

func (serverCodec) AppendFrame(dst []byte, op im.OpCode, payload []byte) []byte {
	return append(appendHeader(dst, op, len(payload), 0), payload...)
}

// clientCodec reads unmasked frames and writes masked ones.
type clientCodec struct{}

func (clientCodec) Parse(b []byte, maxPayload int) (transport.Frame, int, error) {
	return parse(b, maxPayload, false)
}

func (clientCodec) AppendFrame(dst []byte, op im.OpCode, payload []byte) []byte {
	var mask [maskBytes]byte
	binary.NativeEndian.PutUint32(mask[:], rand.Uint32())
	dst = appendHeader(dst, op, len(payload), bitMask)
	dst = append(dst, mask[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	ws.Cipher(dst[start:], mask, 0)
	return dst
}

// appendHeader appends all but the mask.
func appendHeader(dst []byte, op im.OpCode, size int, mask byte) []byte {
	dst = append(dst, bitFin|byte(op))
	switch {
	case size < len16:
		return append(dst, mask|byte(size))
	case size <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, mask|len16), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(dst, mask|len64), uint64(size))
	}
}

// parse reads one frame; see transport.Codec. It refuses as soon as the offending byte is there.
func parse(b []byte, maxPayload int, masked bool) (f transport.Frame, n int, err error) {
	if len(b) < 2 {
		return f, 2, nil
	}
	f.Op = im.OpCode(b[0] & bitsOp)
	f.More = b[0]&bitFin == 0
	short := b[1] & bitsLen
	switch {
	case b[0]&bitsRsv != 0:
		return f, 0, errRsv
	case f.Op > im.OpBinary && f.Op < im.OpClose || f.Op > im.OpPong:
		return f, 0, errOpCode
	case f.Op.IsControl() && (f.More || short > transport.MaxControl):
		return f, 0, errControl
	case masked && b[1]&bitMask == 0:
		return f, 0, errMask
	case !masked && b[1]&bitMask != 0:
		return f, 0, errNoMask
	}
	header, size := 2, uint64(short)
	switch short {
	case len16:
		if header += 2; len(b) < header {
			return f, header, nil
		}
		if size = uint64(binary.BigEndian.Uint16(b[2:])); size < len16 {
			return f, 0, errLength
		}
	case len64:
		if header += 8; len(b) < header {
			return f, header, nil
		}
		size = binary.BigEndian.Uint64(b[2:])
		switch {
		case size > math.MaxInt64:
			return f, 0, errNegative
		case size <= math.MaxUint16:
			return f, 0, errLength
		}
	}
	if size > uint64(maxPayload) {
		return f, 0, im.ErrFrameTooLarge
	}
	if masked {
		header += maskBytes
	}
	n = header + int(size)
	if len(b) < n {
		return f, n, nil
	}
	f.Payload = b[header:n:n]
	if masked {
		ws.Cipher(f.Payload, [maskBytes]byte(b[header-maskBytes:]), 0)
	}
	return f, n, nil
}
