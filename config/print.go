package config

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Table writes the keys as the Markdown table of docs/operations.md.
func Table(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "| key | type | default | meaning |\n|---|---|---|---|")
	for _, k := range Keys() {
		value := ""
		if k.Default != "" {
			value = "`" + k.Default + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", k.Name, k.Type, value, k.Doc)
	}
	return b.Flush()
}

// masked replaces a secret that is set.
const masked = "******"

// commentWidth is the width that comments in the sample file are wrapped at.
const commentWidth = 100

// Print writes c as a YAML file that Load accepts, in the order of Config, with secrets masked.
func (c Config) Print(w io.Writer) error { return c.write(w, false) }

// Sample writes the sample file: Default() with every key explained.
func Sample(w io.Writer) error {
	const head = `# Configuration of hermod. Every key is here with its default, so that an empty file means the same.
# Each can also be set by an environment variable (gateway.read_wait: HERMOD_GATEWAY__READ_WAIT=1m)
# and by a flag (--set gateway.read_wait=1m); flags win over the environment, which wins over this file.
# Unknown keys are errors. Check a file with: hermod config check --config FILE
`
	if _, err := io.WriteString(w, head); err != nil {
		return err
	}
	return Default().write(w, true)
}

func (c Config) write(w io.Writer, explain bool) error {
	b := bufio.NewWriter(w)
	var open []string // the sections that the line before is in
	walk(&c, func(l leaf) {
		path := strings.Split(l.name, ".")
		sections, key := path[:len(path)-1], path[len(path)-1]
		if explain && (len(open) == 0 || open[0] != path[0]) {
			fmt.Fprintln(b)
		}
		for depth, s := range sections {
			if depth < len(open) && open[depth] == s {
				continue
			}
			fmt.Fprintf(b, "%s%s:\n", indent(depth), s)
			open = open[:min(depth, len(open))]
		}
		open = sections
		if explain {
			writeComment(b, indent(len(sections)), l.doc)
		}
		fmt.Fprintf(b, "%s%s: %s\n", indent(len(sections)), key, yamlValue(l))
	})
	return b.Flush()
}

func indent(depth int) string { return strings.Repeat("  ", depth) }

func writeComment(w io.Writer, indent, text string) {
	line := indent + "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > commentWidth {
			fmt.Fprintln(w, line)
			line = indent + "#"
		}
		line += " " + word
	}
	fmt.Fprintln(w, line)
}

// yamlValue is the value in YAML, masked if it is a secret.
func yamlValue(l leaf) string {
	text := format(l.value)
	switch {
	case l.secret == "all" && text != "":
		text = masked
	case l.secret == "password":
		text = maskPassword(text)
	}
	switch typeName(l.value) {
	case "text":
		return strconv.Quote(text)
	case "list":
		return yamlList(l.value.Interface().([]string))
	default:
		return text
	}
}

func yamlList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// maskPassword hides the password of user:password@…; a text without "@" has none.
func maskPassword(dsn string) string {
	at := strings.LastIndexByte(dsn, '@')
	if at < 0 {
		return dsn
	}
	user, _, ok := strings.Cut(dsn[:at], ":")
	if !ok {
		return dsn
	}
	return user + ":" + masked + dsn[at:]
}
