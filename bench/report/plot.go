package report

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// plot is how a figure grows with one parameter.
type plot struct {
	load, axis string // name of the parameter
	figure     figure // its value does not matter
	series     []series
}

// series are the rows that differ in that parameter only.
type series struct {
	name   string
	points []point
}

// point is a row's stat.
type point struct {
	x float64
	stat
}

// minPoints is how many make a line that says something.
const minPoints = 3

// plotted are the figures whose growth matters, by load.
func plotted(load string) []string {
	switch load {
	case "talk":
		return []string{"cpu", "rate", "ack_p50", "ack_p99"}
	case "group":
		return []string{"cpu", "rate", "deliver_p50", "deliver_p99"}
	case "connect":
		return []string{"memory", "cpu", "heartbeat"}
	default:
		return []string{"cpu_message", "complete_p50", "complete_p99"}
	}
}

// plots are all that have a series of enough points, in the order of the rows.
func (r *Report) plots() (list []plot) {
	type axis struct{ load, name string }
	seen := map[axis]bool{}
	for _, w := range r.rows {
		for _, p := range w.params {
			if a := (axis{w.load, p.name}); !seen[a] {
				seen[a] = true
				list = append(list, r.plotsOf(a.load, a.name)...)
			}
		}
	}
	return list
}

func (r *Report) plotsOf(load, axis string) (list []plot) {
	for _, key := range plotted(load) {
		p := plot{load: load, axis: axis}
		index := map[string]int{}
		for _, w := range r.rows {
			s, measured := w.stat(key)
			x, has := w.param(axis)
			if w.load != load || !measured || !has {
				continue
			}
			id := w.site + "\x00" + w.identity(axis)
			i, ok := index[id]
			if !ok {
				i = len(p.series)
				index[id] = i
				p.series = append(p.series, series{name: strings.TrimSuffix(w.site+": "+w.describe(axis), ": ")})
			}
			p.figure = s.figure
			p.series[i].points = append(p.series[i].points, point{x.axis, s})
		}
		p.series = slices.DeleteFunc(p.series, func(s series) bool { return !s.long() })
		for _, s := range p.series {
			slices.SortFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
		}
		if len(p.series) > 0 {
			list = append(list, p)
		}
	}
	return list
}

// long reports whether there are enough different points.
func (s series) long() bool {
	different := map[float64]bool{}
	for _, p := range s.points {
		different[p.x] = true
	}
	return len(different) >= minPoints
}

// name is of the plot's place in a document: talk cpu by pairs.
func (p plot) name() string { return p.load + " " + p.figure.key + " by " + p.axis }

func (p plot) title() string {
	return p.load + ": " + p.figure.name + ", " + p.figure.unit + ", against " + p.axis
}

// places are where on the axis there is a point, in order.
func (p plot) places() (list []float64) {
	for _, s := range p.series {
		for _, point := range s.points {
			list = append(list, point.x)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// table is the plot in figures: a row for each series, a column for each place on the axis.
func (p plot) table() table {
	t := table{Name: p.name(), Title: p.title(), Head: []string{p.axis}}
	axis := p.places()
	for _, x := range axis {
		t.Head = append(t.Head, thousands(x))
	}
	for _, s := range p.series {
		cells := []string{s.name}
		for _, x := range axis {
			cell := "–"
			if i := slices.IndexFunc(s.points, func(q point) bool { return q.x == x }); i >= 0 {
				cell = s.points[i].String()
			}
			cells = append(cells, cell)
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

func sortedKeys(m map[string]float64) []string { return slices.Sorted(maps.Keys(m)) }
