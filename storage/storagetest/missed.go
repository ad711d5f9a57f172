package storagetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
)

// missed asks, and compares what was missed.
func missed(t testing.TB, s storage.Sessions, gateway string, told int64, want storage.Missed) (upTo int64) {
	t.Helper()
	got, err := s.Missed(t.Context(), gateway, told)
	require.NoError(t, err)
	require.ElementsMatch(t, want.Channels, got.Channels)
	require.ElementsMatch(t, want.Kicked, got.Kicked)
	require.Equal(t, want.All, got.All)
	require.Equal(t, len(want.Channels)+len(want.Kicked) > 0 || want.All, got.UpTo > 0)
	return got.UpTo
}

// What is noted for a gateway is told until the gateway says that it has its clients told, whatever
// is noted in between.
func testMissed(t *testing.T, open SessionsFactory) {
	s, other := open(t), open(t)
	ctx := t.Context()
	lease(t, s, "g1", longLease)
	missed(t, s, "g1", 0, storage.Missed{})
	require.NoError(t, s.NoteMissed(ctx, "g1", []string{"g1.a", "g1.b"}, nil))
	require.NoError(t, other.NoteMissed(ctx, "g1", []string{"g1.b"}, []string{"g1.c", "g1.a"}))
	require.NoError(t, other.NoteMissed(ctx, "g2", []string{"g2.a"}, nil))

	want := storage.Missed{Channels: []string{"g1.a", "g1.b"}, Kicked: []string{"g1.a", "g1.c"}}
	missed(t, s, "g1", 0, want)
	upTo := missed(t, s, "g1", 0, want) // the first answer was lost
	require.NoError(t, s.NoteMissed(ctx, "g1", []string{"g1.b", "g1.d"}, nil))
	next := missed(t, s, "g1", upTo, storage.Missed{Channels: []string{"g1.b", "g1.d"}})
	require.Greater(t, next, upTo)
	missed(t, s, "g1", next, storage.Missed{})
	missed(t, s, "g1", 0, storage.Missed{})

	// A number that was given once is not given again: an old request must forget nothing new.
	require.NoError(t, s.NoteMissed(ctx, "g1", []string{"g1.e"}, nil))
	last := missed(t, s, "g1", next, storage.Missed{Channels: []string{"g1.e"}})
	require.Greater(t, last, next)
	missed(t, s, "g2", 0, storage.Missed{Channels: []string{"g2.a"}})

	require.NoError(t, s.NoteMissed(ctx, "g1", []string{"g1.f", storage.AllChannels}, nil))
	all := missed(t, s, "g1", last, storage.Missed{Channels: []string{"g1.f"}, All: true})
	missed(t, s, "g1", all, storage.Missed{})

	require.NoError(t, s.EndLease(ctx, "g1"))
	missed(t, s, "g1", 0, storage.Missed{})
}

// More channels than are kept become all of the gateway's, but kicks are no hints: those that were
// displaced stayed open, for hours.
func testMissedTooMany(t *testing.T, open SessionsFactory) {
	s := open(t)
	ctx := t.Context()
	lease(t, s, "g", longLease)
	for i := range 2 {
		channels := make([]string, storage.MaxMissed/2)
		for j := range channels {
			channels[j] = fmt.Sprintf("g.%d-%d", i, j)
		}
		require.NoError(t, s.NoteMissed(ctx, "g", channels, nil))
	}
	some, err := s.Missed(ctx, "g", 0)
	require.NoError(t, err)
	require.Len(t, some.Channels, storage.MaxMissed)
	require.NoError(t, s.NoteMissed(ctx, "g", nil, []string{"g.kicked"}))
	kicked, err := s.Missed(ctx, "g", 0)
	require.NoError(t, err)
	require.Len(t, kicked.Channels, storage.MaxMissed, "kicks do not count among them")
	require.Greater(t, kicked.UpTo, some.UpTo)
	require.NoError(t, s.NoteMissed(ctx, "g", []string{"g.one-more"}, nil))
	missed(t, s, "g", 0, storage.Missed{Kicked: []string{"g.kicked"}, All: true})
	upTo := missed(t, s, "g", some.UpTo, storage.Missed{Kicked: []string{"g.kicked"}, All: true})
	require.NoError(t, s.NoteMissed(ctx, "g", []string{"g.x"}, nil))
	missed(t, s, "g", upTo, storage.Missed{Channels: []string{"g.x"}})
	require.NoError(t, s.EndLease(ctx, "g"))
	missed(t, s, "g", 0, storage.Missed{})
}

// Kicks are bounded on their own.
func testKickedTooMany(t *testing.T, open SessionsFactory) {
	s := open(t)
	ctx := t.Context()
	lease(t, s, "g", longLease)
	kicked := make([]string, storage.MaxKicked+1)
	for i := range kicked {
		kicked[i] = fmt.Sprint("g.", i)
	}
	require.NoError(t, s.NoteMissed(ctx, "g", nil, kicked))
	require.NoError(t, s.NoteMissed(ctx, "g", []string{"g.x"}, []string{"g.one-more"}))
	got, err := s.Missed(ctx, "g", 0)
	require.NoError(t, err)
	require.Len(t, got.Kicked, storage.MaxKicked)
	require.Equal(t, []string{"g.x"}, got.Channels)
	require.False(t, got.All)
}
