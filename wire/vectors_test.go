package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// The golden vectors are bytes and what they mean, for every implementation of the protocol. Their
// bytes are made without package wire: headers and bodies by protobuf's own code, frames by hand.
// After a change: go test ./wire -run TestVectors -update
var update = flag.Bool("update", false, "write testdata/vectors.json again")

const vectorsFile = "testdata/vectors.json"

type vectors struct {
	About     []string          `json:"about"`
	Logic     []logicVector     `json:"logic"`
	Basic     []basicVector     `json:"basic"`
	Bodies    []bodyVector      `json:"bodies"`
	Malformed []malformedVector `json:"malformed"`
}

type logicVector struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
	// Header is message Header of header.proto in protobuf's JSON, enums as numbers.
	Header json.RawMessage `json:"header"`
	// Message names the body's message; "" for a packet without body.
	Message string          `json:"message,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
	BodyHex string          `json:"body_hex"`
}

type basicVector struct {
	Name    string `json:"name"`
	Hex     string `json:"hex"`
	Code    uint16 `json:"code"`
	BodyHex string `json:"body_hex"`
}

type bodyVector struct {
	Message string          `json:"message"`
	Hex     string          `json:"hex"`
	Fields  json.RawMessage `json:"fields"`
}

type malformedVector struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
	// Error is what parsing the bytes as one frame's payload finds.
	Error string `json:"error"`
	// Stream is what reading them from a stream with the default limit finds; "" like Error, "none" where a
	// stream cannot see it.
	Stream string `json:"stream,omitempty"`
}

var errorNames = map[string]error{
	"magic":     wire.ErrMagic,
	"too_large": wire.ErrTooLarge,
	"truncated": wire.ErrTruncated,
	"trailing":  wire.ErrTrailing,
	"header":    wire.ErrHeader,
}

func TestVectorsUpdate(t *testing.T) {
	if !*update {
		return
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	must(t, enc.Encode(makeVectors(t)))
	must(t, os.WriteFile(filepath.FromSlash(vectorsFile), b.Bytes(), 0o644))
}

func TestVectorsLogic(t *testing.T) {
	for _, v := range readVectors(t).Logic {
		t.Run(v.Name, func(t *testing.T) {
			data := unhex(t, v.Hex)
			var want pb.Header
			must(t, protojson.Unmarshal(v.Header, &want))

			var p wire.LogicPkt
			must(t, p.Unmarshal(data))
			diff(t, "header", fromPB(&want), p.Header)
			diff(t, "body", v.BodyHex, hex.EncodeToString(p.Body))
			if v.Message != "" {
				diff(t, "body", fromJSON(t, v.Message, v.Body), fromBytes(t, v.Message, p.Body))
			}
			diff(t, "bytes", v.Hex, hex.EncodeToString(p.Append(nil)))

			read, err := wire.Read(bytes.NewReader(data))
			must(t, err)
			diff(t, "read", &p, read.(*wire.LogicPkt))

			var client wire.LogicPkt
			must(t, client.UnmarshalClient(data))
			diff(t, "what a client may say", wire.Header{
				Command: p.Command, Sequence: p.Sequence, Flag: p.Flag, Dest: p.Dest,
			}, client.Header)
		})
	}
}

func TestVectorsBasic(t *testing.T) {
	for _, v := range readVectors(t).Basic {
		t.Run(v.Name, func(t *testing.T) {
			data := unhex(t, v.Hex)
			want := &wire.BasicPkt{Code: wire.Code(v.Code), Body: unhex(t, v.BodyHex)}
			got, err := wire.Unmarshal(data)
			must(t, err)
			diff(t, "packet", want, got)
			got, err = wire.Read(bytes.NewReader(data))
			must(t, err)
			diff(t, "read", want, got)
			diff(t, "bytes", v.Hex, hex.EncodeToString(wire.Marshal(want)))
			diff(t, "IsPing", want.Code == wire.CodePing, wire.IsPing(data))
		})
	}
}

func TestVectorsBodies(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	for _, v := range readVectors(t).Bodies {
		t.Run(v.Message, func(t *testing.T) {
			want := fromJSON(t, v.Message, v.Fields)
			diff(t, v.Message, want, fromBytes(t, v.Message, unhex(t, v.Hex)))
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
			must(t, err)
			diff(t, "bytes", v.Hex, hex.EncodeToString(data))
			seen[want.ProtoReflect().Descriptor().FullName()] = true
		})
	}
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		if d := m.Descriptor(); d.ParentFile().Package() == "hermod" && !seen[d.FullName()] && !isPart(d.Name()) {
			t.Errorf("message %s has no vector", d.FullName())
		}
		return true
	})
}

// isPart: messages that are fields of others and have their vectors there.
func isPart(n protoreflect.Name) bool {
	switch n {
	case "Header", "Meta", "MessageIndex", "MessageContent", "Message", "Cursor", "ConversationDelta", "Member", "Session":
		return true
	default:
		return false
	}
}

func TestVectorsMalformed(t *testing.T) {
	for _, v := range readVectors(t).Malformed {
		t.Run(v.Name, func(t *testing.T) {
			data := unhex(t, v.Hex)
			_, err := wire.Unmarshal(data)
			wantError(t, v.Error, err)

			stream := v.Stream
			if stream == "" {
				stream = v.Error
			}
			_, err = wire.Read(bytes.NewReader(data))
			wantError(t, stream, err)
		})
	}
}

func wantError(t *testing.T, name string, err error) {
	t.Helper()
	want, ok := errorNames[name]
	if !ok && name != "none" {
		t.Fatalf("unknown error name %q", name)
	}
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func readVectors(t *testing.T) (v vectors) {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(vectorsFile))
	must(t, err)
	must(t, json.Unmarshal(data, &v))
	return v
}

func makeVectors(t *testing.T) vectors {
	v := vectors{About: []string{
		"Golden vectors of docs/protocol.md: bytes in hex and what they mean.",
		"header, body and fields are in protobuf's JSON form: 64-bit integers as strings, enums as numbers, absent fields left out.",
		"malformed: error is what parsing the bytes as one packet finds, stream (where it differs) what reading them from a stream with a limit of 65,536 bytes finds.",
	}}
	for _, p := range logicPackets() {
		v.Logic = append(v.Logic, makeLogic(t, p))
	}
	v.Basic = []basicVector{
		makeBasic("ping", 1, nil),
		makeBasic("pong", 2, nil),
		makeBasic("ping with a body", 1, []byte("hi")),
		makeBasic("unknown code", 0xfffe, bytes.Repeat([]byte{0xff}, 300)),
	}
	for _, m := range bodies() {
		v.Bodies = append(v.Bodies, bodyVector{Message: nameOf(m), Hex: hex.EncodeToString(marshal(t, m)), Fields: toJSON(t, m)})
	}
	v.Malformed = malformed(t)
	return v
}

type logicPacket struct {
	name   string
	header *pb.Header
	body   proto.Message
}

func makeLogic(t *testing.T, p logicPacket) logicVector {
	v := logicVector{Name: p.name, Header: toJSON(t, p.header)}
	var body []byte
	if p.body != nil {
		body = marshal(t, p.body)
		v.Message, v.Body = nameOf(p.body), toJSON(t, p.body)
	}
	v.BodyHex = hex.EncodeToString(body)
	v.Hex = hex.EncodeToString(frameLogic(marshal(t, p.header), body))
	return v
}

func frameLogic(header, body []byte) []byte {
	b := []byte{0xc3, 0x11, 0xa3, 0x65}
	b = binary.BigEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

func makeBasic(name string, code uint16, body []byte) basicVector {
	return basicVector{Name: name, Hex: hex.EncodeToString(frameBasic(code, body)), Code: code, BodyHex: hex.EncodeToString(body)}
}

func frameBasic(code uint16, body []byte) []byte {
	b := []byte{0xc3, 0x15, 0xa7, 0x65}
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// bigID is above 2^53: a JSON number or a JavaScript number would lose its end.
const bigID = 1_957_322_889_216_000_001

const sentAt = 1_767_225_600_123_456_789

func logicPackets() []logicPacket {
	const request, response, push = pb.Flag_FLAG_REQUEST, pb.Flag_FLAG_RESPONSE, pb.Flag_FLAG_PUSH
	return []logicPacket{
		{"signin of an old client", &pb.Header{Command: "login.signin", Sequence: 1}, &pb.LoginReq{Token: "eyJh.eyJh.sig", Isp: "telecom", Zone: "zone-1", Tags: []string{"a", "b"}}},
		{"signin of a new client", &pb.Header{Command: "login.signin", Sequence: 1}, &pb.LoginReq{Token: "eyJh.eyJh.sig", Device: "phone-1", Platform: "ios", Features: []string{"sync"}}},
		{"answer to signin", &pb.Header{Command: "login.signin", ChannelId: "gw1-7", Sequence: 1, Flag: response}, &pb.LoginResp{ChannelId: "gw1-7", Account: "alice", Features: []string{"sync"}}},
		{"signin refused", &pb.Header{Command: "login.signin", Sequence: 1, Flag: response, Status: 105}, &pb.ErrorResp{Message: "the token has expired"}},
		{"kickout", &pb.Header{Command: "login.signin", Flag: push}, &pb.KickoutNotify{ChannelId: "gw1-7"}},
		{"kickout with reason", &pb.Header{Command: "login.signin", Flag: push}, &pb.KickoutNotify{ChannelId: "gw1-7", Reason: "platform", Device: "phone-2", Platform: "ios"}},
		{"rate limited", &pb.Header{Command: "chat.user.talk", Sequence: 2, Flag: response, Status: 302}, &pb.ErrorResp{Message: "slow down", RetryAfterMs: 1500}},
		{"go away", &pb.Header{Command: "gateway.goaway", Flag: push}, &pb.GoAway{DelayMs: 2500}},
		{"delivered, between services", &pb.Header{Command: "chat.talk.ack", ChannelId: "gw1-7", Sequence: 11, App: "demo", Account: "alice", Delivered: []*pb.Delivered{
			{Conversation: bigID, From: 7, To: 9, MessageId: bigID + 9}, {}, {Conversation: 1, From: 1, To: 1},
		}}, &pb.MessageAckReq{MessageId: bigID}},
		{"signout", &pb.Header{Command: "login.signout", Sequence: 9}, nil},
		{"user talk", &pb.Header{Command: "chat.user.talk", Sequence: 2, Dest: "bob"}, &pb.MessageReq{Type: 1, Body: "hello", Extra: "{}"}},
		{"user talk with client_id", &pb.Header{Command: "chat.user.talk", Sequence: 3, Dest: "bob"}, &pb.MessageReq{Type: 1, Body: "héllo 世界 👋", ClientId: "c-1"}},
		{"answer to user talk", &pb.Header{Command: "chat.user.talk", Sequence: 3, Flag: response, Dest: "bob"}, &pb.MessageResp{MessageId: bigID, SendTime: sentAt, Seq: 17, Conversation: "1957322889216000000"}},
		{"push of group talk", &pb.Header{Command: "chat.group.talk", Flag: push, Dest: "42"}, &pb.MessagePush{MessageId: bigID, Type: 2, Body: "https://example.com/a.png", Extra: "x", Sender: "alice", SendTime: sentAt, Seq: 1, Conversation: "42", ClientId: "c-2"}},
		{"ack", &pb.Header{Command: "chat.talk.ack", Sequence: 4}, &pb.MessageAckReq{MessageId: bigID}},
		{"sync hint", &pb.Header{Command: "sync.hint", Flag: push}, nil},
		{"error below 100", &pb.Header{Command: "chat.user.talk", Sequence: 5, Flag: response, Status: 99}, nil},
		{"largest sequence", &pb.Header{Command: "chat.sync", Sequence: 1<<32 - 1}, &pb.SyncReq{}},
		{"negative status", &pb.Header{Command: "chat.sync", Sequence: 6, Flag: response, Status: -1}, nil},
		{"unknown command", &pb.Header{Command: "x.y.z", Sequence: 7}, nil},
		{"empty header", &pb.Header{}, nil},
		{"meta", &pb.Header{Command: "chat.user.talk", ChannelId: "c", Sequence: 8, Dest: "bob", Meta: []*pb.Meta{
			{Key: "n", Value: "1", Type: pb.MetaType_META_INT}, {Key: "s", Value: "v", Type: pb.MetaType_META_STRING}, {Key: "f", Value: "1.5", Type: pb.MetaType_META_FLOAT}, {},
		}}, nil},
		{
			"between services", &pb.Header{Command: "chat.user.talk", ChannelId: "gw1-7", Sequence: 10, Flag: push, Dest: "bob", App: "demo", Account: "alice", Device: "phone-1", Channels: []string{"gw1-7", "", "gw1-9"}},
			&pb.MessagePush{MessageId: 1, Body: "x"},
		},
	}
}

func bodies() []proto.Message {
	message := func(seq int64) *pb.Message {
		return &pb.Message{MessageId: bigID + seq, Seq: seq, Sender: "alice", SendTime: sentAt, Type: 1, Body: "b", Extra: "e", ClientId: "c"}
	}
	session := &pb.Session{App: "demo", Account: "alice", Device: "phone-1", Platform: "ios", Channel: "gw1-7", Features: 1, LoginAt: sentAt}
	return []proto.Message{
		&pb.ErrorResp{Message: "no such group"},
		&pb.LoginReq{Token: "t", Isp: "i", Zone: "z", Tags: []string{"a", ""}},
		&pb.LoginReq{Token: "t", Device: "d", Platform: "web", Features: []string{"sync", "unheard-of"}},
		&pb.LoginResp{ChannelId: "c", Account: "alice"},
		&pb.LoginResp{ChannelId: "c", Account: "alice", Features: []string{"sync"}},
		&pb.KickoutNotify{ChannelId: "c"},
		&pb.MessageReq{Type: 4, Body: "b", Extra: "e"},
		&pb.MessageReq{Type: -1, Body: "b", ClientId: "c"},
		&pb.MessageResp{MessageId: bigID, SendTime: sentAt},
		&pb.MessageResp{MessageId: bigID, SendTime: sentAt, Seq: 1, Conversation: "42"},
		&pb.MessagePush{MessageId: bigID, Type: 1, Body: "b", Extra: "e", Sender: "alice", SendTime: sentAt},
		&pb.MessagePush{MessageId: bigID, Type: 1, Body: "b", Extra: "e", Sender: "alice", SendTime: sentAt, Seq: 3, Conversation: "42", ClientId: "c"},
		&pb.MessageAckReq{MessageId: bigID},
		&pb.MessageIndexReq{},
		&pb.MessageIndexReq{MessageId: bigID},
		&pb.MessageIndexResp{},
		&pb.MessageIndexResp{Indexes: []*pb.MessageIndex{{MessageId: 1, Direction: 1, SendTime: sentAt, AccountB: "bob"}, {MessageId: 2, AccountB: "bob", Group: "42", Seq: 2, Conversation: "42"}}},
		&pb.MessageContentReq{MessageIds: []int64{1, bigID, 300}},
		&pb.MessageContentResp{Contents: []*pb.MessageContent{{MessageId: bigID, Type: 3, Body: "b", Extra: "e"}, {}}},
		&pb.SyncReq{Cursors: []*pb.Cursor{{Conversation: "42", Seq: 7}, {Conversation: "43"}}, Limit: 200},
		&pb.SyncResp{Conversations: []*pb.ConversationDelta{
			{Conversation: "42", Group: "42", LastSeq: 9, JoinedSeq: 3, Messages: []*pb.Message{message(8), message(9)}},
			{Conversation: "43", Peer: "bob", LastSeq: 1, Messages: []*pb.Message{message(1)}},
		}, More: true},
		&pb.SyncReq{Buckets: 3, Digests: []*pb.Digest{{Conversations: 2, Ids: 85, Seqs: 7, Reads: proto.Uint64(0)}, {}, {Conversations: 1}}},
		&pb.SyncReq{Buckets: 3, Only: []uint32{0, 2}, Cursors: []*pb.Cursor{{Conversation: "42", Seq: 7, ReadSeq: proto.Int64(5)}}},
		&pb.Digest{Conversations: 2, Ids: 1<<40 + 1, Seqs: 1<<63 + 1, Reads: proto.Uint64(9)},
		&pb.SyncResp{Stale: []uint32{0, 2}},
		&pb.SyncResp{Conversations: []*pb.ConversationDelta{{Conversation: "42", Group: "42", LastSeq: 9, ReadSeq: 7, Unread: 2}}, Gone: []string{"41"}},
		&pb.ReadReq{Conversation: "42", Seq: 9},
		&pb.ReadResp{Seq: 9, Unread: 1, LastSeq: 10},
		&pb.ReadNotify{Conversation: "42", Seq: 9, Unread: 1, LastSeq: 10},
		&pb.GoAway{DelayMs: 2500},
		&pb.Delivered{Conversation: 42, From: 7, To: 9, MessageId: bigID},
		&pb.HistoryReq{Conversation: "42", BeforeSeq: 100, Limit: 50},
		&pb.HistoryReq{Peer: "bob"},
		&pb.HistoryReq{Group: "42"},
		&pb.HistoryResp{Conversation: "42", Messages: []*pb.Message{message(1)}, LastSeq: 9, JoinedSeq: 0},
		&pb.GroupCreateReq{Name: "n", Avatar: "a", Introduction: "i", Owner: "o", Members: []string{"alice", "bob"}},
		&pb.GroupCreateResp{GroupId: "42"},
		&pb.GroupCreateNotify{GroupId: "42", Members: []string{"alice", "bob"}},
		&pb.GroupJoinReq{Account: "carol", GroupId: "42"},
		&pb.GroupJoinNotify{GroupId: "42", Account: "carol"},
		&pb.GroupQuitReq{Account: "carol", GroupId: "42"},
		&pb.GroupQuitNotify{GroupId: "42", Account: "carol"},
		&pb.GroupGetReq{GroupId: "42"},
		&pb.GroupGetResp{Id: "42", Name: "n", Avatar: "a", Introduction: "i", Owner: "alice", Members: []*pb.Member{{Account: "alice", Alias: "Al", Avatar: "a", JoinTime: sentAt}}, CreatedAt: sentAt},
		&pb.LinkHello{Version: 1, Service: "gateway", Instance: "gw1-x", Nonce: []byte{0, 1, 255}, Proof: []byte{9}},
		&pb.LinkPushes{Packets: [][]byte{{0xc3, 0x11, 0xa3, 0x65}, {}}},
		&pb.LeaseRenewReq{Gateway: "gw1-x", LeaseMs: 30000, Stamp: 1233, Told: 4},
		&pb.LeaseRenewResp{Lost: true, Missed: &pb.Missed{Channels: []string{"gw1-x.7"}, Kicked: []string{"gw1-x.8"}, All: true, UpTo: 9}},
		&pb.Missed{Channels: []string{"gw1-x.7"}, UpTo: 1767225600000000},
		&pb.SessionRestoreReq{Gateway: "gw1-x", Sessions: []*pb.Session{session}},
		&pb.SessionEndReq{Sessions: []*pb.Session{session, {App: "demo", Channel: "gw1-8"}}},
		&pb.SessionRestoreResp{Displaced: []string{"gw1-7"}, Stamp: 1234},
	}
}

func malformed(t *testing.T) []malformedVector {
	ok := frameLogic(marshal(t, &pb.Header{Command: "chat.user.talk", Sequence: 1, Dest: "bob"}), []byte{0x12, 1, 'x'})
	logic := func(header ...byte) []byte { return frameLogic(header, nil) }
	magicLogic := []byte{0xc3, 0x11, 0xa3, 0x65}
	magicBasic := []byte{0xc3, 0x15, 0xa7, 0x65}
	v := func(name, err, stream string, parts ...[]byte) malformedVector {
		return malformedVector{Name: name, Hex: hex.EncodeToString(bytes.Join(parts, nil)), Error: err, Stream: stream}
	}
	return []malformedVector{
		v("three bytes", "magic", "truncated", magicLogic[:3]),
		v("no magic", "magic", "", []byte{0, 0, 0, 0, 0, 0, 0, 0}),
		v("one bit of the magic is wrong", "magic", "", []byte{0xc3, 0x11, 0xa3, 0x64, 0, 0, 0, 0, 0, 0, 0, 0}),
		v("HTTP", "magic", "", []byte("GET / HTTP/1.1\r\n")),

		v("logic: magic only", "truncated", "", magicLogic),
		v("logic: half a header length", "truncated", "", magicLogic, []byte{0, 0}),
		v("logic: header shorter than its length", "truncated", "", magicLogic, []byte{0, 0, 0, 5, 0x0a, 1}),
		v("logic: header length 4 GiB - 1", "truncated", "too_large", magicLogic, []byte{0xff, 0xff, 0xff, 0xff}),
		v("logic: header length with the sign bit", "truncated", "too_large", magicLogic, []byte{0x80, 0, 0, 0}),
		v("logic: header length just above the limit", "truncated", "too_large", magicLogic, []byte{0, 0, 0xff, 0xf9}),
		v("logic: no body length", "truncated", "", ok[:len(ok)-7]),
		v("logic: half a body length", "truncated", "", ok[:len(ok)-5]),
		v("logic: body shorter than its length", "truncated", "", ok[:len(ok)-1]),
		v("logic: body length 4 GiB - 1", "truncated", "too_large", magicLogic, []byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}),
		v("logic: header and body above the limit together", "truncated", "too_large", magicLogic, []byte{0, 0, 0, 2, 0x18, 1, 0, 0, 0xff, 0xf3}),
		v("logic: a byte too many", "trailing", "none", ok, []byte{0}),
		v("logic: two packets in one frame", "trailing", "none", ok, ok),

		v("header: field number 0", "header", "", logic(0x00, 0x01)),
		v("header: field number 2^29", "header", "", logic(0x80, 0x80, 0x80, 0x80, 0x10, 0x00)),
		v("header: unfinished tag", "header", "", logic(0x80)),
		v("header: unfinished varint", "header", "", logic(0x18, 0x80)),
		v("header: varint of 11 bytes", "header", "", logic(0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)),
		v("header: string longer than the header", "header", "", logic(0x0a, 0x05, 'x')),
		v("header: string length above 2^63", "header", "", logic(0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)),
		v("header: command is not UTF-8", "header", "", logic(0x0a, 0x02, 0xc3, 0x28)),
		v("header: dest is not UTF-8", "header", "", logic(0x32, 0x01, 0xff)),
		v("header: reserved wire type 6", "header", "", logic(0x0e)),
		v("header: group without end", "header", "", logic(0xa3, 0x06)),
		v("header: end of group without start", "header", "", logic(0xa4, 0x06)),
		v("header: unfinished fixed32 of an unknown field", "header", "", logic(0xa5, 0x06, 0, 0)),
		v("header: broken meta", "header", "", logic(0x3a, 0x02, 0x0a, 0x05)),

		v("basic: magic only", "truncated", "", magicBasic),
		v("basic: half a head", "truncated", "", magicBasic, []byte{0, 1, 0}),
		v("basic: body shorter than its length", "truncated", "", magicBasic, []byte{0, 1, 0, 5, 'h', 'i'}),
		v("basic: length above the limit", "truncated", "too_large", magicBasic, []byte{0, 1, 0xff, 0xff}),
		v("basic: a byte too many", "trailing", "none", frameBasic(1, nil), []byte{0}),
	}
}

func nameOf(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }

func newMessage(t *testing.T, name string) proto.Message {
	t.Helper()
	m, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("hermod." + name))
	must(t, err)
	return m.New().Interface()
}

func fromJSON(t *testing.T, name string, data []byte) proto.Message {
	t.Helper()
	m := newMessage(t, name)
	must(t, protojson.Unmarshal(data, m))
	return m
}

func fromBytes(t *testing.T, name string, data []byte) proto.Message {
	t.Helper()
	m := newMessage(t, name)
	must(t, proto.Unmarshal(data, m))
	return m
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	must(t, err)
	return data
}

// toJSON is protobuf's JSON without the whitespace that it varies on purpose.
func toJSON(t *testing.T, m proto.Message) json.RawMessage {
	t.Helper()
	data, err := protojson.MarshalOptions{UseProtoNames: true, UseEnumNumbers: true}.Marshal(m)
	must(t, err)
	var b bytes.Buffer
	must(t, json.Compact(&b, data))
	return b.Bytes()
}

// fromPB is what a Header must be after decoding what h encodes.
func fromPB(h *pb.Header) wire.Header {
	out := wire.Header{
		Command: wire.Command(h.GetCommand()), ChannelID: h.GetChannelId(), Sequence: h.GetSequence(), Flag: wire.Flag(h.GetFlag()),
		Status: wire.Status(h.GetStatus()), Dest: h.GetDest(),
		Link: wire.Link{App: h.GetApp(), Account: h.GetAccount(), Device: h.GetDevice(), Channels: h.GetChannels()},
	}
	for _, d := range h.GetDelivered() {
		out.Delivered = append(out.Delivered, wire.Delivered{Conversation: d.GetConversation(), From: d.GetFrom(), To: d.GetTo(), MessageID: d.GetMessageId()})
	}
	for _, m := range h.GetMeta() {
		out.Meta = append(out.Meta, wire.Meta{Key: m.GetKey(), Value: m.GetValue(), Type: wire.MetaType(m.GetType())})
	}
	return out
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(s))
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func diff(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}
