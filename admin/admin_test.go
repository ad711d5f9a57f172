package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hermod-im/hermod/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server until the end of the test and returns its base URL.
func serve(t *testing.T, o admin.Options) string {
	t.Helper()
	s, err := admin.New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		require.NoError(t, <-ended)
	})
	return "http://" + s.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestEndpoints(t *testing.T) {
	url := serve(t, admin.Options{Registry: admin.NewRegistry("v1"), Version: "v1"})

	code, body := get(t, url+"/healthz")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"status":"alive","version":"v1"}`, body)

	code, body = get(t, url+"/readyz")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"status":"ready","version":"v1"}`, body)

	code, body = get(t, url+"/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, `version="v1"} 1`)
	require.Contains(t, body, "process_open_fds")

	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		code, _ = get(t, url+path)
		require.Equal(t, http.StatusOK, code, path)
	}
	code, _ = get(t, url+"/other")
	require.Equal(t, http.StatusNotFound, code)
}

func TestReadyzNamesEveryFailingCheck(t *testing.T) {
	t.Parallel()
	fails := func(text string) func(context.Context) error {
		return func(context.Context) error { return errors.New(text) }
	}
	url := serve(t, admin.Options{Checks: []admin.Check{
		{Name: "registry", Ready: fails("consul does not answer")},
		{Name: "database", Ready: func(context.Context) error { return nil }},
		{Name: "peers", Ready: fails("1 of 2 gateways connected")},
		{Name: "hangs", Ready: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
	}})
	code, body := get(t, url+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.JSONEq(t, `{"status":"not ready","reasons":{
		"registry":"consul does not answer", "peers":"1 of 2 gateways connected", "hangs":"no answer within 2s"}}`, body)
}

func TestListensOnLoopbackByDefault(t *testing.T) {
	s, err := admin.New(admin.Options{})
	require.NoError(t, err)
	defer s.Close()
	require.True(t, s.Addr().(*net.TCPAddr).IP.IsLoopback())

	_, err = admin.New(admin.Options{Listen: s.Addr().String()})
	require.ErrorContains(t, err, "listen for admin")
}

// A request that never ends must not keep the process from stopping.
func TestStopCutsOffWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	s, err := admin.New(admin.Options{Checks: []admin.Check{{Name: "slow", Ready: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}}}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	asked := make(chan error)
	go func() {
		_, err := http.Get("http://" + s.Addr().String() + "/readyz")
		asked <- err
	}()
	<-entered
	cancel()
	require.NoError(t, <-ended)
	require.Error(t, <-asked)
}

func TestLoggerFormats(t *testing.T) {
	null, err := os.Open(os.DevNull) // a character device, but no terminal
	require.NoError(t, err)
	defer null.Close()

	l, err := admin.NewLogger("warn", "auto", null)
	require.NoError(t, err)
	require.IsType(t, &logrus.JSONFormatter{}, l.Formatter)
	require.Equal(t, logrus.WarnLevel, l.Level)

	var out bytes.Buffer
	l, err = admin.NewLogger("info", "auto", &out)
	require.NoError(t, err)
	l.WithField("node", "a").Info("started")
	var line map[string]string
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "started", line["msg"])
	require.Equal(t, "a", line["node"])

	out.Reset()
	l, err = admin.NewLogger("info", "text", &out)
	require.NoError(t, err)
	admin.ErrorLog(l).Print("http: something")
	require.Regexp(t, `level=warning msg="http: something"`, out.String())

	_, err = admin.NewLogger("loud", "auto", &out)
	require.ErrorContains(t, err, "loud")
	_, err = admin.NewLogger("info", "xml", &out)
	require.ErrorContains(t, err, "xml")
}
