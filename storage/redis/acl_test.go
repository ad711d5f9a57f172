package redis

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/storagetest"
	"github.com/hermod-im/hermod/test/component"
)

// The user of docs/operations.md may do all that sessions need.
func TestDocumentedUser(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	rules := regexp.MustCompile(`(?s)ACL SETUSER hermod (.*?)\n` + "```").FindSubmatch(text)
	require.NotNil(t, rules)
	admin := newSessions(t, true)
	args := []any{"ACL", "SETUSER", "hermod"}
	for _, rule := range strings.Fields(string(rules[1])) {
		args = append(args, rule)
	}
	require.NoError(t, admin.client.Do(t.Context(), args...).Err())
	t.Cleanup(func() { require.NoError(t, admin.client.Do(context.Background(), "ACL", "DELUSER", "hermod").Err()) })
	storagetest.Sessions(t, func(t *testing.T) storagetest.SessionsFactory {
		newSessions(t, true)
		return func(t testing.TB) storage.Sessions {
			s := NewSessions(Options{Addr: component.Redis(t), DB: testDB, Username: "hermod", Password: "PASSWORD"})
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			require.NoError(t, s.Ping(t.Context()))
			return s
		}
	})
}
