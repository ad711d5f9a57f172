package memory

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/storagetest"
)

func TestSessions(t *testing.T) {
	storagetest.Sessions(t, func(*testing.T) storagetest.SessionsFactory {
		s := NewSessions(Options{})
		return func(testing.TB) storage.Sessions { return s }
	})
}

func TestSessionsOfEndedLeasesAreForgotten(t *testing.T) {
	now := time.Unix(1000, 0)
	s := NewSessions(Options{Now: func() time.Time { return now }})
	ctx := t.Context()
	_, err := s.RenewLease(ctx, "g1", 1000, 0)
	require.NoError(t, err)
	for i := range 100 {
		_, err := s.Login(ctx, storage.Session{Account: fmt.Sprint(i), Channel: "c", Gateway: "g1"}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	now = now.Add(time.Second)
	_, err = s.RenewLease(ctx, "g2", 1000, 0)
	require.NoError(t, err)
	for range 101 {
		_, err := s.Login(ctx, storage.Session{Account: "alice", Channel: "c", Gateway: "g2"}, storage.DevicePolicy{})
		require.NoError(t, err)
	}
	require.Len(t, s.accounts, 1)
	require.Len(t, s.leases, 1)
}
