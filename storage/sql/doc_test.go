package sql

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/component"
)

var update = flag.Bool("update", false, "write the plans of docs/storage.md")

const storageDoc = "../../docs/storage.md"

// The plans that docs/storage.md shows are MariaDB's, now.
func TestPlansOfTheDocument(t *testing.T) {
	s := newStore(t, Options{Driver: DriverMySQL, DSN: component.Database(t, component.MySQL(t))})
	ctx := t.Context()
	log := record(s)
	say := func(rounds int) (out []*storage.Draft) {
		for range rounds {
			out = nil
			for i := range 300 {
				out = append(out, &storage.Draft{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: fmt.Sprint("peer", i), Body: "x"})
			}
			require.NoError(t, s.Append(ctx, out))
		}
		return out
	}
	say(10)
	for _, table := range []string{"conversations", "members", "messages"} {
		require.NoError(t, s.exec(s.writer.WithContext(ctx), "ANALYZE TABLE "+table))
	}
	two := func() []*storage.Draft {
		return []*storage.Draft{
			{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: "peer1", Body: "x"},
			{App: "app", Kind: storage.KindUser, Sender: "alice", Dest: "peer2", Body: "x"},
		}
	}
	log.take()
	require.NoError(t, s.Append(ctx, two()))
	commit := log.take()
	s.ledger.byID = make(map[int64]known)
	require.NoError(t, s.Append(ctx, two()))
	commit = append(commit, log.take()...)
	_, err := s.Sync(ctx, "app", "peer1", storage.SyncQuery{Limit: 300})
	require.NoError(t, err)
	sync := log.take()
	_, err = s.History(ctx, "app", "peer1", storage.Range{Kind: storage.KindUser, Dest: "alice", Limit: 50})
	require.NoError(t, err)
	history := log.take()

	doc, err := os.ReadFile(storageDoc)
	require.NoError(t, err)
	text := string(doc)
	for name, statements := range map[string][]statement{"commit": commit, "sync": sync, "history": history} {
		text = replaceBlock(t, text, name, plansOf(t, s, statements))
	}
	if *update {
		require.NoError(t, os.WriteFile(storageDoc, []byte(text), 0o644))
		return
	}
	require.Equal(t, text, string(doc), "go test ./storage/sql -run TestPlansOfTheDocument -update")
}

// plansOf is the statements, without what their arguments are, and how the server runs those that read.
func plansOf(t *testing.T, s *Store, statements []statement) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("```text\n")
	for _, st := range statements {
		fmt.Fprintln(&b, withoutArguments(st.query))
		query := explained(st.query)
		if !explainable(query) {
			continue
		}
		for _, plan := range planOf(t, s, query, st.args) {
			line := fmt.Sprintf("  -> %s: %s, key %s, %s bytes. %s", plan["table"], plan["type"], plan["key"], plan["key_len"], plan["extra"])
			fmt.Fprintln(&b, strings.TrimRight(line, " "))
		}
	}
	b.WriteString("```\n")
	return b.String()
}

var (
	number = regexp.MustCompile(`\b\d+\b`)
	quoted = regexp.MustCompile(`_binary'[^']*'`)
)

func withoutArguments(query string) string {
	query = number.ReplaceAllString(quoted.ReplaceAllString(query, "?"), "?")
	return strings.NewReplacer(";", ";\n", " VALUES ", "\n  VALUES ", " WHERE ", "\n  WHERE ", " FROM ", "\n  FROM ", " STRAIGHT_JOIN ", "\n  STRAIGHT_JOIN ").Replace(query)
}

// replaceBlock puts a text between the comments that name it.
func replaceBlock(t *testing.T, text, name, block string) string {
	t.Helper()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	require.True(t, ok, begin)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok, end)
	return before + begin + block + end + after
}
