package oldclient

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// The opcodes of both transports.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// maxFrame is the largest frame taken from the server, in bytes: the offline content may be long.
const maxFrame = 16 << 20

// CloseError is the server's close frame.
type CloseError struct {
	Code uint16 // 1005: the frame had none
	Text string
}

// Error names code and text.
func (e *CloseError) Error() string {
	return fmt.Sprintf("closed by the server: %d %s", e.Code, e.Text)
}

// conn is a connection that speaks frames.
type conn struct {
	net.Conn
	in        *bufio.Reader
	websocket bool
}

// dial connects to ws:// or wss://host:port[/path], or to tcp:// or tls://host:port.
func dial(address string, timeout time.Duration) (*conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	var raw net.Conn
	dialer := &net.Dialer{Timeout: timeout}
	switch u.Scheme {
	case "ws", "tcp":
		raw, err = dialer.Dial("tcp", u.Host)
	case "wss", "tls":
		raw, err = tls.DialWithDialer(dialer, "tcp", u.Host, &tls.Config{MinVersion: tls.VersionTLS12})
	default:
		return nil, fmt.Errorf("%s: want ws, wss, tcp or tls", address)
	}
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, in: bufio.NewReader(raw), websocket: strings.HasPrefix(u.Scheme, "ws")}
	if !c.websocket {
		return c, nil
	}
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if err := c.upgrade(u); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("websocket handshake: %w", err)
	}
	return c, nil
}

// upgrade is the opening handshake (RFC 6455, 4.1).
func (c *conn) upgrade(u *url.URL) error {
	key := base64.StdEncoding.EncodeToString(random(16))
	path := u.RequestURI()
	if !strings.HasPrefix(path, "/") {
		path = "/"
	}
	_, err := fmt.Fprintf(c.Conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", path, u.Host, key)
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455 wants it
	h := resp.Header
	switch {
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return fmt.Errorf("status %s", resp.Status)
	case !strings.EqualFold(h.Get("Upgrade"), "websocket") || !strings.EqualFold(h.Get("Connection"), "upgrade"):
		return against("headers %v", h)
	case h.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return against("wrong Sec-WebSocket-Accept")
	case h.Get("Sec-WebSocket-Extensions") != "" || h.Get("Sec-WebSocket-Protocol") != "":
		return against("extensions or protocols that were not asked for: %v", h)
	}
	return nil
}

// write writes one frame.
func (c *conn) write(opcode byte, payload []byte) error {
	var b []byte
	if c.websocket {
		b = websocketFrame(opcode, payload)
	} else {
		b = append([]byte{opcode}, binary.BigEndian.AppendUint32(nil, uint32(len(payload)))...)
		b = append(b, payload...)
	}
	_, err := c.Conn.Write(b)
	return err
}

// websocketFrame is a client's frame: final and masked (RFC 6455, 5.2).
func websocketFrame(opcode byte, payload []byte) []byte {
	b := []byte{0x80 | opcode}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := random(4)
	b = append(b, mask...)
	for i, x := range payload {
		b = append(b, x^mask[i%4])
	}
	return b
}

// read returns the next binary message. Pings are answered; a close frame is a *CloseError.
func (c *conn) read() ([]byte, error) {
	var message []byte
	for begun := false; ; {
		final, opcode, payload, err := c.frame()
		if err != nil {
			return nil, err
		}
		switch opcode {
		case opPing:
			if err := c.write(opPong, payload); err != nil {
				return nil, err
			}
			continue
		case opClose:
			return nil, c.closed(payload)
		case opBinary, opContinuation:
			if (opcode == opContinuation) != begun {
				return nil, against("frame with opcode %d out of turn", opcode)
			}
		default:
			return nil, against("frame with opcode %d", opcode)
		}
		begun = true
		if message = append(message, payload...); len(message) > maxFrame {
			return nil, against("message of more than %d bytes", maxFrame)
		}
		if final {
			return message, nil
		}
	}
}

func (c *conn) frame() (final bool, opcode byte, payload []byte, err error) {
	size := uint64(0)
	if c.websocket {
		final, opcode, size, err = c.websocketHead()
	} else {
		var head [5]byte
		_, err = io.ReadFull(c.in, head[:])
		final, opcode, size = true, head[0], uint64(binary.BigEndian.Uint32(head[1:]))
	}
	if err != nil {
		return false, 0, nil, err
	}
	if opcode >= opClose && (size > 125 || !final) {
		return false, 0, nil, against("control frame of %d bytes, final %v", size, final)
	}
	if size > maxFrame {
		return false, 0, nil, against("frame of %d bytes", size)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(c.in, payload)
	return final, opcode, payload, err
}

func (c *conn) websocketHead() (final bool, opcode byte, size uint64, err error) {
	var b [8]byte
	if _, err = io.ReadFull(c.in, b[:2]); err != nil {
		return
	}
	if b[0]&0x70 != 0 || b[1]&0x80 != 0 {
		return false, 0, 0, against("frame with reserved bits or masked: %x", b[:2])
	}
	final, opcode, size = b[0]&0x80 != 0, b[0]&0x0f, uint64(b[1])
	switch size {
	case 126:
		_, err = io.ReadFull(c.in, b[:2])
		size = uint64(binary.BigEndian.Uint16(b[:2]))
	case 127:
		_, err = io.ReadFull(c.in, b[:8])
		size = binary.BigEndian.Uint64(b[:8])
	}
	return final, opcode, size, err
}

// closed answers a close frame and closes the connection.
func (c *conn) closed(payload []byte) error {
	_ = c.write(opClose, payload[:min(2, len(payload))]) // the server may have gone
	_ = c.Close()
	switch {
	case len(payload) == 0:
		return &CloseError{Code: 1005}
	case len(payload) == 1 || !utf8.Valid(payload[2:]):
		return against("malformed close frame: %x", payload)
	}
	return &CloseError{Code: binary.BigEndian.Uint16(payload), Text: string(payload[2:])}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
