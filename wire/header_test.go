package wire_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// The hand-written codec and protobuf's own must be one: same bytes out, same header in.
func TestHeaderEqualsProtobuf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHeader(t)
		ours := h.Append(nil)
		theirs, err := proto.MarshalOptions{Deterministic: true}.Marshal(toPB(&h))
		if err != nil {
			t.Fatal(err)
		}
		if string(ours) != string(theirs) {
			t.Fatalf("%+v:\nours     %x\nprotobuf %x", h, ours, theirs)
		}
		sameDecode(t, ours)
	})
}

// What protobuf refuses we refuse, what it accepts we read alike: on anything that nearly is a header.
func TestHeaderDecodesLikeProtobuf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.OneOf(
			rapid.Byte(),
			rapid.SampledFrom([]byte{0x0a, 0x12, 0x18, 0x20, 0x28, 0x32, 0x3a, 0x82, 0x8a, 0x9a, 0xa2, 0x01, 0x00, 0x80}),
		), 0, 24).Draw(t, "data")
		if rapid.Bool().Draw(t, "after a header") {
			h := drawHeader(t)
			data = append(h.Append(nil), data...)
		}
		sameDecode(t, data)
	})
}

func sameDecode(t interface{ Fatalf(string, ...any) }, data []byte) {
	var want pb.Header
	wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, &want)
	var got wire.Header
	err := got.Unmarshal(data)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%x: our error is %v, protobuf's %v", data, err, wantErr)
	}
	if err == nil && !proto.Equal(&want, toPB(&got)) {
		t.Fatalf("%x:\nours     %v\nprotobuf %v", data, toPB(&got), &want)
	}
}

func drawHeader(t *rapid.T) wire.Header {
	text := rapid.OneOf(rapid.Just(""), rapid.String())
	number := rapid.OneOf(rapid.Int32Range(0, 500), rapid.Int32())
	h := wire.Header{
		Command: wire.Command(rapid.OneOf(
			rapid.SampledFrom([]string{"", "chat.user.talk", "login.signin", "sync.hint", "chat.group.create"}), text).Draw(t, "command")),
		ChannelID: text.Draw(t, "channel"),
		Sequence:  rapid.Uint32().Draw(t, "sequence"),
		Flag:      wire.Flag(number.Draw(t, "flag")),
		Status:    wire.Status(number.Draw(t, "status")),
		Dest:      text.Draw(t, "dest"),
		Link: wire.Link{
			App: text.Draw(t, "app"), Account: text.Draw(t, "account"), Device: text.Draw(t, "device"),
			Channels: rapid.SliceOfN(text, 0, 4).Draw(t, "channels"),
		},
	}
	for range rapid.IntRange(0, 3).Draw(t, "metas") {
		h.Meta = append(h.Meta, wire.Meta{Key: text.Draw(t, "key"), Value: text.Draw(t, "value"), Type: wire.MetaType(number.Draw(t, "type"))})
	}
	int64s := rapid.OneOf(rapid.Int64Range(0, 500), rapid.Int64())
	for range rapid.IntRange(0, 3).Draw(t, "deliveries") {
		h.Delivered = append(h.Delivered, wire.Delivered{
			Conversation: int64s.Draw(t, "conversation"), From: int64s.Draw(t, "from"), To: int64s.Draw(t, "to"), MessageID: int64s.Draw(t, "message"),
		})
	}
	return h
}

func toPB(h *wire.Header) *pb.Header {
	out := &pb.Header{
		Command: string(h.Command), ChannelId: h.ChannelID, Sequence: h.Sequence, Flag: pb.Flag(h.Flag), Status: int32(h.Status),
		Dest: h.Dest, App: h.App, Account: h.Account, Device: h.Device, Channels: h.Channels,
	}
	for _, m := range h.Meta {
		out.Meta = append(out.Meta, &pb.Meta{Key: m.Key, Value: m.Value, Type: pb.MetaType(m.Type)})
	}
	for _, d := range h.Delivered {
		out.Delivered = append(out.Delivered, &pb.Delivered{Conversation: d.Conversation, From: d.From, To: d.To, MessageId: d.MessageID})
	}
	return out
}
