package wire_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// docs/protocol.md is the reference: what it says must be what the code does.

func readDoc(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../docs/protocol.md")
	must(t, err)
	return string(data)
}

// TestDocMessages compares the fields of every message, both ways.
func TestDocMessages(t *testing.T) {
	documented := docMessages(t, readDoc(t))
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		d := m.Descriptor()
		if d.ParentFile().Package() != "hermod" {
			return true
		}
		var fields []string
		for i := range d.Fields().Len() {
			fields = append(fields, describe(d.Fields().Get(i)))
		}
		name := string(d.Name())
		diff(t, name, fields, documented[name])
		delete(documented, name)
		return true
	})
	for name := range documented {
		t.Errorf("message %s is documented and does not exist", name)
	}
}

func describe(f protoreflect.FieldDescriptor) string {
	typ := f.Kind().String()
	switch f.Kind() {
	case protoreflect.MessageKind:
		typ = string(f.Message().Name())
	case protoreflect.EnumKind:
		typ = string(f.Enum().Name())
	}
	if f.IsList() {
		typ = "repeated " + typ
	}
	return fmt.Sprint(f.Number(), " ", f.Name(), " ", typ)
}

// docMessages reads lines like "Name  1 field type · 2 field type" in code blocks; a line that ends
// in · goes on in the next.
func docMessages(t *testing.T, doc string) map[string][]string {
	t.Helper()
	doc = regexp.MustCompile(`·\n\s+`).ReplaceAllString(doc, "· ")
	out := map[string][]string{}
	for _, line := range regexp.MustCompile(`(?m)^([A-Z]\w+)\s{2,}(1 .+)$`).FindAllStringSubmatch(doc, -1) {
		if _, twice := out[line[1]]; twice {
			t.Errorf("message %s is documented twice", line[1])
		}
		out[line[1]] = strings.Split(line[2], " · ")
	}
	return out
}

func TestDocStatuses(t *testing.T) {
	table := section(t, readDoc(t), "## Statuses")
	for n, name := range pb.Status_name {
		row := fmt.Sprintf("| %d | %s |", n, strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "STATUS_"), "_", " ")))
		if !strings.Contains(table, row) {
			t.Errorf("no row %q", row)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(table, -1) {
		n, _ := strconv.Atoi(m[1])
		if _, ok := pb.Status_name[int32(n)]; !ok {
			t.Errorf("status %d is documented and does not exist", n)
		}
	}
}

func TestDocCloseCodes(t *testing.T) {
	table := section(t, readDoc(t), "## Close codes")
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (\w+) \|`).FindAllStringSubmatch(table, -1)
	var documented []string
	for _, m := range rows {
		documented = append(documented, m[1]+" "+m[2])
	}
	var want []string
	for r := range im.NumReasons {
		want = append(want, fmt.Sprint(im.Reason(r).Code(), " ", im.Reason(r)))
	}
	slices.Sort(want)
	slices.Sort(documented)
	diff(t, "close codes", want, documented)
}

func TestDocFeatures(t *testing.T) {
	table := section(t, readDoc(t), "## Features")
	for _, name := range wire.Features(1<<32 - 1).Names() {
		if !strings.Contains(table, "| "+name+" |") {
			t.Errorf("feature %q is not documented", name)
		}
	}
}

// TestDocCommands finds the constants in command.go, so that a new one cannot be forgotten.
func TestDocCommands(t *testing.T) {
	source, err := os.ReadFile("command.go")
	must(t, err)
	doc := readDoc(t)
	clients, services := section(t, doc, "## Commands"), section(t, doc, "## Links")
	var names []string
	for _, m := range regexp.MustCompile(`Cmd\w+\s+Command = "([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		names = append(names, m[1])
		table := clients
		if wire.Command(m[1]).Internal() {
			table = services
		}
		if !regexp.MustCompile(`(?m)^\| \**` + regexp.QuoteMeta(m[1]) + `\** \|`).MatchString(table) {
			t.Errorf("command %s has no row", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\| \**([a-z]+\.[a-z.]+)\** \|`).FindAllStringSubmatch(doc, -1) {
		if !slices.Contains(names, m[1]) {
			t.Errorf("command %s is documented and does not exist", m[1])
		}
	}
}

// section is the text from a heading to the next one of its level.
func section(t *testing.T, doc, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(doc, "\n"+heading)
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}
