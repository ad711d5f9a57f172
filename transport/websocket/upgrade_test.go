package websocket_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/websocket"
)

const request = "GET /chat?x=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

// upgrade runs Upgrade against what a client writes, in pieces, and returns the answer.
func upgrade(t *testing.T, pieces ...string) (answer string, rest []byte, err error) {
	t.Helper()
	server, client := net.Pipe()
	defer client.Close()
	require.NoError(t, client.SetDeadline(time.Now().Add(10*time.Second)))
	wrote, read := make(chan struct{}), make(chan string)
	go func() {
		defer close(wrote)
		for _, p := range pieces {
			if _, err := io.WriteString(client, p); err != nil {
				return
			}
		}
	}()
	go func() {
		all, _ := io.ReadAll(client)
		read <- string(all)
	}()
	rest, err = websocket.Protocol().Upgrade(server)
	server.Close()
	<-wrote
	return <-read, rest, err
}

func TestUpgrade(t *testing.T) {
	answer, rest, err := upgrade(t, request+"Origin: http://elsewhere\r\nX-Forwarded-For: 1.2.3.4\r\n"+
		"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\nbytes after")
	require.NoError(t, err)
	require.Equal(t, "bytes after", string(rest))
	require.True(t, strings.HasPrefix(answer, "HTTP/1.1 101 "), answer)
	require.Contains(t, answer, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
	require.NotContains(t, answer, "-Protocol")
	require.NotContains(t, answer, "-Extensions")
}

func TestUpgradeInPieces(t *testing.T) {
	var pieces []string
	for _, c := range request + "\r\n" {
		pieces = append(pieces, string(c))
	}
	answer, rest, err := upgrade(t, pieces...)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.True(t, strings.HasPrefix(answer, "HTTP/1.1 101 "), answer)
}

func TestUpgradeRefused(t *testing.T) {
	pad := strings.Repeat("x", transport.MaxRequest)
	for _, c := range []struct{ name, request, status string }{
		{"no upgrade", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "400"},
		{"POST", strings.Replace(request, "GET", "POST", 1) + "\r\n", "405"},
		{"HTTP/1.0", strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1) + "\r\n", "505"},
		{"version 8", strings.Replace(request, "Version: 13", "Version: 8", 1) + "\r\n", "426"},
		{"no key", strings.Replace(request, "Sec-WebSocket-Key", "X-Key", 1) + "\r\n", "400"},
		{"too large", request + "X-Pad: " + pad, "431"},
		{"no end of line", pad, "431"},
		{"truncated", request, ""},
		{"not HTTP", "\x16\x03\x01\r\n\r\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			pieces := []string{c.request}
			if c.name == "truncated" {
				server, client := net.Pipe()
				go func() {
					_, _ = io.WriteString(client, c.request)
					_ = client.Close()
				}()
				_, err := websocket.Protocol().Upgrade(server)
				require.ErrorIs(t, err, io.EOF)
				return
			}
			answer, _, err := upgrade(t, pieces...)
			require.Error(t, err)
			if c.status != "" {
				require.True(t, strings.HasPrefix(answer, "HTTP/1.1 "+c.status+" "), answer)
			}
		})
	}
}

// The largest request that is accepted, with frames behind it.
func TestUpgradeAtTheLimit(t *testing.T) {
	head := request + "X-Pad: "
	pad := strings.Repeat("x", transport.MaxRequest-len(head)-4)
	answer, rest, err := upgrade(t, head+pad+"\r\n\r\n"+"beyond")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(answer, "HTTP/1.1 101 "), answer)
	// The rest of what was written is still in the connection.
	require.True(t, bytes.HasPrefix([]byte("beyond"), rest))
}
