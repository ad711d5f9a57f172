package token_test

import (
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/wire/token"
)

func TestNewSecret(t *testing.T) {
	a, b := token.NewSecret(), token.NewSecret()
	require.NotEqual(t, a, b)
	raw, err := base64.RawURLEncoding.DecodeString(a)
	require.NoError(t, err)
	require.Len(t, raw, 32)
}

func TestLoadOrCreateSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "secret")
	_, err := token.LoadSecret(path)
	require.ErrorIs(t, err, fs.ErrNotExist)

	first, err := token.LoadOrCreateSecret(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())

	again, err := token.LoadOrCreateSecret(path)
	require.NoError(t, err)
	require.Equal(t, first, again)

	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, files, 1, "no temporary file is left")
}

func TestLoadOrCreateSecretAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			s, err := token.LoadOrCreateSecret(path)
			if err != nil {
				t.Error(err)
			}
			got[i] = s
		})
	}
	wg.Wait()
	for _, s := range got {
		require.Equal(t, got[0], s)
	}
}

func TestLoadSecretRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		mode    fs.FileMode
		want    string
	}{
		"group can read":  {"s", 0o640, "chmod 600"},
		"others can read": {"s", 0o604, "chmod 600"},
		"empty":           {" \n", 0o600, "is empty"},
		"another file":    {string(make([]byte, 5000)), 0o600, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
			require.NoError(t, os.Chmod(path, c.mode))
			_, err := token.LoadOrCreateSecret(path)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, path)
		})
	}
}
