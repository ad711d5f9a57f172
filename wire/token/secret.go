package token

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// secretBytes is the length of a new secret: the size of HS256's hash, the least that RFC 7518,
// section 3.2, allows.
const secretBytes = 32

// maxSecretFile bounds a secret file, in bytes: whatever is larger is some other file.
const maxSecretFile = 4 << 10

// NewSecret returns a random signing secret: 32 bytes as 43 characters of base64url.
func NewSecret() string {
	b := make([]byte, secretBytes)
	rand.Read(b) //nolint:errcheck // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}

// LoadSecret reads the secret of a file, without the white space around it. A file that others
// than its owner can read is refused; a file that does not exist is fs.ErrNotExist.
func LoadSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("load secret: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("load secret: %s can be read by others (mode %04o): run chmod 600 %[1]s, "+
			"and replace the secret if it may have been read", path, info.Mode().Perm())
	}
	if info.Size() > maxSecretFile {
		return "", fmt.Errorf("load secret: %s is larger than %d bytes", path, maxSecretFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("load secret: %w", err)
	}
	s := strings.TrimSpace(string(b))
	if s == "" {
		return "", fmt.Errorf("load secret: %s is empty: delete it to have a new one made", path)
	}
	return s, nil
}

// LoadOrCreateSecret is LoadSecret, except that a missing file is made, with a new secret, mode
// 0600 and its folder if need be. Of several processes that start at once one makes the file and
// all return its secret; a crash leaves the whole file or none.
func LoadOrCreateSecret(path string) (string, error) {
	s, err := LoadSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if err := createSecret(path, NewSecret()); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("create secret: %w", err)
	}
	return LoadSecret(path)
}

// createSecret writes a new file; fs.ErrExist if there is one by now.
func createSecret(path, secret string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".secret-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a leftover of ours, unreadable to others
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path) // unlike Rename, it does not replace another process's file
}
