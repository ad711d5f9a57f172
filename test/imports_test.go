// Package test is the tests of the project as a whole.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hermod-im/hermod"

// im is the root package in the table below.
const im = "."

// mayImport is the table of docs/architecture.md: which of our packages a package may import. A key
// or an entry that ends in /... is a package and all below it; the longest key that fits a package
// is its row. "..." is anything but the tests.
var mayImport = map[string][]string{
	im: {},

	"wire":       {im, "wire/pb"},
	"wire/pb":    {},
	"wire/token": {},

	"naming":            {im},
	"naming/memory":     {im, "naming"},
	"naming/consul":     {im, "naming"},
	"naming/namingtest": {im, "naming"},

	"storage":           {im, "wire/..."},
	"storage/memory":    {im, "wire/...", "storage"},
	"storage/redis":     {im, "wire/...", "storage"},
	"storage/sql":       {im, "wire/...", "storage", "storage/sql/sqlite"},
	"storage/snowflake": {im, "wire/...", "storage"},

	"storage/sql/sqlite":            {},
	"storage/snowflake/consullease": {im, "wire/...", "storage", "storage/snowflake"},
	"storage/storagetest":           {im, "wire/...", "storage", "storage/snowflake"},

	"transport":           {im},
	"transport/tcp":       {im, "transport"},
	"transport/websocket": {im, "transport"},

	"transport/transporttest": {im, "transport"},

	"container": {im, "wire/...", "naming", "transport/..."},
	"gateway":   {im, "wire/...", "naming", "container", "limit"},
	"logic":     {im, "wire/...", "naming", "storage", "container", "limit"},
	"router":    {"naming", "wire/token"},
	"client":    {im, "wire/...", "transport/..."},

	"limit":  {},
	"config": {im},
	"admin":  {im},
	"bench":  {im, "wire/...", "transport/...", "client"},

	"bench/report": {"bench"},
	// Who judges and the old client share no code with what they judge.
	"verify":                 {"client", "wire/token", "verify/..."},
	"verify/internal/oracle": {},
	"verify/oldclient":       {},

	"boot": {"..."},

	"cmd/...":  {"..."},
	"deploy":   {},
	"test/...": {"...", "test/..."},
}

// testsMayImport is what test files may import beyond their package's row: the package itself, what
// stands in for a collaborator, and the servers under test.
var testsMayImport = []string{
	im, "naming", "naming/memory", "naming/namingtest", "storage", "storage/memory", "storage/snowflake", "storage/storagetest",
	"transport/...", "wire/...", "test/await", "test/component", "test/cost",
}

// testsAlsoImport are the exceptions to that.
var testsAlsoImport = map[string][]string{
	"client": {"boot"},   // its examples need a server
	"verify": {"boot"},   // its run needs a server
	"deploy": {"config"}, // the sample configs are parsed
}

// goPackage is what the test wants of `go list -json`.
type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestImportsFollowTheArchitecture(t *testing.T) {
	for _, p := range packages(t) {
		name := short(p.ImportPath)
		row, ok := rowOf(mayImport, name)
		if !ok {
			t.Errorf("package %s is not in the table", name)
			continue
		}
		for _, imported := range ours(p.Imports) {
			if !matchesAny(row, imported) {
				t.Errorf("%s imports %s, which the table does not allow", name, imported)
			}
		}
		inTests := slices.Concat(row, testsMayImport, testsAlsoImport[name], []string{name})
		for _, imported := range ours(slices.Concat(p.TestImports, p.XTestImports)) {
			if !matchesAny(inTests, imported) {
				t.Errorf("tests of %s import %s, which the table does not allow", name, imported)
			}
		}
	}
}

// What architecture and libraries keep in one place, so that it can be replaced there.
func TestLibrariesStayWhereTheyBelong(t *testing.T) {
	owners := map[string][]string{
		"github.com/go-redis/redis":        {"storage/redis"},
		"github.com/hashicorp/consul/api":  {"naming/consul", "storage/snowflake/consullease"},
		"gorm.io/":                         {"storage/sql"},
		"github.com/glebarez/":             {"storage/sql"},
		"modernc.org/":                     {"storage/sql/sqlite"},
		"github.com/pressly/goose":         {"storage/sql"},
		"github.com/gobwas/":               {"transport/websocket"},
		"github.com/bwmarrin/snowflake":    {"storage/snowflake"},
		"github.com/golang-jwt/":           {"wire/token"},
		"github.com/knadh/koanf":           {"config"},
		"github.com/spf13/cobra":           {"cmd/..."},
		"golang.org/x/sys":                 {"transport/...", "bench"},
		"github.com/sirupsen/logrus":       nil, // anywhere but in the root, wire and client
		"github.com/prometheus/client_gol": nil,
	}
	logFree := []string{im, "wire/...", "client", "naming/..."}
	for _, p := range packages(t) {
		name := short(p.ImportPath)
		for _, imported := range p.Imports {
			for library, packages := range owners {
				if !strings.HasPrefix(imported, library) {
					continue
				}
				if packages == nil && matchesAny(logFree, name) || packages != nil && !matchesAny(packages, name) {
					t.Errorf("%s imports %s", name, imported)
				}
			}
		}
		if name == im {
			for _, imported := range p.Imports {
				if strings.Contains(imported, ".") {
					t.Errorf("the root imports %s: it is the standard library's only", imported)
				}
			}
		}
	}
}

// A row that no package has is an architecture that is not, or not yet.
func TestTableNamesPackagesThatExist(t *testing.T) {
	var names []string
	for _, p := range packages(t) {
		names = append(names, short(p.ImportPath))
	}
	for _, key := range slices.Sorted(maps.Keys(mayImport)) {
		if !slices.ContainsFunc(names, func(name string) bool { return matches(key, name) }) {
			t.Errorf("the table has %s, the module has not", key)
		}
	}
}

func TestMatches(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"wire", "wire", true},
		{"wire", "wire/pb", false},
		{"wire/...", "wire", true},
		{"wire/...", "wire/pb", true},
		{"wire/...", "wireless", false},
		{"...", "naming/consul", true},
		{"...", "test/component", false},
		{"...", "test", false},
	}
	for _, test := range tests {
		if got := matches(test.pattern, test.name); got != test.want {
			t.Errorf("matches(%q, %q) = %v", test.pattern, test.name, got)
		}
	}
	if row, _ := rowOf(map[string][]string{"a/...": {"x"}, "a/b": {"y"}}, "a/b"); !slices.Equal(row, []string{"y"}) {
		t.Errorf("the longest key does not win: %v", row)
	}
}

// packages lists the module's packages.
func packages(t *testing.T) []goPackage {
	t.Helper()
	var out []goPackage
	decode := json.NewDecoder(bytes.NewReader(goTool(t, "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")))
	for {
		var p goPackage
		err := decode.Decode(&p)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

// goTool runs the go command and returns what it prints.
func goTool(t *testing.T, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return out
}

// short is a package's path within the module.
func short(path string) string {
	if path == module {
		return im
	}
	return strings.TrimPrefix(path, module+"/")
}

// ours returns the short paths of those that are the module's.
func ours(paths []string) []string {
	var out []string
	for _, path := range paths {
		if path == module || strings.HasPrefix(path, module+"/") {
			out = append(out, short(path))
		}
	}
	return out
}

func rowOf(table map[string][]string, name string) (row []string, ok bool) {
	best := ""
	for key := range table {
		if matches(key, name) && (best == "" || len(strings.TrimSuffix(key, "/...")) > len(strings.TrimSuffix(best, "/..."))) {
			best = key
		}
	}
	return table[best], best != ""
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, name) })
}

func matches(pattern, name string) bool {
	if pattern == "..." {
		return name != "test" && !strings.HasPrefix(name, "test/")
	}
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == above || strings.HasPrefix(name, above+"/")
	}
	return name == pattern
}
