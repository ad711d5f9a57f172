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
	// Delivered are the messages that a push or a page of the offline index holds; of an ack, what its
	// channel was sent, in order; of the answer to one, up to where each conversation is acknowledged (To).
	Delivered []Delivered
}

// Delivered is a run of messages of one conversation.
type Delivered struct {
	Conversation int64
	// From and To are the seqs of the first and the last.
	From, To int64
	// MessageID is the id of the last; in a page of the offline index, that of the page's last message. 0 in
	// an ack where the messages are acknowledged only with what was sent behind them.
	MessageID int64
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
	fieldDelivered = 20

	fieldMetaKey   = 1
	fieldMetaValue = 2
	fieldMetaType  = 3

	fieldDeliveredConversation = 1
	fieldDeliveredFrom         = 2
	fieldDeliveredTo           = 3
	fieldDeliveredMessageID    = 4
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
	for i := range h.Delivered {
		dst = h.Delivered[i].append(dst)
	}
	return dst
}

func (d *Delivered) append(dst []byte) []byte {
	size := sizeVarint(uint64(d.Conversation)) + sizeVarint(uint64(d.From)) + sizeVarint(uint64(d.To)) + sizeVarint(uint64(d.MessageID))
	dst = protowire.AppendTag(dst, fieldDelivered, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = appendVarint(dst, fieldDeliveredConversation, uint64(d.Conversation))
	dst = appendVarint(dst, fieldDeliveredFrom, uint64(d.From))
	dst = appendVarint(dst, fieldDeliveredTo, uint64(d.To))
	return appendVarint(dst, fieldDeliveredMessageID, uint64(d.MessageID))
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
	return eachField(data, headerType, h.set)
}

// unmarshalClient keeps what a client may say and allocates nothing for the rest.
func (h *Header) unmarshalClient(data []byte) error {
	*h = Header{}
	return eachField(data, headerType, func(num protowire.Number, v uint64, b []byte) error {
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
		return eachField(b, metaType, h.Meta[len(h.Meta)-1].set)
	case fieldApp:
		return setString(&h.App, b)
	case fieldAccount:
		return setString(&h.Account, b)
	case fieldDevice:
		return setString(&h.Device, b)
	case fieldChannels:
		h.Channels = append(h.Channels, "")
		return setString(&h.Channels[len(h.Channels)-1], b)
	case fieldDelivered:
		h.Delivered = append(h.Delivered, Delivered{})
		return eachField(b, deliveredType, h.Delivered[len(h.Delivered)-1].set)
	}
	return nil
}

func (d *Delivered) set(num protowire.Number, v uint64, _ []byte) error {
	switch num {
	case fieldDeliveredConversation:
		d.Conversation = int64(v)
	case fieldDeliveredFrom:
		d.From = int64(v)
	case fieldDeliveredTo:
		d.To = int64(v)
	case fieldDeliveredMessageID:
		d.MessageID = int64(v)
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

// headerType, metaType and deliveredType are the types that a message's known fields must have.
func headerType(num protowire.Number) (protowire.Type, bool) {
	switch num {
	case fieldSequence, fieldFlag, fieldStatus:
		return protowire.VarintType, true
	case fieldCommand, fieldChannelID, fieldDest, fieldMeta, fieldApp, fieldAccount, fieldDevice, fieldChannels, fieldDelivered:
		return protowire.BytesType, true
	default:
		return 0, false
	}
}

func metaType(num protowire.Number) (protowire.Type, bool) {
	if num == fieldMetaType {
		return protowire.VarintType, true
	}
	return protowire.BytesType, num == fieldMetaKey || num == fieldMetaValue
}

func deliveredType(num protowire.Number) (protowire.Type, bool) {
	return protowire.VarintType, num >= fieldDeliveredConversation && num <= fieldDeliveredMessageID
}

// eachField calls set with the value of each known field of a message and skips the others. A known
// field of another type than its own is skipped too, as protobuf does.
func eachField(data []byte, typeOf func(protowire.Number) (protowire.Type, bool), set func(num protowire.Number, v uint64, b []byte) error) error {
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
		if want, known := typeOf(num); known && want == typ {
			if err := set(num, v, b); err != nil {
				return err
			}
		}
	}
	return nil
}
