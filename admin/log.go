package admin

import (
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/sirupsen/logrus"
)

// NewLogger makes the logger of a process. The level is one of logrus's names; the format is
// "text", "json", or "auto": text if out is a terminal, JSON otherwise.
func NewLogger(level, format string, out io.Writer) (*logrus.Logger, error) {
	l := logrus.New()
	l.SetOutput(out)
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	l.SetLevel(parsed)
	switch {
	case format == "json", format == "auto" && !isTerminal(out):
		l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	case format == "text", format == "auto":
		l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "15:04:05.000"})
	default:
		return nil, fmt.Errorf("log format %q: must be auto, text or json", format)
	}
	return l, nil
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// ErrorLog turns what the standard library logs (an http.Server's ErrorLog) into warnings of l.
func ErrorLog(l logrus.FieldLogger) *log.Logger { return log.New(warnings{l}, "", 0) }

type warnings struct{ log logrus.FieldLogger }

func (w warnings) Write(line []byte) (int, error) {
	w.log.Warn(strings.TrimSpace(string(line)))
	return len(line), nil
}
