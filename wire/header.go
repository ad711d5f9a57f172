package wire

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Flag says what a LogicPkt is.
type Flag int32

// The flags of a header.
const (
	FlagRequest  Flag = 0
	FlagResponse Flag = 1
	FlagPush     Flag = 2
)

// MetaType is the type of a Meta's value.
type MetaType int32

// The types of a Meta.
const (
	MetaInt    MetaType = 0
	MetaString MetaType = 1
	MetaFloat  MetaType = 2
)

// Meta is a key and value that travels with a header.
type Meta struct {
	Key, Value string
	Type       MetaType
}

// Header is the header of a LogicPkt: protobuf Header of wire/proto/header.proto, coded by hand
// because the gateway codes one or two for every message.
type Header struct {
	Command   Command
	ChannelID string
	Sequence  uint32
	Flag      Flag
	Status    Status
	Dest      string
	Meta      []Meta

	// Link is what services tell each other and clients never see.
	Link
}

// Link is the part of a header that only exists between services.
type Link struct {
	// App, Account and Device are who the gateway has authenticated.
	App, Account, Device string
	// Channels are those that a push is for, all of the receiving gateway.
	Channels []string
}

// Field numbers of wire/proto/header.proto.
const (
	fieldCommand   = 1
	fieldChannelID = 2
	fieldSequence  = 3
	fieldFlag      = 4
	fieldStatus    = 5
	fieldDest      = 6
	fieldMeta      = 7
	fieldApp       = 16
	fieldAccount   = 17
	fieldDevice    = 18
	fieldChannels  = 19

	fieldMetaKey   = 1
	fieldMetaValue = 2
	fieldMetaType  = 3
)

// Append appends the header's protobuf bytes to dst.
func (h *Header) Append(dst []byte) []byte {
	dst = appendString(dst, fieldCommand, string(h.Command))
	dst = appendString(dst, fieldChannelID, h.ChannelID)
	dst = appendVarint(dst, fieldSequence, uint64(h.Sequence))
	dst = appendVarint(dst, fieldFlag, uint64(int64(h.Flag)))
	dst = appendVarint(dst, fieldStatus, uint64(int64(h.Status)))
	dst = appendString(dst, fieldDest, h.Dest)
	for i := range h.Meta {
		dst = h.Meta[i].append(dst)
	}
	dst = appendString(dst, fieldApp, h.App)
	dst = appendString(dst, fieldAccount, h.Account)
	dst = appendString(dst, fieldDevice, h.Device)
	for _, c := range h.Channels {
		dst = protowire.AppendTag(dst, fieldChannels, protowire.BytesType)
		dst = protowire.AppendString(dst, c)
	}
	return dst
}

func (m *Meta) append(dst []byte) []byte {
	size := sizeString(m.Key) + sizeString(m.Value) + sizeVarint(uint64(int64(m.Type)))
	dst = protowire.AppendTag(dst, fieldMeta, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = appendString(dst, fieldMetaKey, m.Key)
	dst = appendString(dst, fieldMetaValue, m.Value)
	return appendVarint(dst, fieldMetaType, uint64(int64(m.Type)))
}

// appendString and appendVarint leave out zero values, as proto3 does.
func appendString(dst []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	dst = protowire.AppendTag(dst, field, protowire.BytesType)
	return protowire.AppendString(dst, s)
}

func appendVarint(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, field, protowire.VarintType)
	return protowire.AppendVarint(dst, v)
}

// sizeString and sizeVarint are the sizes of what the above append for fields below 16.
func sizeString(s string) int {
	if s == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(s))
}

func sizeVarint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// Unmarshal parses a header, replacing all of h. Unknown fields are skipped. Errors wrap ErrHeader.
func (h *Header) Unmarshal(data []byte) error {
	*h = Header{}
	return eachField(data, h.set)
}

// unmarshalClient keeps what a client may say and allocates nothing for the rest.
func (h *Header) unmarshalClient(data []byte) error {
	*h = Header{}
	return eachField(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case fieldCommand, fieldSequence, fieldFlag, fieldDest:
			return h.set(num, v, b)
		default:
			return nil
		}
	})
}

// UnmarshalClient parses the one LogicPkt that data holds, written by a client: of its header only
// command, sequence, flag and dest are taken (protocol.md: the rest is never trusted). p.Body
// points into data.
func (p *LogicPkt) UnmarshalClient(data []byte) error {
	header, body, err := cutLogicPkt(data)
	if err != nil {
		return err
	}
	p.Body = body
	return p.unmarshalClient(header)
}

func (h *Header) set(num protowire.Number, v uint64, b []byte) error {
	switch num {
	case fieldCommand:
		return setCommand(&h.Command, b)
	case fieldChannelID:
		return setString(&h.ChannelID, b)
	case fieldSequence:
		h.Sequence = uint32(v)
	case fieldFlag:
		h.Flag = Flag(v)
	case fieldStatus:
		h.Status = Status(v)
	case fieldDest:
		return setString(&h.Dest, b)
	case fieldMeta:
		h.Meta = append(h.Meta, Meta{})
		return eachField(b, h.Meta[len(h.Meta)-1].set)
	case fieldApp:
		return setString(&h.App, b)
	case fieldAccount:
		return setString(&h.Account, b)
	case fieldDevice:
		return setString(&h.Device, b)
	case fieldChannels:
		h.Channels = append(h.Channels, "")
		return setString(&h.Channels[len(h.Channels)-1], b)
	}
	return nil
}

func (m *Meta) set(num protowire.Number, v uint64, b []byte) error {
	switch num {
	case fieldMetaKey:
		return setString(&m.Key, b)
	case fieldMetaValue:
		return setString(&m.Value, b)
	case fieldMetaType:
		m.Type = MetaType(v)
	}
	return nil
}

func setString(dst *string, b []byte) error {
	if !utf8.Valid(b) {
		return fmt.Errorf("%w: a string is not UTF-8", ErrHeader)
	}
	*dst = string(b)
	return nil
}

func setCommand(dst *Command, b []byte) error {
	if c, ok := internCommand(b); ok {
		*dst = c
		return nil
	}
	return setString((*string)(dst), b)
}

// wantType is the type that a known field must have; a Meta's fields 1-3 happen to have the same.
func wantType(num protowire.Number) (protowire.Type, bool) {
	switch num {
	case fieldSequence, fieldFlag, fieldStatus:
		return protowire.VarintType, true
	case fieldCommand, fieldChannelID, fieldDest, fieldMeta, fieldApp, fieldAccount, fieldDevice, fieldChannels:
		return protowire.BytesType, true
	default:
		return 0, false
	}
}

// eachField calls set with the value of each varint or length-delimited field of a message and
// skips the others. A known field of another type than its own is skipped too, as protobuf does.
func eachField(data []byte, set func(num protowire.Number, v uint64, b []byte) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrHeader, protowire.ParseError(n))
		}
		if num > protowire.MaxValidNumber {
			return fmt.Errorf("%w: field number %d", ErrHeader, num)
		}
		data = data[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrHeader, protowire.ParseError(n))
		}
		data = data[n:]
		if want, known := wantType(num); known && want == typ {
			if err := set(num, v, b); err != nil {
				return err
			}
		}
	}
	return nil
}
