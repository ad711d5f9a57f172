package sql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/component"
)

// A packet is stored whole or not at all, once, whatever becomes of its connection and whoever was faster.
func TestPackets(t *testing.T) {
	server := component.MySQL(t)
	for _, c := range []struct {
		name string
		// meddle changes what becomes of the packet; other is another node's store.
		meddle func(t *testing.T, s, other *Store)
		ids    []string
		stored int // of two messages before, one of them stored by the other node's store, and ids
		sent   int // packets
	}{
		{"nothing happens", func(*testing.T, *Store, *Store) {}, []string{"a", "b", ""}, 5, 1},
		{"another node was faster", func(t *testing.T, _, other *Store) {
			require.NoError(t, other.Append(t.Context(), drafts("other")))
		}, []string{"a", "b"}, 5, 1},
		{"another node has stored one of them", func(t *testing.T, _, other *Store) {
			require.NoError(t, other.Append(t.Context(), drafts("a")))
		}, []string{"a", "b"}, 4, 1},
		{"one was stored before", func(*testing.T, *Store, *Store) {}, []string{"first", "b"}, 3, 1},
		{"the same twice", func(*testing.T, *Store, *Store) {}, []string{"a", "a"}, 3, 1},
		{"it is lost on its way", lose(false, nil), []string{"a", ""}, 4, 0},
		{"its answer is lost", lose(true, nil), []string{"a", ""}, 4, 1},
		{"it is killed behind its commit", func(t *testing.T, s, _ *Store) {
			send, once := s.send, true
			s.send = func(ctx context.Context, packet string) error {
				err := send(ctx, packet)
				if !once {
					return err
				}
				once = false
				require.NoError(t, err)
				return s.sendPacket(ctx, signal(1317))
			}
		}, []string{"a", ""}, 4, 1},
		{"its conversation went away and came back", func(t *testing.T, s, _ *Store) {
			require.NoError(t, s.exec(s.writer.WithContext(t.Context()), "UPDATE conversations SET id = -id"))
			send := s.send
			s.send = func(ctx context.Context, packet string) error {
				err := send(ctx, packet)
				require.NoError(t, s.exec(s.writer.WithContext(ctx), "UPDATE conversations SET id = -id"))
				return err
			}
		}, []string{"a"}, 3, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Driver: DriverMySQL, DSN: component.Database(t, server)}
			s, other := newStore(t, o), newStore(t, o)
			require.NoError(t, other.Append(t.Context(), drafts("zeroth")))
			require.NoError(t, s.Append(t.Context(), drafts("first")))
			sent, send := 0, s.send
			s.send = func(ctx context.Context, packet string) error {
				sent++
				return send(ctx, packet)
			}
			c.meddle(t, s, other)
			batch := drafts(c.ids...)
			require.NoError(t, s.Append(t.Context(), batch))
			require.Equal(t, c.sent, sent)
			require.Len(t, bodies(t, s), c.stored)
			for _, d := range batch {
				require.NoError(t, d.Err)
				require.Equal(t, []string{"alice", "bob"}, d.Members)
			}
		})
	}
}

// signal is a packet that fails with this number.
func signal(number int) string {
	return fmt.Sprintf("SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = %d", number)
}

// Who is killed may have come to the COMMIT; who is refused has not.
func TestKilledPacketsAreInDoubt(t *testing.T) {
	s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
	for number, inDoubt := range map[int]bool{1053: true, 1317: true, 1927: true, 1969: true, 1048: false, 1213: false, 1205: false} {
		err := s.sendPacket(t.Context(), signal(number))
		require.Error(t, err)
		require.Equal(t, inDoubt, errors.Is(err, errCommit), "%d: %v", number, err)
	}
}

// lose has the next packet's connection break, before or after it is executed.
func lose(executed bool, then func()) func(*testing.T, *Store, *Store) {
	return func(t *testing.T, s, _ *Store) {
		send := s.send
		s.send = func(ctx context.Context, packet string) error {
			if executed {
				require.NoError(t, send(ctx, packet))
			}
			if then != nil {
				then()
			}
			return fmt.Errorf("%w: %w", errCommit, mysql.ErrInvalidConn)
		}
	}
}

// A packet that is executed when its batch has been stored without it does nothing.
func TestPacketThatComesLate(t *testing.T) {
	s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
	require.NoError(t, s.Append(t.Context(), drafts("first")))
	var late string
	send := s.send
	s.send = func(_ context.Context, packet string) error {
		late = packet
		return errCommit
	}
	require.NoError(t, s.Append(t.Context(), drafts("a", "")))
	require.Error(t, send(t.Context(), late))
	require.Len(t, bodies(t, s), 3)
}

// A packet that is executed between two further attempts, both of which look for it: the message is stored once, and is no duplicate.
func TestPacketThatComesBetweenAttempts(t *testing.T) {
	for _, id := range []string{"a", ""} {
		t.Run("client_id "+id, func(t *testing.T) {
			s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
			require.NoError(t, s.Append(t.Context(), drafts("first")))
			var late string
			send := s.send
			s.send = func(_ context.Context, packet string) error {
				late = packet
				return errCommit
			}
			s.writer.Statement.ConnPool = &faultyPool{DB: s.pools[0], commit: fails(), insert: fails(mysql.ErrInvalidConn), rolledBack: func() {
				if late != "" {
					require.NoError(t, send(t.Context(), late))
					late = ""
				}
			}}
			batch := drafts(id)
			require.NoError(t, s.Append(t.Context(), batch))
			require.Empty(t, late, "it was executed")
			require.Len(t, bodies(t, s), 2)
			require.False(t, batch[0].Duplicate, "the push is owed")
			require.EqualValues(t, 2, batch[0].Seq)
		})
	}
}

// A message of which nobody knows whether it is stored, because the packet may yet come, is in doubt.
func TestPacketThatMayComeIsInDoubt(t *testing.T) {
	s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
	require.NoError(t, s.Append(t.Context(), drafts("first")))
	full := &faultyPool{DB: s.pools[0], commit: fails(), insert: func() error { return &mysql.MySQLError{Number: 1114, Message: "table is full"} }}
	lose(false, func() { s.writer.Statement.ConnPool = full })(t, s, nil)
	batch := drafts("a")
	require.ErrorIs(t, s.Append(t.Context(), batch), storage.ErrInDoubt)
	require.Equal(t, []string{"alice", "bob"}, batch[0].Members)
}

// A packet that waits for a lock is given up by the server before its sender gives up: it is not executed later, when everybody
// has been told to look for it.
func TestPacketThatWaitsForALock(t *testing.T) {
	o := Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))}
	s, other := newStore(t, o), newStore(t, o)
	require.NoError(t, s.Append(t.Context(), drafts("first")))
	locked := other.writer.Begin()
	require.NoError(t, locked.Exec("SELECT id FROM conversations FOR UPDATE").Error)
	ctx, cancel := context.WithTimeout(t.Context(), lockWait+2*time.Second)
	defer cancel()
	err := s.Append(ctx, drafts("a"))
	require.Error(t, err)
	require.NotErrorIs(t, err, storage.ErrInDoubt)
	require.NoError(t, locked.Rollback().Error)
	require.NoError(t, s.Append(t.Context(), drafts("b"))) // takes the lock behind whatever waited for it
	require.Len(t, bodies(t, s), 2)
}

// Pages that are slow to read have the readers' connections, all of them; a message is stored all the same, also the first of its
// conversation.
func TestReadersLeaveTheWriterAlone(t *testing.T) {
	s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t)), MaxOpenConns: 3})
	conn, err := s.pools[1].Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, s.Append(ctx, drafts("first")))
	require.NoError(t, s.Append(ctx, drafts("second")))
}

// Members are those of the commit: who has quit cannot write, who has joined is told.
func TestPacketsKnowWhoBelongs(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s, other := newStore(t, o), newStore(t, o)
		ctx := t.Context()
		g, err := s.CreateGroup(ctx, storage.Group{App: "app", Owner: "alice", Members: []storage.Member{{Account: "bob"}}}, storage.GroupLimits{})
		require.NoError(t, err)
		say := func(app, sender string) *storage.Draft {
			d := &storage.Draft{App: app, Sender: sender, Kind: storage.KindGroup, Dest: g, Body: "x"}
			require.NoError(t, s.Append(ctx, []*storage.Draft{d}))
			return d
		}
		require.NoError(t, say("app", "bob").Err)
		log := record(s)
		require.NoError(t, say("app", "bob").Err)
		for _, query := range queries(log) {
			require.NotContains(t, query, "SELECT", "what is known is not read")
		}
		another := &storage.Draft{App: "app", Sender: "alice", Kind: storage.KindGroup, Dest: g, Body: "x"}
		require.NoError(t, other.Append(ctx, []*storage.Draft{another}))
		require.EqualValues(t, another.Seq+1, say("app", "bob").Seq)
		_, err = other.Join(ctx, "app", g, "carol", storage.GroupLimits{})
		require.NoError(t, err)
		require.Equal(t, []string{"alice", "bob", "carol"}, say("app", "alice").Members)
		require.NoError(t, say("app", "carol").Err)
		_, err = other.Quit(ctx, "app", g, "bob")
		require.NoError(t, err)
		require.ErrorIs(t, say("app", "bob").Err, storage.ErrNotMember)
		require.Equal(t, []string{"alice", "carol"}, say("app", "alice").Members)
		require.ErrorIs(t, say("another", "alice").Err, storage.ErrNoConversation)
	})
}

// However many messages each conversation of a batch has: its last seq is that of its last message, and no message has a higher id
// than the bound.
func TestBatchesMoveConversations(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s := newStore(t, o)
		say := func(counts ...int) {
			var batch []*storage.Draft
			for i, n := range counts {
				for range n {
					batch = append(batch, &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: fmt.Sprint("bob", i)})
				}
			}
			require.NoError(t, s.Append(t.Context(), batch))
			for _, d := range batch {
				require.NoError(t, d.Err)
			}
		}
		say(1, 1, 1, 1)
		log := record(s)
		for _, counts := range [][]int{{1, 1, 1, 1}, {3, 1, 0, 2}, {0, 0, 7}, {2, 2, 2, 2}, {0, 1}} {
			say(counts...)
		}
		for _, query := range queries(log) {
			require.NotContains(t, query, "SELECT", "all of it is known")
		}
		want := []int64{7, 6, 11, 6}
		for i, seq := range want {
			var last, bound, highest, messages int64
			row := s.writer.Raw("SELECT last_seq, last_message_id, (SELECT MAX(message_id) FROM messages WHERE conversation_id = c.id),"+
				" (SELECT COUNT(*) FROM messages WHERE conversation_id = c.id) FROM conversations c WHERE ckey = ?",
				[]byte(pairOf("app", "alice", fmt.Sprint("bob", i)).key)).Row()
			require.NoError(t, row.Scan(&last, &bound, &highest, &messages))
			require.Equal(t, []int64{seq, seq}, []int64{last, messages})
			require.GreaterOrEqual(t, bound, highest)
		}
	})
}

// Everything comes back as it was sent, whatever bytes it has.
func TestPacketsQuote(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		s := newStore(t, o)
		var all strings.Builder
		for i := range 256 {
			all.WriteByte(byte(i))
		}
		for i, text := range []string{"first", "'", "\\", "\\'", "';COMMIT;DROP TABLE messages;--", "\x00\x1a\n\r\"%_", all.String(), "\xff'", "\xe4\\"} {
			d := &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "al'\\ice", Dest: "bob", Body: text, Extra: text, ClientID: fmt.Sprint("\\'", i), SendTime: 7}
			require.NoError(t, s.Append(t.Context(), []*storage.Draft{d}))
			page, err := s.History(t.Context(), "app", "bob", storage.Range{Kind: storage.KindUser, Dest: "al'\\ice", Limit: 1})
			require.NoError(t, err)
			require.Equal(t, []storage.Message{{
				Conversation: d.Conversation, Seq: int64(i) + 1, ID: d.MessageID, Sender: d.Sender, ClientID: d.ClientID, Body: text, Extra: text, SendTime: 7,
			}}, page.Messages)
		}
	})
}

// In GBK a backslash is half of some characters: an escape that the server took for one would end the text.
func TestPacketsQuoteInAnyCharset(t *testing.T) {
	dsn, err := mysql.ParseDSN(component.Database(t, component.MySQL(t)))
	require.NoError(t, err)
	require.NoError(t, dsn.Apply(mysql.Charset("gbk", "")))
	s := newStore(t, Options{Driver: DriverMySQL, DSN: dsn.FormatDSN()})
	require.NoError(t, s.Append(t.Context(), drafts("first")))
	log := record(s)
	batch := drafts("second")
	batch[0].Body = "\x81'), ('"
	require.NoError(t, s.Append(t.Context(), batch))
	require.Len(t, queries(log), 1, "the packet was refused")
}

func TestLedgerIsBounded(t *testing.T) {
	l := ledger{most: 3, byID: make(map[int64]known)}
	for id := range int64(10) {
		l.note([]*target{{id: id, found: true}})
		require.LessOrEqual(t, len(l.byID), 3)
	}
	require.False(t, l.recall([]*target{{id: 100}}))
}
