package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a script pipes into hermod chat is stored, line by line, or the exit status says that it is not.
func TestChatPipe(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t)
	chat := []string{"chat", "--as", "alice", "--to", "bob", "--url", s.WS, "--data", s.Data}
	long := strings.Repeat("x", 59<<10)

	out, errs, status := hermodReading(t, strings.NewReader("one\n\n  two \r\n"+long+"\nthe last, without an end"), chat...)
	require.Zero(t, status, errs)
	require.Empty(t, errs)
	for _, line := range []string{"one", "two", long, "the last, without an end"} {
		require.Contains(t, out, " alice: "+line+" ✓\n")
	}

	out, _, status = hermodReading(t, strings.NewReader(""), chat...)
	require.Zero(t, status)
	require.Equal(t, 4, strings.Count(out, "✓"), out)

	// Regression: the status was 0, and from a line of 64 KiB on nothing was sent or said.
	tooMuch, longer, longest := strings.Repeat("y", 61<<10), strings.Repeat("z", 64<<10), strings.Repeat("é", 200<<10)
	out, errs, status = hermodReading(t, strings.NewReader("first\n"+tooMuch+"\n"+longer+"\n"+longest+"\nbehind\n"+longest), chat...)
	require.Equal(t, 1, status)
	require.Contains(t, out, " alice: first ✓\n")
	require.Contains(t, out, " alice: behind ✓\n")
	require.Equal(t, 4, strings.Count(out, "  ✗ "))
	require.Equal(t, 3, strings.Count(out, "… (longer than a packet, which has at most 65536 bytes)\n"))
	require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	require.Contains(t, errs, "lines that were not sent: 4; the first is line 2: ")

	folder, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer folder.Close() //nolint:errcheck // a test
	_, errs, status = hermodReading(t, folder, chat...)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "the input could not be read on after 0 lines: ")
	require.Contains(t, errs, "is a directory")
}
