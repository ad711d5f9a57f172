package report

import (
	_ "embed"
	"html/template"
	"io"
)

// seriesColours is how many classes of colours report.html has for series.
const seriesColours = 6

//go:embed report.html
var page string

// HTML writes a page that needs nothing else: tables, and plots as SVG.
func (r *Report) HTML(w io.Writer) error {
	t, err := template.New("report").Parse(page)
	if err != nil {
		return err
	}
	type drawn struct {
		Title string
		SVG   template.HTML
	}
	var data struct {
		Unclean []string
		Tables  []table
		Plots   []drawn
	}
	data.Unclean = r.Unclean()
	plots := map[string]bool{}
	for _, p := range r.plots() {
		plots[p.name()] = true
		data.Plots = append(data.Plots, drawn{p.title(), template.HTML(p.svg())}) //nolint:gosec // svg escapes what it is given
	}
	for _, t := range r.tables() {
		if !plots[t.Name] {
			data.Tables = append(data.Tables, t)
		}
	}
	return t.Execute(w, data)
}
