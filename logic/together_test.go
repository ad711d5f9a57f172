package logic

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// singles are the pushes as if each had come in a packet of its own.
func singles(t *testing.T, pushes []pushed) (out []pushed) {
	t.Helper()
	for _, p := range pushes {
		if p.Command != wire.CmdLinkPushes {
			out = append(out, p)
			continue
		}
		var all pb.LinkPushes
		require.NoError(t, proto.Unmarshal(p.Body, &all))
		for i, packet := range all.Packets {
			single := pushed{gateway: p.gateway}
			require.NoError(t, single.Unmarshal(packet))
			require.Equal(t, wire.Link{}, single.Link, "it goes to clients as it is")
			single.Channels = p.Channels
			if len(p.Delivered) > 0 {
				require.Len(t, p.Delivered, len(all.Packets))
				single.Delivered = p.Delivered[i : i+1]
			}
			out = append(out, single)
		}
	}
	return out
}

// burstOf is stored messages of a group of these members, in order: who has sent each.
func burstOf(f *fixture, members []string, senders ...string) (batch []*utterance) {
	for i, sender := range senders {
		h := asClient(sender, wire.CmdGroupTalk)
		h.Dest, h.ChannelID = "9", "gateway-1."+sender+".sending"
		batch = append(batch, &utterance{c: &Context{Packet: wire.LogicPkt{Header: h}, node: f.Node}, draft: storage.Draft{
			App: "demo", Sender: sender, Kind: storage.KindGroup, Dest: "9", Conversation: 9, Seq: int64(i) + 1, MessageID: int64(i) + 101,
			Body: fmt.Sprint(i + 1), Members: members,
		}})
	}
	return batch
}

// Messages of a group that are stored together are pushed together: a gateway looked for each of 5,000 channels, and read
// their 45 KB of ids, once for every message.
func TestMessagesOfAGroupArePushedTogether(t *testing.T) {
	for _, gateways := range []string{"new", "old"} {
		t.Run(gateways, func(t *testing.T) {
			f := build(t, nil)
			f.links.old = gateways == "old"
			members := []string{"alice", "bob"}
			f.online("gateway-1", "alice", syncs, "sending")
			f.online("gateway-2", "alice", syncs, "web")
			f.online("gateway-1", "bob", old, "sending")
			f.online("gateway-2", "bob", old, "")
			for i := range 10 {
				account := fmt.Sprint("user-", i)
				members = append(members, account)
				f.online("gateway-1", account, syncs, "")
				if i%2 == 0 {
					f.online("gateway-2", account, old, "phone")
				}
			}
			batch := burstOf(f, members, "alice", "bob", "alice", "bob", "user-9")
			batch[2].draft.Duplicate = true // 3, which separates two bursts
			between := &utterance{c: &Context{Packet: wire.LogicPkt{Header: talkTo("alice", "user-1")}, node: f.Node}, draft: storage.Draft{
				App: "demo", Sender: "alice", Kind: storage.KindUser, Dest: "user-1", Body: "to one", Conversation: 4, Seq: 1, MessageID: 99,
				Members: []string{"alice", "user-1"},
			}}
			refused := &utterance{c: between.c, draft: storage.Draft{Err: storage.ErrNotMember, Members: members}}
			f.dispatch.messages(append([]*utterance{refused, batch[0], between}, batch[1:]...))

			got := map[string]string{}
			packets := 0
			for _, p := range f.links.pushes() {
				if p.Command == wire.CmdLinkPushes {
					packets++
				}
			}
			for _, p := range singles(t, f.links.pushes()) {
				var m pb.MessagePush
				require.NoError(t, proto.Unmarshal(p.Body, &m))
				if len(p.Delivered) > 0 {
					require.Equal(t, []wire.Delivered{{Conversation: p.Delivered[0].Conversation, From: m.Seq, To: m.Seq, MessageID: m.MessageId}}, p.Delivered)
				}
				for _, channel := range p.Channels {
					require.True(t, strings.HasPrefix(channel, p.gateway+"."), channel)
					if m.Conversation == "9" {
						got[channel] += m.Body
					}
				}
			}
			want := map[string]string{
				"gateway-1.alice.sending": "245", "gateway-2.alice.web": "12345",
				"gateway-1.bob.sending": "15", "gateway-2.bob": "15", // old, of what others have sent and not again
			}
			for i := range 10 {
				want[fmt.Sprint("gateway-1.user-", i)] = "12345"
				if i%2 == 0 {
					want[fmt.Sprint("gateway-2.user-", i, ".phone")] = "1245"
				}
			}
			require.Equal(t, want, got)
			if f.links.old {
				require.Zero(t, packets)
				return
			}
			require.Equal(t, 4, packets, "for each of two gateways what comes before the duplicate, and behind it")
		})
	}
}

// What is pushed together is bounded, and nothing is left out.
func TestBoundsOfWhatIsPushedTogether(t *testing.T) {
	for _, test := range []struct {
		name     string
		messages int
		size     int
		want     []int // messages of each packet
	}{
		{"one", 1, 10, []int{1}},
		{"many", 2*maxTogether + 1, 10, []int{maxTogether, maxTogether, 1}},
		{"large", 5, maxTogetherBytes / 2, []int{2, 2, 1}},
		{"larger than the bound", 3, maxTogetherBytes + 1, []int{1, 1, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := build(t, nil)
			var members []string
			for i := range groupMembers {
				members = append(members, fmt.Sprint("user-", i))
				f.online("gateway-1", members[i], syncs, "")
			}
			batch := burstOf(f, members, make([]string, test.messages)...)
			for _, u := range batch {
				u.draft.Sender, u.draft.Body = "somebody who has quit", strings.Repeat("x", test.size)
			}
			f.dispatch.messages(batch)
			var sizes []int
			for _, p := range f.links.pushes() {
				sizes = append(sizes, len(singles(t, []pushed{p})))
			}
			require.Equal(t, test.want, sizes)
			seq := int64(0)
			for _, p := range singles(t, f.links.pushes()) {
				require.Len(t, p.Channels, groupMembers)
				var m pb.MessagePush
				require.NoError(t, proto.Unmarshal(p.Body, &m))
				seq++
				require.Equal(t, seq, m.Seq)
			}
		})
	}
}
