package boot

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/wire/token"
)

// device is one device of an account.
type device struct {
	*client.Client
	stop func()

	mu       sync.Mutex
	received []string
}

func (d *device) got() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.received)
}

func newDevice(t *testing.T, url, account, name string, store client.Store, read func(client.Conversation)) *device {
	t.Helper()
	tk, err := token.Issue([]byte(secret), token.Claims{Account: account, App: "default", Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	d := new(device)
	d.Client, err = client.New(client.Options{
		URL: url, Token: client.StaticToken(tk), Device: name, Store: store,
		OnRead: read,
		OnMessage: func(m client.Message) {
			d.mu.Lock()
			d.received = append(d.received, m.Body)
			d.mu.Unlock()
		},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx) }) // with ctx's error
	d.stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(d.stop)
	return d
}

// Devices that were away learn what changed in their many conversations, and nothing twice: messages, a
// group in which nothing was said, what another device has read, and what the account does not belong to any more.
func TestDevicesComeBack(t *testing.T) {
	_, _, _, urls := started(t)
	const peers = 150 // more than are synced by cursors
	ctx := t.Context()
	reads := func(client.Conversation) {}
	phone, bob := newDevice(t, urls[0], "alice", "phone", nil, reads), newDevice(t, urls[1], "bob", "phone", nil, nil)
	for i := range peers {
		_, err := phone.Talk(ctx, fmt.Sprint("peer ", i), client.Text("hello"))
		require.NoError(t, err)
	}
	left, err := bob.CreateGroup(ctx, client.NewGroup{Name: "left", Members: []string{"alice"}})
	require.NoError(t, err)

	// The tablet keeps no read positions: nothing but its digests says what is asked for.
	onLaptop, onTablet := client.NewMemoryStore(nil), client.NewMemoryStore(nil)
	laptop, tablet := newDevice(t, urls[2], "alice", "laptop", onLaptop, reads), newDevice(t, urls[1], "alice", "tablet", onTablet, nil)
	await(t, "everything on both", func() bool {
		return len(laptop.got()) == peers && len(onLaptop.Cursors()) == peers+1 &&
			len(tablet.got()) == peers && len(onTablet.Cursors()) == peers+1
	})
	laptop.stop()
	tablet.stop()

	var conversation string
	for i := range 5 {
		sent, err := bob.Talk(ctx, "alice", client.Text(fmt.Sprint("bob ", i)))
		require.NoError(t, err)
		conversation = sent.Conversation
	}
	require.NoError(t, phone.MarkRead(ctx, conversation, 3))
	quiet, err := bob.CreateGroup(ctx, client.NewGroup{Name: "quiet", Members: []string{"alice"}})
	require.NoError(t, err)
	require.NoError(t, phone.QuitGroup(ctx, left))

	laptop, tablet = newDevice(t, urls[0], "alice", "laptop", onLaptop, reads), newDevice(t, urls[2], "alice", "tablet", onTablet, nil)
	unread := func() int64 {
		n, counted := laptop.Unread(conversation)
		if !counted {
			return -1
		}
		return n
	}
	await(t, "what was read meanwhile", func() bool { return unread() == 2 })
	for _, d := range []*device{laptop, tablet} {
		knows := func(id string) bool {
			return slices.ContainsFunc(d.Conversations(), func(k client.Conversation) bool { return k.ID == id })
		}
		await(t, "what was said meanwhile", func() bool { return len(d.got()) == 5 })
		await(t, "the groups", func() bool { return knows(quiet) && !knows(left) })
		require.Equal(t, []string{"bob 0", "bob 1", "bob 2", "bob 3", "bob 4"}, d.got())
		require.Len(t, d.Conversations(), peers+2)
	}

	// While on line, they hear of what the other one reads.
	require.NoError(t, phone.MarkRead(ctx, conversation, 4))
	await(t, "the phone's reading", func() bool { return unread() == 1 })
	require.NoError(t, laptop.MarkRead(ctx, conversation, 5))
	await(t, "the laptop's reading", func() bool {
		n, counted := phone.Unread(conversation)
		return counted && n == 0
	})
}
