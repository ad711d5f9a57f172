package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come: long, because it is only waited for by
// tests that fail.
const patience = 20 * time.Second

// variant is one way to run a server: every conformance test runs on all of them.
type variant struct {
	name     string
	protocol transport.Protocol
	driver   transport.Driver
	tls      bool
}

func variants() []variant {
	return []variant{
		{"tcp/epoll", tcp.Protocol(), transport.DriverAuto, false},
		{"tcp/goroutine", tcp.Protocol(), transport.DriverGoroutine, false},
		{"tcp+tls", tcp.Protocol(), transport.DriverAuto, true},
		{"websocket/epoll", websocket.Protocol(), transport.DriverAuto, false},
		{"websocket/goroutine", websocket.Protocol(), transport.DriverGoroutine, false},
		{"websocket+tls", websocket.Protocol(), transport.DriverAuto, true},
	}
}

// forAll runs the test on every variant.
func forAll(t *testing.T, f func(t *testing.T, v variant)) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) { f(t, v) })
	}
}

func (v variant) isWebSocket() bool { return v.protocol == websocket.Protocol() }

// app is the listeners of a server. The zero value takes the first frame as the id and echoes.
type app struct {
	accept  func(im.Conn, time.Duration) (string, error)
	connect func(im.Channel) error
	receive func(im.Agent, []byte)

	mu     sync.Mutex
	events []string      // "connect a", "disconnect a"
	wake   chan struct{} // replaced at every event
}

func (a *app) Accept(c im.Conn, wait time.Duration) (string, error) {
	if a.accept != nil {
		return a.accept(c, wait)
	}
	f, err := c.ReadFrame()
	if err != nil {
		return "", err
	}
	id := string(f.GetPayload())
	if err := c.WriteFrame(im.OpBinary, []byte("hello "+id)); err != nil {
		return "", err
	}
	return id, c.Flush()
}

func (a *app) Connect(ch im.Channel) error {
	a.note("connect " + ch.ID())
	if a.connect != nil {
		return a.connect(ch)
	}
	return nil
}

func (a *app) Receive(from im.Agent, payload []byte) {
	if a.receive != nil {
		a.receive(from, payload)
		return
	}
	_ = from.Push(payload)
}

func (a *app) Disconnect(id string) error {
	a.note("disconnect " + id)
	return nil
}

func (a *app) note(event string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, event)
	if a.wake != nil {
		close(a.wake)
	}
	a.wake = make(chan struct{})
}

// until waits for a condition on the events.
func (a *app) until(t testing.TB, what string, cond func(events []string) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		a.mu.Lock()
		if a.wake == nil {
			a.wake = make(chan struct{})
		}
		ok, wake, events := cond(a.events), a.wake, fmt.Sprint(a.events)
		a.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-wake:
		case <-late:
			t.Fatalf("waited for %s; saw %s", what, events)
		}
	}
}

func (a *app) untilEvent(t testing.TB, event string) {
	t.Helper()
	a.until(t, event, func(events []string) bool { return count(events, event) > 0 })
}

func count(events []string, event string) int {
	n := 0
	for _, e := range events {
		if e == event {
			n++
		}
	}
	return n
}

// node is a running server.
type node struct {
	*transport.Server
	app     *app
	v       variant
	metrics *transport.Metrics
}

// start runs a server until the test's end.
func start(t testing.TB, v variant, opts transport.Options, a *app) *node {
	t.Helper()
	if a == nil {
		a = new(app)
	}
	opts.Driver = v.driver
	opts.Metrics = new(transport.Metrics)
	ep := transport.Endpoint{Address: "127.0.0.1:0", Protocol: v.protocol}
	if v.tls {
		ep.TLS = serverTLS(t)
	}
	s := transport.NewServer(opts, ep)
	s.SetAcceptor(a)
	s.SetMessageListener(a)
	s.SetStateListener(a)
	run(t, s)
	return &node{s, a, v, opts.Metrics}
}

// run starts s and shuts it down at the end of the test.
func run(t testing.TB, s *transport.Server) {
	t.Helper()
	require.NoError(t, s.Listen())
	served := make(chan error, 1)
	go func() { served <- s.Start() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, s.Shutdown(ctx))
		require.NoError(t, <-served)
	})
}

// peer is a client made by hand from the RFC and docs/protocol.md, not with the code under test.
type peer struct {
	net.Conn
	t    testing.TB
	r    *bufio.Reader
	ws   bool
	mask [4]byte
}

// dial connects and upgrades.
func (n *node) dial(t testing.TB) *peer {
	t.Helper()
	return n.dialAt(t, 0)
}

func (n *node) dialAt(t testing.TB, endpoint int) *peer {
	t.Helper()
	p := n.dialRawAt(t, endpoint)
	if p.ws {
		_, err := io.WriteString(p, upgradeRequest)
		require.NoError(t, err)
		p.readUpgrade()
	}
	return p
}

const upgradeRequest = "GET /any HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// dialRaw connects without the WebSocket upgrade.
func (n *node) dialRaw(t testing.TB) *peer {
	t.Helper()
	return n.dialRawAt(t, 0)
}

func (n *node) dialRawAt(t testing.TB, endpoint int) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr(endpoint).String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	if n.v.tls {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return &peer{Conn: conn, t: t, r: bufio.NewReader(conn), ws: n.v.isWebSocket(), mask: [4]byte{0xa1, 0x5c, 3, 0xff}}
}

func (p *peer) readUpgrade() {
	p.t.Helper()
	status, err := p.r.ReadString('\n')
	require.NoError(p.t, err)
	require.True(p.t, strings.HasPrefix(status, "HTTP/1.1 101 "), status)
	accepted := false
	for {
		line, err := p.r.ReadString('\n')
		require.NoError(p.t, err)
		// The answer to the key above, from RFC 6455, 1.3.
		accepted = accepted || strings.TrimSpace(line) == "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
		if line == "\r\n" {
			break
		}
	}
	require.True(p.t, accepted)
}

// join dials and logs in.
func (n *node) join(t testing.TB, id string) *peer {
	t.Helper()
	return n.joinAt(t, 0, id)
}

func (n *node) joinAt(t testing.TB, endpoint int, id string) *peer {
	t.Helper()
	p := n.dialAt(t, endpoint)
	p.send(im.OpBinary, []byte(id))
	p.expect("hello " + id)
	n.app.untilEvent(t, "connect "+id) // it is in the channel map now
	return p
}

// frame makes a frame; fin only matters to WebSocket.
func (p *peer) frame(op im.OpCode, fin bool, payload []byte) []byte {
	if !p.ws {
		b := append([]byte{byte(op)}, 0, 0, 0, 0)
		binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
		return append(b, payload...)
	}
	b := []byte{byte(op)}
	if fin {
		b[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = append(b, 0x80|126, byte(n>>8), byte(n))
	default:
		b = append(b, 0x80|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, p.mask[:]...)
	for i, c := range payload {
		b = append(b, c^p.mask[i%4])
	}
	return b
}

func (p *peer) send(op im.OpCode, payload []byte) { p.write(p.frame(op, true, payload)) }

func (p *peer) write(b []byte) {
	p.t.Helper()
	_, err := p.Write(b)
	require.NoError(p.t, err)
}

// recv reads the next frame.
func (p *peer) recv() (im.OpCode, []byte, error) {
	var size uint64
	op, err := p.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	if p.ws {
		if op&0xf0 != 0x80 {
			return 0, nil, fmt.Errorf("first byte %#x: not a final frame", op)
		}
		n, err := p.r.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		size = uint64(n)
		switch n {
		case 126:
			size, err = p.uint(2)
		case 127:
			size, err = p.uint(8)
		}
		if err != nil {
			return 0, nil, err
		}
	} else if size, err = p.uint(4); err != nil {
		return 0, nil, err
	}
	if size > 1<<30 {
		return 0, nil, errors.New("masked or absurd length")
	}
	payload := make([]byte, size)
	_, err = io.ReadFull(p.r, payload)
	return im.OpCode(op & 0xf), payload, err
}

func (p *peer) uint(n int) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(p.r, b[8-n:])
	return binary.BigEndian.Uint64(b[:]), err
}

// expect reads one binary frame.
func (p *peer) expect(payload string) {
	p.t.Helper()
	p.expectFrame(im.OpBinary, []byte(payload))
}

func (p *peer) expectFrame(op im.OpCode, payload []byte) {
	p.t.Helper()
	gotOp, got, err := p.recv()
	require.NoError(p.t, err)
	require.Equal(p.t, op, gotOp, "payload %.60q", got)
	require.True(p.t, bytes.Equal(payload, got), "got %.60q, not %.60q", got, payload)
}

// expectClose reads up to the close frame, which must have the code and the text, and then the end.
func (p *peer) expectClose(code uint16, text string) {
	p.t.Helper()
	for {
		op, payload, err := p.recv()
		require.NoError(p.t, err, "waiting for close %d", code)
		if op != im.OpClose {
			continue
		}
		require.GreaterOrEqual(p.t, len(payload), 2)
		require.Equal(p.t, code, binary.BigEndian.Uint16(payload), "%q", payload[2:])
		require.Equal(p.t, text, string(payload[2:]))
		break
	}
	p.expectEnd()
}

// expectReason is expectClose with a reason's code and name.
func (p *peer) expectReason(r im.Reason) {
	p.t.Helper()
	p.expectClose(r.Code(), r.String())
}

// expectEnd reads the end of the stream: no reset, nothing more before it.
func (p *peer) expectEnd() {
	p.t.Helper()
	_, _, err := p.recv()
	require.ErrorIs(p.t, err, io.EOF)
}

// serverTLS loads a self-signed certificate through LoadTLS.
func serverTLS(t testing.TB) *tls.Config {
	t.Helper()
	certPEM, keyPEM, err := selfSigned()
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, keyPEM, 0o600))
	config, err := transport.LoadTLS(certFile, keyFile)
	require.NoError(t, err)
	return config
}

func selfSigned() (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}
