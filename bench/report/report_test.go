package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hermod-im/hermod/bench"
)

// talk is a run of so many pairs that cost so much.
func talk(pairs int, cpu float64) *bench.Run {
	return &bench.Run{
		Site: "cluster", Machine: "2 cores", Version: "v1",
		Targets: []bench.Target{{Figure: "cpu", Limit: 60, Stretch: 30}, {Figure: "rate", Limit: 2000, AtLeast: true}},
		Talk: &bench.TalkResult{
			Pairs: pairs, Conversations: pairs, Window: 1, Size: 64, Messages: 5000, Rate: 1000, Ack: bench.Latency{P50: 1.5, P99: 12, P999: 1234},
			CPU: bench.Cost{ByProcess: map[string]float64{"gateway-1": cpu / 2, "gateway-2": cpu / 4, "logic-1": cpu / 4}, Total: cpu},
		},
		Database: &bench.DatabaseUse{BytesPerMessage: 200, MessagesPerFsync: 75},
	}
}

// runs are three sizes of a load, the first of them three times.
func runs() []*bench.Run {
	return []*bench.Run{talk(100, 50), talk(100, 40), talk(100, 42.5), talk(10, 80), talk(1000, 20)}
}

func TestReadTakesWhatTheLoadsPrint(t *testing.T) {
	var lines bytes.Buffer
	for _, r := range runs() {
		require.NoError(t, json.NewEncoder(&lines).Encode(r))
	}
	got, err := Read(&lines)
	require.NoError(t, err)
	require.Equal(t, runs(), got)

	_, err = Read(strings.NewReader(`{"site":"cluster"}`))
	require.ErrorContains(t, err, "run 1: no result")
}

func TestTables(t *testing.T) {
	r := New(runs())
	require.Equal(t, `|  |  | target | stretch | measured: median (min – max) |  |
|---|---|---|---|---|---|
| cluster: 100 pairs, window 1 | server CPU, µs/message | ≤ 60 | ≤ 30 | 42.5 (40 – 50) | met |
| cluster: 100 pairs, window 1 | throughput, messages/s | ≥ 2,000 |  | 1,000 | missed |
| cluster: 10 pairs, window 1 | server CPU, µs/message | ≤ 60 | ≤ 30 | 80 | missed |
| cluster: 10 pairs, window 1 | throughput, messages/s | ≥ 2,000 |  | 1,000 | missed |
| cluster: 1,000 pairs, window 1 | server CPU, µs/message | ≤ 60 | ≤ 30 | 20 | stretch met |
| cluster: 1,000 pairs, window 1 | throughput, messages/s | ≥ 2,000 |  | 1,000 | missed |
`, r.Targets())

	all := r.Markdown()
	for _, want := range []string{
		"| pairs | 10 | 100 | 1,000 |\n|---|---|---|---|\n| cluster: window 1 | 80 | 42.5 (40 – 50) | 20 |\n",
		"|  | per | gateway | logic |\n|---|---|---|---|\n| cluster: 100 pairs, window 1 | message | 31.9 | 10.6 |\n",
		"| 1,234 |", "| 2 cores | v1 | 5 |",
	} {
		require.Contains(t, all, want)
	}
}

func TestEmbedReplacesTables(t *testing.T) {
	const before, after = "# Costs\n\n<!-- bench talk cpu by pairs -->\nold\n<!-- end -->\n\nProse.\n\n", "\nMore.\n"
	got, err := New(runs()).Embed([]byte(before + "<!-- bench targets --><!-- end -->" + after))
	require.Error(t, err, "a marker without its line's end")
	require.Nil(t, got)

	got, err = New(runs()).Embed([]byte(before + "<!-- bench targets -->\n<!-- end -->" + after))
	require.NoError(t, err)
	require.Contains(t, string(got), "# Costs\n\n<!-- bench talk cpu by pairs -->\n| pairs | 10 |")
	require.Contains(t, string(got), "|\n<!-- end -->\n\nProse.\n\n<!-- bench targets -->\n|")
	require.True(t, strings.HasSuffix(string(got), "|\n<!-- end -->"+after))

	again, err := New(runs()).Embed(got)
	require.NoError(t, err)
	require.Equal(t, string(got), string(again))

	_, err = New(runs()).Embed([]byte("<!-- bench sync -->\nold\n<!-- end -->"))
	require.ErrorContains(t, err, "no runs", "old figures would stay")
}

func TestUncleanRunsAreNamed(t *testing.T) {
	bad := talk(10, 1)
	bad.Talk.Lost = 1
	r := New(append(runs(), bad))
	require.Equal(t, []string{"cluster: 10 pairs, window 1"}, r.Unclean())
	require.Contains(t, pageOf(t, r), "Lost, doubled, reordered, unanswered, misdirected, refused, dropped or not measured in: cluster: 10 pairs, window 1")
}

// A closed loop that was refused something is not clean; an open one says what was too much.
func TestRefusalsAreListed(t *testing.T) {
	closed, open := talk(50, 1), talk(20, 1)
	closed.Talk.Sent, closed.Talk.Refused = 1000, bench.Refusals{"rate limited (302)": 20, "system exception (300)": 5}
	open.Talk.Sent, open.Talk.Window, open.Talk.DueRate, open.Talk.Refused = 400, 0, 2000, bench.Refusals{"system exception (300)": 100}
	r := New(append(runs(), closed, open, open))
	require.Equal(t, []string{"cluster: 50 pairs, window 1"}, r.Unclean())
	const want = `| cluster: 50 pairs, window 1 | rate limited (302) | 20 | 2 |
| cluster: 50 pairs, window 1 | system exception (300) | 5 | 0.50 |
| cluster: 20 pairs, 2,000 messages/s | system exception (300) | 200 | 25 |
`
	require.Contains(t, r.Markdown(), "## Refused requests\n\n|  | status | requests | of all, % |\n|---|---|---|---|\n"+want)
	require.Contains(t, pageOf(t, r), "<td>system exception (300)</td><td>200</td>")
	require.NotContains(t, New(runs()).Markdown(), "Refused")
}

func TestPageNeedsNothingElse(t *testing.T) {
	html := pageOf(t, New(runs()))
	require.Contains(t, html, "<polyline")
	for _, link := range []string{"<script", "<link", "src=", "href=", "url("} {
		require.NotContains(t, html, link)
	}
	require.Empty(t, regexp.MustCompile(`https?://`).FindAllString(strings.ReplaceAll(html, `xmlns="http://www.w3.org/2000/svg"`, ""), -1))
}

func pageOf(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, r.HTML(&b))
	return b.String()
}

// Whatever the figures are, a plot is well-formed, and all of it is inside its box.
func TestPlotsStayInsideTheirBox(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := plot{load: "talk", axis: "a < b", figure: figure{unit: "µs & more"}}
		for range rapid.IntRange(1, 8).Draw(t, "series") {
			s := series{name: rapid.StringMatching(`[ -~µ–]*`).Draw(t, "name")}
			for range rapid.IntRange(1, 6).Draw(t, "points") {
				low := rapid.Float64Range(-10, 1e12).Draw(t, "least")
				more := rapid.Float64Range(0, 1e12)
				middle := low + more.Draw(t, "to the median")
				s.points = append(s.points, point{
					x:    rapid.Float64Range(0, 1e9).Draw(t, "x"),
					stat: stat{min: low, median: middle, max: middle + more.Draw(t, "to the most")},
				})
			}
			p.series = append(p.series, s)
		}
		checkPlot(t, p.svg(), newCanvas(p).height)
	})
}

func checkPlot(t require.TestingT, svg string, height float64) {
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err, svg)
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range element.Attr {
			limit, values := 0.0, strings.FieldsFunc(a.Value, func(r rune) bool { return r == ' ' || r == ',' })
			switch a.Name.Local {
			case "x", "x1", "x2", "cx":
				limit = plotWidth
			case "y", "y1", "y2", "cy":
				limit = height
			case "points":
				limit = max(plotWidth, height)
			default:
				continue
			}
			for _, text := range values {
				v, err := strconv.ParseFloat(text, 64)
				require.NoError(t, err, "%s=%q", a.Name.Local, a.Value)
				require.True(t, v >= 0 && v <= limit, "%s=%q", a.Name.Local, a.Value)
			}
		}
	}
}

func TestThousands(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.85: "0.85", 1.2: "1.20", 9.999: "10.0", 12.34: "12.3", 123.4: "123", 999.6: "1,000", 1234: "1,234", 1234567: "1,234,567",
		-1234: "-1,234", -123: "-123",
	} {
		require.Equal(t, want, thousands(v))
	}
}

func TestMedian(t *testing.T) {
	require.InDelta(t, 2, median([]float64{1, 2, 9}), 0)
	require.InDelta(t, 1.5, median([]float64{1, 2}), 0)
}
