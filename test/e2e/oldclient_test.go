package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/verify/oldclient"
)

// A client that knows the fixed protocol and nothing else, and refuses whatever else it is told.
func testOldClient(t *testing.T, c *site) {
	for i, urls := range [][2]string{{c.GatewayURLs[0], c.GatewayTCPURLs[1]}, {c.GatewayTCPURLs[0], c.GatewayURLs[0]}} {
		dial := func(url, account string) *oldclient.Client {
			k, err := oldclient.Dial(url)
			require.NoError(t, err)
			t.Cleanup(func() { _ = k.Close() })
			require.NoError(t, k.Login(c.token(t, account)))
			return k
		}
		aliceName, bobName := fmt.Sprintf("old-alice-%d", i), fmt.Sprintf("old-bob-%d", i)
		alice, bob := dial(urls[0], aliceName), dial(urls[1], bobName)
		// A new client beside them: what it says and gets is more than they know.
		fresh := c.user(t, c.GatewayURLs[1], aliceName, modern("new"))

		sent, err := alice.Talk(bobName, "hello")
		require.NoError(t, err)
		got, err := bob.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, sent.MessageID, got.ID)
		require.Equal(t, "hello", got.Body)
		require.NoError(t, bob.Ping())
		require.NoError(t, bob.Ack(got.ID))

		fresh.say(bobName, "from the new one")
		got, err = bob.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, "from the new one", got.Body)

		group, err := alice.CreateGroup("friends", bobName)
		require.NoError(t, err)
		_, err = bob.ReadPush()
		require.NoError(t, err)
		_, err = alice.GroupTalk(group, "hello all")
		require.NoError(t, err)
		got, err = bob.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, "hello all", got.Body)
		members, err := bob.Members(group)
		require.NoError(t, err)
		require.Len(t, members, 2)
		_, err = bob.Detail(group)
		require.NoError(t, err)

		index, err := bob.OfflineIndexAll()
		require.NoError(t, err)
		require.Len(t, index, 2, "what was not acknowledged")
		content, err := bob.Content(index[0].MessageID, index[1].MessageID)
		require.NoError(t, err)
		require.Equal(t, []string{"from the new one", "hello all"}, []string{content[0].Body, content[1].Body})
		require.NoError(t, bob.Ack(index[1].MessageID))
		index, err = bob.OfflineIndexAll()
		require.NoError(t, err)
		require.Empty(t, index)

		require.NoError(t, bob.Quit(group))
		require.NoError(t, bob.Join(group))
		require.NoError(t, bob.SignOut())
	}
}
