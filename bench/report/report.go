// Package report makes tables in Markdown and a page of HTML with plots from runs of hermod bench.
package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hermod-im/hermod/bench"
)

// Report is runs, sorted into rows: a row is the runs that were asked for the same.
type Report struct {
	rows []row
}

// row is the runs of one configuration.
type row struct {
	facts // of the first run; figures are medians
	site  string
	runs  []*bench.Run
	// stats of the figures, in their order.
	stats []stat
}

// stat sums up a figure of some runs.
type stat struct {
	figure
	min, median, max float64
}

// Read reads runs, one JSON value after the other, as `hermod bench … --json` prints them.
func Read(r io.Reader) (runs []*bench.Run, err error) {
	for d := json.NewDecoder(r); ; {
		run := new(bench.Run)
		switch err := d.Decode(run); {
		case errors.Is(err, io.EOF):
			return runs, nil
		case err != nil:
			return nil, fmt.Errorf("run %d: %w", len(runs)+1, err)
		}
		if _, ok := factsOf(run); !ok {
			return nil, fmt.Errorf("run %d: no result of hermod bench", len(runs)+1)
		}
		runs = append(runs, run)
	}
}

// New sorts runs into rows. The rows are in the order of their first runs.
func New(runs []*bench.Run) *Report {
	r := &Report{}
	index := map[string]int{}
	for _, run := range runs {
		f, ok := factsOf(run)
		if !ok {
			continue
		}
		key := run.Row + "\x00" + run.Site + "\x00" + f.identity("")
		i, ok := index[key]
		if !ok {
			i = len(r.rows)
			index[key] = i
			r.rows = append(r.rows, row{facts: f, site: run.Site})
		}
		r.rows[i].runs = append(r.rows[i].runs, run)
	}
	for i := range r.rows {
		r.rows[i].sum()
	}
	return r
}

// identity is equal for runs of a load that were asked for the same, but for the parameter except.
func (f *facts) identity(except string) string {
	var b strings.Builder
	b.WriteString(f.load)
	for _, p := range f.params {
		if p.name != except {
			fmt.Fprintf(&b, " %s=%g", p.name, p.same)
		}
	}
	return b.String()
}

// describe is the parameters in words, but for except.
func (f *facts) describe(except string) string {
	var texts []string
	for _, p := range f.params {
		if p.text != "" && p.name != except {
			texts = append(texts, p.text)
		}
	}
	return strings.Join(texts, ", ")
}

// param finds a parameter.
func (f *facts) param(name string) (param, bool) {
	i := slices.IndexFunc(f.params, func(p param) bool { return p.name == name })
	if i < 0 {
		return param{}, false
	}
	return f.params[i], true
}

// sum computes the row's stats from its runs.
func (w *row) sum() {
	values := map[string][]float64{}
	for _, run := range w.runs {
		f, _ := factsOf(run) // all of a row are of one load
		for _, figure := range f.figures {
			values[figure.key] = append(values[figure.key], figure.value)
		}
	}
	for _, figure := range w.figures {
		all := slices.Sorted(slices.Values(values[figure.key]))
		w.stats = append(w.stats, stat{figure: figure, min: all[0], median: median(all), max: all[len(all)-1]})
	}
}

// median of sorted values.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// stat finds a figure's.
func (w *row) stat(key string) (stat, bool) {
	i := slices.IndexFunc(w.stats, func(s stat) bool { return s.key == key })
	if i < 0 {
		return stat{}, false
	}
	return w.stats[i], true
}

// Unclean are the rows of which a run has lost, doubled or reordered something, was refused what it should not be, or
// has not ended well otherwise.
func (r *Report) Unclean() (rows []string) {
	for _, w := range r.rows {
		if slices.ContainsFunc(w.runs, func(run *bench.Run) bool { return !run.Clean() }) {
			rows = append(rows, w.title())
		}
	}
	return rows
}

// title is the row's configuration in words.
func (w *row) title() string {
	site := w.site
	if site != "" {
		site += ": "
	}
	return site + cmp.Or(w.describe(""), w.load)
}
