package verify

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every number that must be 0 fails a row and has a column.
func TestTroublesFail(t *testing.T) {
	require.NoError(t, Row{Name: "fine", Sent: 1, Acked: 1, Live: 9, Synced: 9, Unanswered: 1, Unknown: 1, Repeated: 1, Overtaken: 1}.Err())
	fine := []string{"Duration", "Sent", "Acked", "Live", "Synced", "Unanswered", "Unknown", "Repeated", "Overtaken", "Converge"}
	for f := range reflect.TypeFor[Row]().Fields() {
		if f.Type.Kind() != reflect.Int64 || slices.Contains(fine, f.Name) {
			continue
		}
		row := Row{Name: "kill", Examples: []string{"somebody lacks something"}}
		reflect.ValueOf(&row).Elem().FieldByIndex(f.Index).SetInt(4711)
		err := Report{Rows: []Row{{Name: "fine"}, row}}.Err()
		require.ErrorContains(t, err, "kill: 4711 ", f.Name)
		require.ErrorContains(t, err, "somebody lacks something")
		require.Contains(t, Report{Rows: []Row{row}}.Table(), " 4711 |", f.Name)
	}
	require.ErrorContains(t, Row{Healed: true}.Err(), "never converged")
	require.ErrorContains(t, Row{Unjudged: "no database"}.Err(), "no database")
}

func TestTable(t *testing.T) {
	table := Report{Rows: []Row{
		{Name: "a", Sent: 3, Healed: true, Converged: true, Converge: 1234 * time.Millisecond},
		{Name: "b", Healed: true},
		{Name: "c"},
	}}.Table()
	lines := strings.Split(strings.TrimSpace(table), "\n")
	require.Len(t, lines, 5)
	for _, line := range lines {
		require.Equal(t, len(columns)+3, strings.Count(line, "|"), line)
	}
	require.Contains(t, lines[2], "| a | 3 |")
	require.Contains(t, lines[2], "| 1.2 s |")
	require.Contains(t, lines[3], "| never |")
	require.Contains(t, lines[4], "| – |")
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no address":    {Secret: []byte("x")},
		"no secret":     {Router: "http://127.0.0.1"},
		"few accounts":  {Router: "http://127.0.0.1", Secret: []byte("x"), Accounts: 3},
		"negative rate": {Router: "http://127.0.0.1", Secret: []byte("x"), Rate: -1},
	} {
		_, err := o.withDefaults()
		require.Error(t, err, name)
	}
	o, err := Options{URLs: []string{"ws://x"}, Secret: []byte("x")}.withDefaults()
	require.NoError(t, err)
	require.Equal(t, []any{200, 50, 3, 200.0, "default"}, []any{o.Accounts, o.Groups, o.Devices, o.Rate, o.App})
	require.NotZero(t, o.Seed)
}

// The same seed plans the same run.
func TestPlanFollowsTheSeed(t *testing.T) {
	r := &Run{Seed: 1, o: Options{URLs: []string{"ws://x", "ws://y", "tcp://z"}}}
	pick := func(stream int, tcp bool) (list []string) {
		g := &gateways{o: &r.o, tcp: tcp, rng: r.random(stream)}
		for range 4 {
			u, err := g.pick(t.Context())
			require.NoError(t, err)
			list = append(list, u)
		}
		return list
	}
	require.Equal(t, pick(7, false), pick(7, false))
	require.ElementsMatch(t, []string{"ws://x", "ws://y"}, pick(7, false)[:2])
	require.Equal(t, []string{"tcp://z", "tcp://z", "tcp://z", "tcp://z"}, pick(8, true))
}

// The directory answers as a router does.
func TestDirectory(t *testing.T) {
	d, err := newDirectory()
	require.NoError(t, err)
	defer d.close()
	router := d.add(func(context.Context) (string, error) { return "tcp://127.0.0.1:1", nil })
	resp, err := http.Get(router + "/api/lookup/token")
	require.NoError(t, err)
	defer resp.Body.Close() //nolint:errcheck // read only
	var answer struct{ Domains []string }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	require.Equal(t, []string{"tcp://127.0.0.1:1"}, answer.Domains)
	g := &gateways{o: &Options{Router: router}, token: "token", router: true}
	list, err := g.all(t.Context())
	require.NoError(t, err)
	require.Equal(t, answer.Domains, list)
	resp, err = http.Get(d.url + "/9/api/lookup/token")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
}
