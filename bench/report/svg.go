package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes of a plot, in SVG's units: the frame is what is left between the margins.
const (
	plotWidth, plotHeight = 620.0, 340.0
	marginLeft            = 64.0
	marginRight           = 16.0
	marginTop             = 28.0
	marginBottom          = 44.0
	legendLine            = 16.0
)

// svg draws the plot: a line through the medians of each series, with a bar from least to most; the axis
// of the parameter is logarithmic, that of the figure begins at 0.
func (p plot) svg() string {
	c := newCanvas(p)
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s">`,
		plotWidth, c.height, html.EscapeString(p.title()))
	c.grid()
	for i, s := range p.series {
		c.line(i, s)
	}
	c.text(marginLeft+(plotWidth-marginLeft-marginRight)/2, plotHeight-8, "middle", p.axis)
	c.text(4, marginTop-14, "start", p.figure.unit)
	c.printf("</svg>\n")
	return c.String()
}

// canvas knows where values are in a plot.
type canvas struct {
	strings.Builder
	plot
	height     float64
	xMin, xMax float64 // decimal logarithms
	yMax, step float64
}

func newCanvas(p plot) *canvas {
	c := &canvas{plot: p, height: plotHeight + legendLine*float64(len(p.series)), xMin: math.Inf(1), xMax: math.Inf(-1)}
	for _, s := range p.series {
		for _, q := range s.points {
			x := math.Log10(max(q.x, 1))
			c.xMin, c.xMax, c.yMax = min(c.xMin, x), max(c.xMax, x), max(c.yMax, q.max)
		}
	}
	if c.xMax-c.xMin < 1e-9 {
		c.xMin, c.xMax = c.xMin-1, c.xMax+1
	}
	c.step = niceStep(c.yMax)
	c.yMax = c.step * math.Max(1, math.Ceil(c.yMax/c.step))
	return c
}

// niceStep divides an axis up to v into about five parts of 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v/5)))
	for _, factor := range []float64{1, 2, 5} {
		if v/(factor*power) <= 6 {
			return factor * power
		}
	}
	return 10 * power
}

func (c *canvas) x(v float64) float64 {
	share := (math.Log10(max(v, 1)) - c.xMin) / (c.xMax - c.xMin)
	return marginLeft + 12 + share*(plotWidth-marginLeft-marginRight-24)
}

func (c *canvas) y(v float64) float64 {
	return plotHeight - marginBottom - max(v, 0)/c.yMax*(plotHeight-marginTop-marginBottom)
}

// grid draws a line for each step of the figure, and a mark for each place on the axis.
func (c *canvas) grid() {
	for i := 0.0; i*c.step <= c.yMax*1.001; i++ {
		y := c.y(i * c.step)
		c.printf(`<line class="grid" x1="%g" y1="%.1f" x2="%g" y2="%.1f"/>`, marginLeft, y, plotWidth-marginRight, y)
		c.text(marginLeft-6, y+4, "end", thousands(i*c.step))
	}
	marked := math.Inf(-1)
	for _, x := range c.places() {
		const room = 30 // for a number
		if at := c.x(x); at-marked >= room {
			c.text(at, plotHeight-marginBottom+16, "middle", thousands(x))
			marked = at
		}
	}
}

func (c *canvas) line(i int, s series) {
	class := fmt.Sprintf("s%d", i%seriesColours)
	var path strings.Builder
	for _, q := range s.points {
		fmt.Fprintf(&path, "%.1f,%.1f ", c.x(q.x), c.y(q.median))
	}
	c.printf(`<g class="%s"><polyline points="%s"/>`, class, strings.TrimSpace(path.String()))
	for _, q := range s.points {
		c.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><circle cx="%.1f" cy="%.1f" r="3"><title>%s</title></circle>`,
			c.x(q.x), c.y(q.min), c.x(q.x), c.y(q.max), c.x(q.x), c.y(q.median), html.EscapeString(thousands(q.x)+": "+q.stat.String()))
	}
	y := plotHeight + legendLine*float64(i)
	c.printf(`<line x1="%g" y1="%.1f" x2="%g" y2="%.1f"/></g>`, marginLeft, y, marginLeft+20, y)
	c.text(marginLeft+26, y+4, "start", s.name)
}

func (c *canvas) text(x, y float64, anchor, text string) {
	c.printf(`<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(text))
}

func (c *canvas) printf(format string, args ...any) { fmt.Fprintf(c, format, args...) }
