// Package websocket is the WebSocket transport (RFC 6455): one packet is one binary message. The
// path and the origin of the request are ignored, no subprotocol and no extension is offered.
package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/gobwas/ws"

	"github.com/hermod-im/hermod/transport"
)

// firstRequest is the size of the first buffer for a request, in bytes.
const firstRequest = 1 << 10

// ErrRequestTooLarge: the HTTP request is larger than transport.MaxRequest. It was answered with 431.
var ErrRequestTooLarge = errors.New("websocket: request too large")

type protocol struct{ serverCodec }

// Protocol is the server's side.
func Protocol() transport.Protocol { return protocol{} }

func (protocol) Name() string { return "websocket" }

// Upgrade reads the request into memory first: gobwas/ws has no limit of its own and would lose
// what follows the request. The answer, an error's too, is written to conn.
func (protocol) Upgrade(conn net.Conn) (rest []byte, err error) {
	request, rest, err := readRequest(conn)
	if err != nil {
		if errors.Is(err, ErrRequestTooLarge) {
			_, _ = io.WriteString(conn, "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
		return nil, err
	}
	var answer bytes.Buffer
	_, err = ws.Upgrader{}.Upgrade(readWriter{bytes.NewReader(request), &answer})
	if answer.Len() > 0 {
		if _, werr := conn.Write(answer.Bytes()); err == nil {
			err = werr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("websocket: upgrade: %w", err)
	}
	return rest, nil
}

type readWriter struct {
	io.Reader
	io.Writer
}

// readRequest reads up to the empty line and returns what came after it as rest.
func readRequest(conn net.Conn) (request, rest []byte, err error) {
	end := []byte("\r\n\r\n")
	b := make([]byte, 0, firstRequest)
	for {
		if len(b) == cap(b) {
			if cap(b) >= transport.MaxRequest {
				return nil, nil, ErrRequestTooLarge
			}
			b = append(make([]byte, 0, 2*cap(b)), b...)
		}
		n, err := conn.Read(b[len(b):cap(b)])
		seen := max(len(b)-len(end)+1, 0)
		b = b[:len(b)+n]
		if i := bytes.Index(b[seen:], end); i >= 0 {
			i += seen + len(end)
			return b[:i], b[i:], nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("websocket: read request: %w", err)
		}
	}
}
