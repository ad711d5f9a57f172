package oldclient

import (
	"encoding/binary"
)

const (
	magicLogic = 0xc311a365
	magicBasic = 0xc315a765

	codePing = 1
	codePong = 2

	flagRequest  = 0
	flagResponse = 1
	flagPush     = 2
)

// packet is a LogicPkt.
type packet struct {
	command   string
	channelID string
	sequence  uint32
	flag      int
	status    int
	dest      string
	body      []byte
}

func (p *packet) marshal() []byte {
	var header message
	header.string(1, p.command)
	header.string(2, p.channelID)
	header.int(3, int64(p.sequence))
	header.int(4, int64(p.flag))
	header.int(5, int64(p.status))
	header.string(6, p.dest)

	b := binary.BigEndian.AppendUint32(nil, magicLogic)
	b = binary.BigEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.body)))
	return append(b, p.body...)
}

func parsePacket(b []byte) (*packet, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != magicLogic {
		return nil, against("no LogicPkt: %.8x", b)
	}
	header, rest, err := section(b[4:])
	if err != nil {
		return nil, against("header: %w", err)
	}
	body, rest, err := section(rest)
	if err != nil {
		return nil, against("body: %w", err)
	}
	if len(rest) > 0 {
		return nil, against("%d bytes after the packet", len(rest))
	}
	p := &packet{body: body}
	meta := field{bytes: func([]byte) error { return nil }}
	fields := schema{
		1: stringInto(&p.command), 2: stringInto(&p.channelID), 3: intInto(&p.sequence), 4: intInto(&p.flag),
		5: intInto(&p.status), 6: stringInto(&p.dest), 7: meta,
	}
	// A header's fields from 16 on are between services: a client that sees one has been told a secret.
	if err := fields.decode(header, true); err != nil {
		return nil, against("header: %w", err)
	}
	return p, nil
}

func section(b []byte) (data, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, against("no length")
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, against("%d bytes announced, %d there", n, len(b))
	}
	return b[:n], b[n:], nil
}

func ping() []byte {
	b := binary.BigEndian.AppendUint32(nil, magicBasic)
	b = binary.BigEndian.AppendUint16(b, codePing)
	return binary.BigEndian.AppendUint16(b, 0)
}

func isBasic(b []byte) bool { return len(b) >= 4 && binary.BigEndian.Uint32(b) == magicBasic }

// parsePong is nil for a pong and nothing else.
func parsePong(b []byte) error {
	if len(b) != 8 || binary.BigEndian.Uint16(b[4:]) != codePong || binary.BigEndian.Uint16(b[6:]) != 0 {
		return against("no pong: %x", b)
	}
	return nil
}
