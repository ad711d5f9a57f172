package report

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/hermod-im/hermod/bench"
)

// table is a heading and cells, for Markdown and HTML.
type table struct {
	Name  string // of its place in a document
	Title string
	Head  []string
	Rows  [][]string
}

// Markdown is all tables, each under a heading.
func (r *Report) Markdown() string {
	var b strings.Builder
	for _, t := range r.tables() {
		fmt.Fprintf(&b, "## %s\n\n%s\n", t.Title, t.markdown())
	}
	return b.String()
}

// Targets is the table of the figures that have one.
func (r *Report) Targets() string { return r.targets().markdown() }

// Summary is a run's configuration and its first figure.
func Summary(run *bench.Run) string {
	f, ok := factsOf(run)
	if !ok || len(f.figures) == 0 {
		return "nothing"
	}
	first := f.figures[0]
	return f.describe("") + ": " + first.name + " " + thousands(first.value) + " " + first.unit
}

func (t table) markdown() string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.Head)
	b.WriteString(strings.Repeat("|---", len(t.Head)) + "|\n")
	for _, cells := range t.Rows {
		line(cells)
	}
	return b.String()
}

// Embed replaces what is between the lines <!-- bench NAME --> and <!-- end --> of a document by the table
// of that name. A name that no table has is an error, so that a document cannot keep old figures.
func (r *Report) Embed(document []byte) ([]byte, error) {
	const begin, end = "<!-- bench ", "<!-- end -->"
	tables := r.tables()
	var out bytes.Buffer
	for rest := document; ; {
		i := bytes.Index(rest, []byte(begin))
		if i < 0 {
			out.Write(rest)
			return out.Bytes(), nil
		}
		name, after, ok1 := strings.Cut(string(rest[i+len(begin):]), " -->\n")
		_, after, ok2 := strings.Cut(after, end)
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("%q has no end", begin+name)
		}
		n := slices.IndexFunc(tables, func(t table) bool { return t.Name == name })
		if n < 0 {
			return nil, fmt.Errorf("no runs for the table %q", name)
		}
		out.Write(rest[:i])
		out.WriteString(begin + name + " -->\n" + tables[n].markdown() + end)
		rest = []byte(after)
	}
}

// tables are those that the runs have something for.
func (r *Report) tables() (list []table) {
	add := func(t table) {
		if len(t.Rows) > 0 {
			list = append(list, t)
		}
	}
	add(r.targets())
	for _, load := range []string{"talk", "group", "connect", "sync"} {
		add(r.figures(load))
	}
	add(r.refusals())
	add(r.processes())
	for _, p := range r.plots() {
		add(p.table())
	}
	add(r.machines())
	return list
}

// targets is a row for each figure that has one.
func (r *Report) targets() table {
	t := table{Name: "targets", Title: "Targets", Head: []string{"", "", "target", "stretch", "measured: median (min – max)", ""}}
	for _, w := range r.rows {
		for _, target := range w.runs[len(w.runs)-1].Targets {
			s, ok := w.stat(target.Figure)
			if !ok {
				continue
			}
			stretch := ""
			if target.Stretch != 0 {
				stretch = bound(target, target.Stretch)
			}
			t.Rows = append(t.Rows, []string{
				w.title(), s.name + ", " + s.unit, bound(target, target.Limit), stretch,
				s.String(), verdict(target, s.median),
			})
		}
	}
	return t
}

func bound(t bench.Target, v float64) string {
	if t.AtLeast {
		return "≥ " + thousands(v)
	}
	return "≤ " + thousands(v)
}

func verdict(t bench.Target, v float64) string {
	met := func(limit float64) bool { return limit != 0 && (v <= limit) != t.AtLeast || v == limit }
	switch {
	case met(t.Stretch):
		return "stretch met"
	case met(t.Limit):
		return "met"
	default:
		return "missed"
	}
}

// figures is a row for each configuration of a load, and a column for each figure that one has.
func (r *Report) figures(load string) table {
	t := table{Name: load, Title: "bench " + load, Head: []string{""}}
	var keys []string
	for _, w := range r.rows {
		for _, s := range w.stats {
			if w.load == load && !slices.Contains(keys, s.key) {
				keys = append(keys, s.key)
				t.Head = append(t.Head, s.name+", "+s.unit)
			}
		}
	}
	for _, w := range r.rows {
		if w.load != load {
			continue
		}
		cells := []string{w.title()}
		for _, key := range keys {
			cell := "–"
			if s, ok := w.stat(key); ok {
				cell = s.String()
			}
			cells = append(cells, cell)
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// String is the median, and least and most if there are several runs.
func (s stat) String() string {
	if s.min == s.max {
		return thousands(s.median)
	}
	return thousands(s.median) + " (" + thousands(s.min) + " – " + thousands(s.max) + ")"
}

// refusals are those of each configuration that had any, of all its runs together.
func (r *Report) refusals() table {
	t := table{Name: "refused", Title: "Refused requests", Head: []string{"", "status", "requests", "of all, %"}}
	for _, w := range r.rows {
		var sent int64
		byStatus := map[string]float64{}
		for _, run := range w.runs {
			f, _ := factsOf(run) // all of a row are of one load
			sent += f.sent
			for status, n := range f.refused {
				byStatus[status] += float64(n)
			}
		}
		for _, status := range sortedKeys(byStatus) {
			n := byStatus[status]
			t.Rows = append(t.Rows, []string{w.title(), status, thousands(n), thousands(100 * n / float64(max(1, sent)))})
		}
	}
	return t
}

// processes is where the CPU time of each configuration goes, for those with several processes.
func (r *Report) processes() table {
	t := table{Name: "processes", Title: "CPU time by process, µs (medians)", Head: []string{"", "per"}}
	var kinds []string
	byRow := make([]map[string]float64, len(r.rows))
	for i, w := range r.rows {
		byRow[i] = w.byKind()
		for _, name := range sortedKeys(byRow[i]) {
			if len(byRow[i]) > 1 && !slices.Contains(kinds, name) {
				kinds = append(kinds, name)
			}
		}
	}
	t.Head = append(t.Head, kinds...)
	for i, w := range r.rows {
		if len(byRow[i]) < 2 {
			continue
		}
		cells := []string{w.title(), w.unit}
		for _, kind := range kinds {
			cells = append(cells, thousands(byRow[i][kind]))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// byKind is the CPU time of gateway-1, gateway-2… as that of gateway, and so on: medians.
func (w *row) byKind() map[string]float64 {
	values := map[string][]float64{}
	for _, run := range w.runs {
		f, _ := factsOf(run) // all of a row are of one load
		sums := map[string]float64{}
		for name, v := range f.cpu.ByProcess {
			sums[strings.TrimRight(name, "-0123456789")] += v
		}
		for kind, v := range sums {
			values[kind] = append(values[kind], v)
		}
	}
	medians := map[string]float64{}
	for kind, v := range values {
		slices.Sort(v)
		medians[kind] = median(v)
	}
	return medians
}

// machines is where and with what the runs were made.
func (r *Report) machines() table {
	t := table{Name: "machine", Title: "Machine", Head: []string{"machine", "version", "runs", "last"}}
	type place struct{ machine, version string }
	var places []place
	runs := map[place][]*bench.Run{}
	for _, w := range r.rows {
		for _, run := range w.runs {
			p := place{run.Machine, run.Version}
			if p.machine == "" {
				continue
			}
			if runs[p] == nil {
				places = append(places, p)
			}
			runs[p] = append(runs[p], run)
		}
	}
	for _, p := range places {
		last := slices.MaxFunc(runs[p], func(a, b *bench.Run) int { return a.At.Compare(b.At) })
		t.Rows = append(t.Rows, []string{p.machine, p.version, thousands(float64(len(runs[p]))), last.At.UTC().Format("2006-01-02 15:04 UTC")})
	}
	return t
}
