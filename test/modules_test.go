package test

import (
	"encoding/json"
	"testing"
)

// SQLite in pure Go is C translated against one version of modernc.org/libc; with another it
// corrupts memory. A dependency that wants a newer libc would raise it unnoticed.
func TestLibcIsTheOneThatSQLiteWants(t *testing.T) {
	var sqlite struct{ GoMod string }
	if err := json.Unmarshal(goTool(t, "list", "-m", "-json", "modernc.org/sqlite"), &sqlite); err != nil {
		t.Fatal(err)
	}
	const libc = "modernc.org/libc"
	want := requirement(t, sqlite.GoMod, libc)
	if got := requirement(t, "../go.mod", libc); got != want {
		t.Errorf("go.mod requires %s %s, modernc.org/sqlite wants %s", libc, got, want)
	}
	var built struct{ Version string }
	if err := json.Unmarshal(goTool(t, "list", "-m", "-json", libc), &built); err != nil {
		t.Fatal(err)
	}
	if built.Version != want {
		t.Errorf("the build uses %s %s, modernc.org/sqlite wants %s", libc, built.Version, want)
	}
}

// requirement is the version of a module that a go.mod file requires.
func requirement(t *testing.T, file, path string) string {
	t.Helper()
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(goTool(t, "mod", "edit", "-json", file), &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if r.Path == path {
			return r.Version
		}
	}
	t.Fatalf("%s does not require %s", file, path)
	return ""
}
