// Package wire is hermod's protocol: packets, their header, commands and statuses. The bytes are
// those of docs/protocol.md; existing clients depend on them.
//
//	LogicPkt  c3 11 a3 65 · header length u32 · header (protobuf Header) · body length u32 · body (protobuf, by command)
//	BasicPkt  c3 15 a7 65 · code u16 · length u16 · body
//
// Integers are big-endian. One packet is the payload of one frame of the transport.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Magic is the first four bytes of a packet.
type Magic [4]byte

// The magics: of packets with a command, and of the heartbeat.
var (
	MagicLogicPkt = Magic{0xc3, 0x11, 0xa3, 0x65}
	MagicBasicPkt = Magic{0xc3, 0x15, 0xa7, 0x65}
)

// DefaultMaxPacket is the largest packet that Read accepts, in bytes, magic included.
const DefaultMaxPacket = 64 << 10

// Errors of a packet that cannot be read. All end the connection: what follows cannot be trusted.
var (
	// ErrMagic: the first four bytes are no magic.
	ErrMagic = errors.New("wire: magic code is incorrect")
	// ErrTooLarge: a length is above the limit; nothing was allocated for it.
	ErrTooLarge = errors.New("wire: packet too large")
	// ErrTruncated: the packet ends before its lengths say so.
	ErrTruncated = errors.New("wire: packet is truncated")
	// ErrTrailing: bytes are left behind the packet.
	ErrTrailing = errors.New("wire: bytes after the packet")
	// ErrHeader: the header is not a valid protobuf Header.
	ErrHeader = errors.New("wire: malformed header")
)

// Code is what a BasicPkt says.
type Code uint16

// The codes of a BasicPkt.
const (
	CodePing Code = 1
	CodePong Code = 2
)

// BasicPkt is the heartbeat packet.
type BasicPkt struct {
	Code Code
	Body []byte
}

// LogicPkt is a command with its header and body.
type LogicPkt struct {
	Header
	// Body is the command's protobuf message. Unmarshal makes it point into its input.
	Body []byte
}

// Read reads one packet, a *LogicPkt or a *BasicPkt, of at most DefaultMaxPacket bytes.
func Read(r io.Reader) (any, error) { return ReadLimit(r, DefaultMaxPacket) }

// ReadLimit is Read with a limit in bytes, magic included. The error is io.EOF if r ends before a packet begins.
func ReadLimit(r io.Reader, limit int) (any, error) {
	magic := Magic{}
	switch _, err := io.ReadFull(r, magic[:]); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, ErrTruncated
	case err != nil:
		return nil, err
	}
	switch magic {
	case MagicLogicPkt:
		p := new(LogicPkt)
		if err := p.decode(r, limit-len(magic)); err != nil {
			return nil, err
		}
		return p, nil
	case MagicBasicPkt:
		p := new(BasicPkt)
		if err := p.decode(r, limit-len(magic)); err != nil {
			return nil, err
		}
		return p, nil
	default:
		return nil, ErrMagic
	}
}

// Unmarshal parses the one packet that data holds, a *LogicPkt or a *BasicPkt, whose Body points into data.
func Unmarshal(data []byte) (any, error) {
	switch MagicOf(data) {
	case MagicLogicPkt:
		p := new(LogicPkt)
		if err := p.Unmarshal(data); err != nil {
			return nil, err
		}
		return p, nil
	case MagicBasicPkt:
		p := new(BasicPkt)
		if err := p.Unmarshal(data); err != nil {
			return nil, err
		}
		return p, nil
	default:
		return nil, ErrMagic
	}
}

// MagicOf returns the first four bytes of a packet; the zero Magic, which is none, of a shorter one.
func MagicOf(data []byte) Magic {
	if len(data) < len(Magic{}) {
		return Magic{}
	}
	return Magic(data)
}

// Marshal returns the packet's bytes. p is a *LogicPkt or a *BasicPkt.
func Marshal(p interface{ Append([]byte) []byte }) []byte { return p.Append(nil) }

// Unmarshal parses the one LogicPkt that data holds. p.Body points into data.
func (p *LogicPkt) Unmarshal(data []byte) error {
	header, body, err := cutLogicPkt(data)
	if err != nil {
		return err
	}
	p.Body = body
	return p.Header.Unmarshal(header)
}

// cutLogicPkt finds the header and the body of the one LogicPkt that data holds.
func cutLogicPkt(data []byte) (header, body []byte, err error) {
	if MagicOf(data) != MagicLogicPkt {
		return nil, nil, ErrMagic
	}
	header, rest, err := cutSection(data[len(Magic{}):])
	if err != nil {
		return nil, nil, err
	}
	body, rest, err = cutSection(rest)
	if err == nil && len(rest) > 0 {
		err = ErrTrailing
	}
	return header, body, err
}

// cutSection splits data behind a section of "length u32 · bytes".
func cutSection(data []byte) (section, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, ErrTruncated
	}
	n := binary.BigEndian.Uint32(data)
	data = data[4:]
	if uint64(n) > uint64(len(data)) {
		return nil, nil, ErrTruncated
	}
	return data[:n:n], data[n:], nil
}

// Append appends the packet's bytes to dst.
func (p *LogicPkt) Append(dst []byte) []byte {
	dst = append(dst, MagicLogicPkt[:]...)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	start := len(dst)
	dst = p.Header.Append(dst)
	binary.BigEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(p.Body)))
	return append(dst, p.Body...)
}

// Decode reads what follows the magic, up to DefaultMaxPacket.
func (p *LogicPkt) Decode(r io.Reader) error { return p.decode(r, DefaultMaxPacket-len(Magic{})) }

func (p *LogicPkt) decode(r io.Reader, limit int) error {
	header, err := readSection(r, limit)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	body, err := readSection(r, limit-len(header)-4)
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	p.Body = body
	return p.Header.Unmarshal(header)
}

// readChunk is what a length alone makes us allocate: beyond it, only what has arrived.
const readChunk = 4 << 10

// readSection reads "length u32 · bytes" of at most limit bytes. The length is checked before
// anything is allocated, and memory grows with what arrives.
func readSection(r io.Reader, limit int) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, truncated(err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if int64(n)+4 > int64(limit) {
		return nil, ErrTooLarge
	}
	length := int(n)
	data := make([]byte, min(length, readChunk))
	for have := 0; ; {
		if _, err := io.ReadFull(r, data[have:]); err != nil {
			return nil, truncated(err)
		}
		if have = len(data); have == length {
			return data, nil
		}
		data = append(data, make([]byte, min(length-have, have))...)
	}
}

// truncated turns the end of input inside a packet into ErrTruncated.
func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}

// Unmarshal parses the one BasicPkt that data holds. p.Body points into data.
func (p *BasicPkt) Unmarshal(data []byte) error {
	if MagicOf(data) != MagicBasicPkt {
		return ErrMagic
	}
	data = data[len(Magic{}):]
	if len(data) < 4 {
		return ErrTruncated
	}
	p.Code = Code(binary.BigEndian.Uint16(data))
	n := int(binary.BigEndian.Uint16(data[2:]))
	switch data = data[4:]; {
	case n > len(data):
		return ErrTruncated
	case n < len(data):
		return ErrTrailing
	}
	p.Body = data[:n:n]
	return nil
}

// Append appends the packet's bytes to dst. A body above 65,535 bytes is cut off.
func (p *BasicPkt) Append(dst []byte) []byte {
	body := p.Body[:min(len(p.Body), 1<<16-1)]
	dst = append(dst, MagicBasicPkt[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(p.Code))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(body)))
	return append(dst, body...)
}

// Decode reads what follows the magic.
func (p *BasicPkt) Decode(r io.Reader) error { return p.decode(r, DefaultMaxPacket-len(Magic{})) }

func (p *BasicPkt) decode(r io.Reader, limit int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return truncated(err)
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	if n+len(head) > limit {
		return ErrTooLarge
	}
	p.Code = Code(binary.BigEndian.Uint16(head[:]))
	p.Body = make([]byte, n)
	_, err := io.ReadFull(r, p.Body)
	return truncated(err)
}

// Ping and Pong are the heartbeat's bytes. Shared: do not change.
var (
	Ping = Marshal(&BasicPkt{Code: CodePing})
	Pong = Marshal(&BasicPkt{Code: CodePong})
)

// IsPing reports whether the payload is a ping, whatever its body.
func IsPing(payload []byte) bool { return bytes.HasPrefix(payload, Ping[:6]) }
