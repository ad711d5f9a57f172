package transport_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/test/cost"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/websocket"
)

// The tests of this file are about what things cost.

// drain reads and forgets until the connection ends.
func (p *peer) drain(wg *sync.WaitGroup) {
	wg.Go(func() { _, _ = io.Copy(io.Discard, p.Conn) })
}

func TestCostOfPush(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 1 << 30}, nil)
		p := n.join(t, "a")
		var drained sync.WaitGroup
		p.drain(&drained)
		ch, _ := n.Channels().Get("a")
		payload := make([]byte, 150)
		cost.Allocs(t, "a push", 0, func() {
			if err := ch.Push(payload); err != nil {
				t.Fatal(err)
			}
			for ch.(*transport.Channel).QueuedBytes() > 16<<10 {
				runtime.Gosched()
			}
		})
		_ = p.Close()
		drained.Wait()
	})
}

// A message in and its answer out, without an allocation of the server's.
func TestCostOfEcho(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		message := p.frame(im.OpBinary, true, make([]byte, 150))
		size := len(n.v.protocol.AppendFrame(nil, im.OpBinary, make([]byte, 150)))
		answer := make([]byte, size)
		echo := func() {
			if _, err := p.Write(message); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(p.r, answer); err != nil {
				t.Fatal(err)
			}
		}
		echo()
		if !v.tls { // which has its own
			cost.Allocs(t, "an echo", 0, echo)
		}
	})
}

// maxIdleBytes is what an idle polled WebSocket connection may cost in heap, its id of 30 bytes and its
// place in the channel map included, in bytes: 144 for the channel, 32 for the id, 16 to 20 for its slot
// with the poller, 20 to 32 for the map, of which the map of this many takes the least.
const maxIdleBytes = 224

func TestCostOfIdleConnection(t *testing.T) {
	const connections = 4000
	var quiet quietApp
	s := transport.NewServer(transport.Options{}, transport.Endpoint{Address: "127.0.0.1:0", Protocol: websocket.Protocol()})
	s.SetAcceptor(quiet)
	s.SetMessageListener(quiet)
	run(t, s)

	conns := make([]int, 0, connections+100)
	reader := bufio.NewReader(nil)
	defer func() { closeRaw(conns) }()
	join := func(count int) {
		for range count {
			conn, err := net.Dial("tcp", s.Addr(0).String())
			require.NoError(t, err)
			p := &peer{Conn: conn, t: t, r: reader, ws: true}
			reader.Reset(conn)
			p.write([]byte(upgradeRequest))
			p.readUpgrade()
			p.send(im.OpBinary, fmt.Appendf(nil, "channel-%022d", len(conns)))
			p.expect("hello")
			conns = append(conns, detach(t, conn.(*net.TCPConn)))
		}
	}
	join(100) // pools, goroutines, first slots
	before := cost.Heap()
	join(connections)
	cost.Bytes(t, "an idle connection", maxIdleBytes, connections, before)
	require.Less(t, runtime.NumGoroutine(), 100)
}

// quietApp keeps nothing.
type quietApp struct{}

func (quietApp) Accept(c im.Conn, _ time.Duration) (string, error) {
	f, err := c.ReadFrame()
	if err != nil {
		return "", err
	}
	return string(f.GetPayload()), c.WriteFrame(im.OpBinary, []byte("hello"))
}

func (quietApp) Receive(im.Agent, []byte) {}

func BenchmarkPush(b *testing.B) {
	for _, v := range variants() {
		b.Run(v.name, func(b *testing.B) {
			n := start(b, v, transport.Options{QueueBytes: 1 << 30}, nil)
			p := n.join(b, "a")
			var drained sync.WaitGroup
			p.drain(&drained)
			ch, _ := n.Channels().Get("a")
			payload := make([]byte, 150)
			b.ReportAllocs()
			for b.Loop() {
				if err := ch.Push(payload); err != nil {
					b.Fatal(err)
				}
				for ch.(*transport.Channel).QueuedBytes() > 256<<10 {
					runtime.Gosched()
				}
			}
			_ = p.Close()
			drained.Wait()
		})
	}
}

// One message in, one out, at a time.
func BenchmarkEcho(b *testing.B) {
	for _, v := range variants() {
		b.Run(v.name, func(b *testing.B) {
			n := start(b, v, transport.Options{}, nil)
			p := n.join(b, "a")
			message := p.frame(im.OpBinary, true, make([]byte, 150))
			answer := make([]byte, len(n.v.protocol.AppendFrame(nil, im.OpBinary, make([]byte, 150))))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Write(message); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(p.r, answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
