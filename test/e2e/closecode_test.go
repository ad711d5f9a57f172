package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/client"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// Who is not heard of for the read wait is closed with 4004; who pings stays, and gets pongs.
func TestSilenceAfterLogin(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "gateway.read_wait=2s")
	secret, err := s.Secret()
	require.NoError(t, err)
	for _, url := range []string{s.WS, s.TCP} {
		silent := newUser(t, url, issue(t, secret, "default", "silent"), modern("d"))
		lively := newUser(t, url, issue(t, secret, "default", "lively"), legacy())
		ended := func() bool {
			silent.mu.Lock()
			defer silent.mu.Unlock()
			return silent.err != nil
		}
		for pings := 1; !ended(); pings++ {
			require.NoError(t, lively.sendBytes(wire.Ping))
			require.NoError(t, lively.await(within(t), func() bool { return lively.pongs == pings }))
		}
		lively.say("silent", "are you asleep?")
		silent.closed(im.ReasonTimeout)
	}
}

// Who does not read is closed with 4003 when too much waits, holds nobody up, and finds what it
// missed in its history (I5).
func TestSlowConsumer(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "limits.enabled=false", "--set", "gateway.queue_bytes=64KiB")
	secret, err := s.Secret()
	require.NoError(t, err)
	alice := newUser(t, s.WS, issue(t, secret, "default", "alice"), legacy())
	quick := newUser(t, s.TCP, issue(t, secret, "default", "bob"), modern("quick"))
	for _, url := range []string{s.WS, s.TCP} {
		slow := dialRawURL(t, url)
		require.NoError(t, slow.Conn.(*net.TCPConn).SetReadBuffer(128<<10))
		slow.signIn(issue(t, secret, "default", "bob"))
		full := func() float64 { return metric(t, "hermod_gateway_queue_full_total", "", s.Node) }
		before := full()
		last := ""
		for n := 0; full() == before; n++ { // until what the kernel buffers is full, too
			require.Less(t, n, 1000, "it takes whatever comes")
			last = strings.Repeat("x", 50<<10) + string(rune('a'+n%26))
			alice.say("bob", last)
			quick.hears(wire.CmdUserTalk, "bob", "alice", last)
		}
		packets, code := slow.ends()
		require.NotEmpty(t, packets, "what was queued still comes")
		require.Equal(t, im.ReasonSlowConsumer.Code(), code)

		var page pb.HistoryResp
		quick.must(wire.CmdHistory, "", &pb.HistoryReq{Peer: "alice", Limit: 1}, &page)
		require.Equal(t, last, page.Messages[0].Body)
	}
}

// A client that asks without end, whether it reads the answers or not, is slowed down by itself, and
// holds nobody up (I5): others on the same gateway talk as ever.
func TestFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t)
	secret, err := s.Secret()
	require.NoError(t, err)
	talk := (&wire.LogicPkt{Header: wire.Header{Command: wire.CmdUserTalk, Sequence: 7, Dest: "nobody"}}).Append(nil)
	var flood sync.WaitGroup
	t.Cleanup(flood.Wait)
	for i, url := range []string{s.WS, s.TCP, s.WS, s.TCP} {
		c := dialRawURL(t, url)
		if i >= 2 { // these do not read
			require.NoError(t, c.Conn.(*net.TCPConn).SetReadBuffer(64<<10))
		}
		c.signIn(issue(t, secret, "default", fmt.Sprint("flood-", i)))
		frames := bytes.Repeat(c.frame(im.OpBinary, talk), 100)
		flood.Go(func() {
			for err := error(nil); err == nil; { // until it is closed, or the test ends
				_, err = c.Conn.Write(frames)
			}
		})
		if i < 2 {
			flood.Go(func() { _, _ = io.Copy(io.Discard, c.Conn) })
		}
	}
	limited := func() float64 { return metric(t, "hermod_gateway_limited_total", `"connection_rate"`, s.Node) }
	closed := func() float64 {
		return metric(t, "hermod_gateway_connections_closed_total", `"slow_consumer"`, s.Node)
	}
	alice := newUser(t, s.WS, issue(t, secret, "default", "alice"), legacy())
	bob := newUser(t, s.TCP, issue(t, secret, "default", "bob"), legacy())
	next := time.NewTicker(3 * pace) // people have a rate too
	defer next.Stop()
	for n := 0; n < 50 || closed() < 2; n++ {
		alice.say("bob", fmt.Sprint(n))
		bob.hears(wire.CmdUserTalk, "bob", "alice", fmt.Sprint(n))
		<-next.C
	}
	require.Greater(t, limited(), 1000.0)
	forwarded := metric(t, "hermod_gateway_forwarded_total", "", s.Node)
	require.Less(t, forwarded, limited()/2, "what is too much reaches no logic node")
}

// A gateway that is full says so with 300 and 1013, and takes clients again when one has gone.
func TestFullGateway(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	s := startStandalone(t, "--set", "gateway.max_connections=1")
	secret, err := s.Secret()
	require.NoError(t, err)
	first := newUser(t, s.WS, issue(t, secret, "default", "first"), legacy())
	second := dialRawURL(t, s.TCP)
	second.write(second.frame(im.OpBinary, signInPacket(t, issue(t, secret, "default", "second"))))
	packets, code := second.ends()
	require.Len(t, packets, 1)
	require.Equal(t, wire.StatusSystemException, packets[0].Status)
	var refusal pb.ErrorResp
	require.NoError(t, proto.Unmarshal(packets[0].Body, &refusal))
	require.NotEmpty(t, refusal.Message)
	require.Equal(t, im.ReasonUnavailable.Code(), code)
	first.hangUp()
	eventually(t, wait, "there is room again", func() bool {
		d, err := signIn(within(t), s.TCP, issue(t, secret, "default", "second"), legacy())
		if err == nil {
			d.hangUp()
		}
		return err == nil
	})
}

// With certificate files both transports are encrypted and the router says so.
func TestTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs the binary")
	}
	cert, key, trusted := certificate(t)
	s := startStandalone(t, "--set", "gateway.tls.cert="+cert, "--set", "gateway.tls.key="+key)
	secret, err := s.Secret()
	require.NoError(t, err)
	status, domains, err := lookup(within(t), s.HTTP, issue(t, secret, "default", "alice"), "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, []string{s.WS}, domains)
	require.Regexp(t, "^wss://", s.WS)
	require.Regexp(t, "^tls://", s.TCP)

	heard := make(chan client.Message, 1)
	online := func(account, url string, hear func(client.Message)) *client.Client {
		k, err := client.New(client.Options{
			URL: url, Token: client.StaticToken(issue(t, secret, "default", account)),
			TLS: &tls.Config{RootCAs: trusted}, OnMessage: hear,
		})
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() { ended <- k.Run(t.Context()) }()
		t.Cleanup(func() { k.Close(); <-ended })
		require.NoError(t, k.Online(within(t)))
		return k
	}
	online("bob", s.TCP, func(m client.Message) { heard <- m })
	_, err = online("alice", s.WS, nil).Talk(within(t), "bob", client.Text("for your eyes only"))
	require.NoError(t, err)
	select {
	case m := <-heard:
		require.Equal(t, "for your eyes only", m.Body)
	case <-time.After(wait):
		t.Fatal("nothing was heard")
	}
	// Who does not speak TLS gets nowhere.
	plain := dialRaw(t, strings.TrimPrefix(s.TCP, "tls://"))
	c := &raw{Conn: plain, t: t}
	_, err = plain.Write(c.frame(im.OpBinary, signInPacket(t, issue(t, secret, "default", "eve"))))
	require.NoError(t, err)
	answer := make([]byte, 1)
	n, err := plain.Read(answer)
	require.True(t, err != nil || n == 1 && answer[0] == 21, "an end, or a TLS alert: %v %x", err, answer)
}

// certificate makes one for loopback, and who trusts it.
func certificate(t *testing.T) (cert, key string, trusted *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	trusted = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(public)
	require.NoError(t, err)
	trusted.AddCert(parsed)
	return cert, key, trusted
}
