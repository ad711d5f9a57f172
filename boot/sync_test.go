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

// device is one device of an account, which keeps read positions.
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

func newDevice(t *testing.T, url, account, name string, store client.Store) *device {
	t.Helper()
	tk, err := token.Issue([]byte(secret), token.Claims{Account: account, App: "default", Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	d := new(device)
	d.Client, err = client.New(client.Options{
		URL: url, Token: client.StaticToken(tk), Device: name, Store: store,
		OnRead: func(client.Conversation) {},
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

// A device that was away learns what changed in its many conversations, and nothing twice: messages, a
// group in which nothing was said, what another device has read, and what the account does not belong to any more.
func TestDeviceComesBack(t *testing.T) {
	_, _, _, urls := started(t)
	const peers = 150 // more than are synced by cursors
	ctx := t.Context()
	phone, bob := newDevice(t, urls[0], "alice", "phone", nil), newDevice(t, urls[1], "bob", "phone", nil)
	for i := range peers {
		_, err := phone.Talk(ctx, fmt.Sprint("peer ", i), client.Text("hello"))
		require.NoError(t, err)
	}
	left, err := bob.CreateGroup(ctx, client.NewGroup{Name: "left", Members: []string{"alice"}})
	require.NoError(t, err)

	cursors := client.NewMemoryStore(nil)
	laptop := newDevice(t, urls[2], "alice", "laptop", cursors)
	await(t, "everything on the laptop", func() bool {
		return len(laptop.got()) == peers && len(cursors.Cursors()) == peers+1
	})
	laptop.stop()

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

	laptop = newDevice(t, urls[0], "alice", "laptop", cursors)
	unread := func() int64 {
		n, counted := laptop.Unread(conversation)
		if !counted {
			return -1
		}
		return n
	}
	knows := func(id string) bool {
		return slices.ContainsFunc(laptop.Conversations(), func(k client.Conversation) bool { return k.ID == id })
	}
	await(t, "what was said, and read, meanwhile", func() bool { return len(laptop.got()) == 5 && unread() == 2 })
	await(t, "the groups", func() bool { return knows(quiet) && !knows(left) })
	require.Equal(t, []string{"bob 0", "bob 1", "bob 2", "bob 3", "bob 4"}, laptop.got())
	require.Len(t, laptop.Conversations(), peers+2)

	// While on line, it hears of what the other one reads.
	require.NoError(t, phone.MarkRead(ctx, conversation, 4))
	await(t, "the phone's reading", func() bool { return unread() == 1 })
	require.NoError(t, laptop.MarkRead(ctx, conversation, 5))
	await(t, "the laptop's reading", func() bool {
		n, counted := phone.Unread(conversation)
		return counted && n == 0
	})
}
