package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
	"github.com/hermod-im/hermod/transport/websocket"
)

// The tests of this file are about bounds: queues, clocks, descriptors, shutdown.

func (n *node) dialTCP(t testing.TB) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr(0).String())
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A client that does not read fills its own queue, is told so if it reads again, and delays nobody.
func TestSlowConsumer(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 256 << 10}, nil)
		slow, other := n.join(t, "slow"), n.join(t, "other")
		ch, _ := n.Channels().Get("slow")

		pushed := 0
		payload := make([]byte, 16<<10)
		for {
			binary.BigEndian.PutUint32(payload, uint32(pushed))
			var err error
			if pushed%2 == 0 {
				err = n.Push("slow", payload)
			} else {
				err = ch.(*transport.Channel).PushAll([][]byte{payload})
			}
			if err != nil {
				require.ErrorIs(t, err, im.ErrQueueFull)
				break
			}
			if pushed++; pushed%100 == 0 {
				other.send(im.OpBinary, []byte("not stalled"))
				other.expect("not stalled")
			}
			require.Less(t, pushed, 10_000)
		}
		require.ErrorIs(t, n.Push("slow", payload), im.ErrChannelClosed)
		require.ErrorIs(t, ch.(*transport.Channel).PushAll([][]byte{payload}), im.ErrChannelClosed)
		other.send(im.OpBinary, []byte("not stalled"))
		other.expect("not stalled")
		for i := range pushed {
			op, got, err := slow.recv()
			require.NoError(t, err)
			require.Equal(t, im.OpBinary, op)
			require.EqualValues(t, i, binary.BigEndian.Uint32(got))
		}
		slow.expectReason(im.ReasonSlowConsumer)
		_ = slow.Close()
		<-ch.Done()
		require.EqualValues(t, 1, n.metrics.QueueFull.Load())
		require.EqualValues(t, 1, n.metrics.Closed[im.ReasonSlowConsumer].Load())
	})
}

// The same client, never reading again: the close ends within the write wait.
func TestSlowConsumerIsCut(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 256 << 10, WriteWait: 100 * time.Millisecond}, nil)
		n.join(t, "slow")
		ch, _ := n.Channels().Get("slow")
		for n.Push("slow", make([]byte, 16<<10)) == nil {
		}
		<-ch.Done()
		require.EqualValues(t, 1, n.metrics.Closed[im.ReasonSlowConsumer].Load()+n.metrics.Closed[im.ReasonWriteTimeout].Load())
	})
}

func TestWriteTimeout(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 256 << 20, WriteWait: 100 * time.Millisecond}, nil)
		n.join(t, "a")
		ch, _ := n.Channels().Get("a")
		for range 64 { // more than the kernel takes for a peer that does not read
			if ch.Push(make([]byte, 1<<20)) != nil {
				break // the time is up already
			}
		}
		<-ch.Done()
		require.EqualValues(t, 1, n.metrics.Closed[im.ReasonWriteTimeout].Load())
		require.ErrorIs(t, ch.Push(nil), im.ErrChannelClosed)
	})
}

// A client that reads slowly, but reads, is not cut by the write wait.
func TestSlowReaderIsPatientlyServed(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 64 << 20, WriteWait: 5 * time.Second}, nil)
		p := n.join(t, "a")
		const messages = 200
		for i := range messages {
			require.NoError(t, n.Push("a", fmt.Appendf(make([]byte, 64<<10), "%d", i)))
		}
		for i := range messages {
			p.expectFrame(im.OpBinary, fmt.Appendf(make([]byte, 64<<10), "%d", i))
		}
	})
}

// A peer that reads slowly reads slowRate bytes a second, in chunks: within the write wait, less than a third of the send
// buffer, which is 2.5 MiB to begin with, but more than the kernel's least advance of a receive window.
const (
	slowWait  = time.Second
	slowRate  = 400 << 10
	slowChunk = 16 << 10
)

// slowly calls read for one chunk after the other, for twice the wait.
func slowly(read func()) {
	pace := time.NewTicker(time.Second * slowChunk / slowRate)
	defer pace.Stop()
	for range int(2 * slowWait.Seconds() * slowRate / slowChunk) {
		<-pace.C
		read()
	}
}

// fill gives push more than the sockets between a server and its client hold.
func fill(push func([]byte) error) {
	for range 8 << 20 / slowChunk {
		if push(make([]byte, slowChunk)) != nil {
			return // the test tells
		}
	}
}

// A client that reads all the time, however slowly, is not cut: the kernel tells of room only once a third of the send
// buffer is free.
func TestSlowReaderIsAlive(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		t.Parallel()
		n := start(t, v, transport.Options{QueueBytes: 64 << 20, WriteWait: slowWait}, nil)
		p := n.join(t, "a")
		ch, ok := n.Channels().Get("a")
		require.True(t, ok)
		go fill(ch.Push)
		slowly(func() {
			_, err := io.ReadFull(p.Conn, make([]byte, slowChunk))
			require.NoError(t, err)
		})
		require.Equal(t, im.ReasonNone, ch.(*transport.Channel).Reason())
	})
}

// The same with a server that reads slowly what one of our clients sends.
func TestSlowServerIsAlive(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		t.Parallel()
		received, ended := make(chan struct{}), make(chan struct{})
		n := start(t, v, transport.Options{}, &app{receive: func(im.Agent, []byte) {
			select {
			case received <- struct{}{}:
			case <-ended:
			}
		}})
		c := n.client(t, "a", transport.ClientOptions{QueueBytes: 64 << 20, WriteWait: slowWait})
		defer close(ended)
		go fill(c.Send)
		slowly(func() {
			select {
			case <-received:
			case <-c.Done():
			}
		})
		require.NoError(t, c.Send(nil))
	})
}

// A stranger's first packet is refused at its length if no login may be so large: a service's port held up to 16 MiB of
// each. What comes behind the login may be larger.
func TestMaxLogin(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{MaxLogin: 1000, MaxPacket: 5000}, nil)
		stranger := n.dial(t)
		stranger.write(stranger.frame(im.OpBinary, true, make([]byte, 1001))[:8]) // the length, and hardly more
		stranger.expectReason(im.ReasonTooLarge)

		p := n.dial(t)
		id, largest := strings.Repeat("i", 1000), bytes.Repeat([]byte("l"), 5000)
		p.write(append(p.frame(im.OpBinary, true, []byte(id)), p.frame(im.OpBinary, true, largest)...))
		p.expect("hello " + id)
		p.expect(string(largest))
		p.write(p.frame(im.OpBinary, true, make([]byte, 5001))[:8])
		p.expectReason(im.ReasonTooLarge)
	})
}

// No login may be larger than a packet.
func TestMaxLoginIsAPacket(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{MaxPacket: 1000}, nil)
		p := n.dial(t)
		p.write(p.frame(im.OpBinary, true, make([]byte, 1001))[:8])
		p.expectReason(im.ReasonTooLarge)
	})
}

func TestMaxHandshakes(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{MaxHandshakes: 2}, nil)
		a, b := n.dial(t), n.dial(t)
		third := &peer{Conn: n.dialTCP(t), t: t}
		_, err := third.Read(make([]byte, 1))
		require.Error(t, err)
		require.EqualValues(t, 1, n.metrics.Refused[transport.RefusedBusy].Load())
		for i, p := range []*peer{a, b} {
			p.send(im.OpBinary, fmt.Append(nil, i))
			p.expect(fmt.Sprint("hello ", i))
			n.app.untilEvent(t, fmt.Sprint("connect ", i))
		}
		n.join(t, "fourth")
	})
}

// Pushes and closes from all sides at once: a matter for the race detector. Every accepted push is
// written before the close frame, whole.
func TestPushRacesClose(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		for round := range 20 {
			id := fmt.Sprint("r", round)
			p := n.join(t, id)
			ch, _ := n.Channels().Get(id)
			var pushers sync.WaitGroup
			accepted := make([]int, 4)
			for i := range accepted {
				pushers.Go(func() {
					payload := make([]byte, 100)
					for ch.Push(payload) == nil {
						accepted[i]++
					}
				})
			}
			closeNow := make(chan struct{})
			pushers.Go(func() {
				<-closeNow
				ch.Close(im.ReasonDisplaced)
			})
			received := 0
			for {
				op, payload, err := p.recv()
				require.NoError(t, err)
				if op == im.OpClose {
					break
				}
				require.Len(t, payload, 100)
				if received++; received == 10*round {
					close(closeNow)
				}
				if round == 0 && received == 1 {
					close(closeNow)
				}
			}
			pushers.Wait()
			sum := 0
			for _, n := range accepted {
				sum += n
			}
			require.Equal(t, sum, received)
			_ = p.Close()
			<-ch.Done()
		}
	})
}

// The peer's end, our close and pushes at once, on many connections whose descriptors are reused at
// once: nobody may get another's bytes.
func TestDescriptorsAreNotMixedUp(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		var clients sync.WaitGroup
		rounds := 60
		if v.tls {
			rounds = 10
		}
		for worker := range 8 {
			clients.Go(func() {
				for round := range rounds {
					id := fmt.Sprintf("%d-%d", worker, round)
					p := n.dial(t)
					p.send(im.OpBinary, []byte(id))
					p.expect("hello " + id)
					for range 5 {
						p.send(im.OpBinary, []byte(id))
					}
					if ch, ok := n.Channels().Get(id); ok && round%3 == 0 {
						go ch.Close(im.ReasonSignedOut)
					}
					if round%3 == 1 {
						_ = p.Close()
						continue
					}
					for i := 0; i < 5; i++ {
						op, got, err := p.recv()
						if err != nil || op == im.OpClose {
							break
						}
						if string(got) != id {
							t.Errorf("%s got %q", id, got)
						}
					}
					_ = p.Close()
				}
			})
		}
		clients.Wait()
	})
}

// descriptors lists what the process has open.
func descriptors(t *testing.T) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // not that of ReadDir
			list = append(list, e.Name()+" "+target)
		}
	}
	return list
}

// A thousand connections, ended in every way, leave nothing behind.
func TestNoLeaks(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		before := descriptors(t)
		n := start(t, v, transport.Options{}, nil)
		connections := 1000
		if v.tls {
			connections = 200
		}
		var clients sync.WaitGroup
		for worker := range 10 {
			clients.Go(func() {
				for i := range connections / 10 {
					id := fmt.Sprintf("%d-%d", worker, i)
					p := n.dial(t)
					if i%5 == 4 {
						_ = p.Close() // before the login
						continue
					}
					p.send(im.OpBinary, []byte(id))
					p.expect("hello " + id)
					n.app.untilEvent(t, "connect "+id)
					ch, ok := n.Channels().Get(id)
					switch {
					case !ok:
						t.Error("not in the map")
					case i%5 == 0:
						ch.Close(im.ReasonSignedOut)
						p.expectReason(im.ReasonSignedOut)
					case i%5 == 1:
						p.send(im.OpClose, nil)
						p.expectFrame(im.OpClose, []byte{})
					case i%5 == 2:
						p.write([]byte("garbage that is no frame"))
					}
					_ = p.Close()
					if ok {
						<-ch.Done()
					}
				}
			})
		}
		clients.Wait()
		n.untilEmpty(t)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, n.Shutdown(ctx))
		require.ElementsMatch(t, before, descriptors(t))
		// Goroutines: goleak in TestMain.
	})
}

// Shutdown writes what is queued, says 1001 and waits for all to end.
func TestShutdown(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 32 << 20}, nil)
		p := n.join(t, "a")
		waiting := n.dial(t) // has not logged in
		const messages = 300
		for i := range messages {
			require.NoError(t, n.Push("a", fmt.Appendf(make([]byte, 32<<10), "%d", i)))
		}
		ended := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			ended <- n.Shutdown(ctx)
		}()
		for i := range messages {
			p.expectFrame(im.OpBinary, fmt.Appendf(make([]byte, 32<<10), "%d", i))
		}
		p.expectReason(im.ReasonGoingAway)
		_, err := waiting.Read(make([]byte, 1))
		require.Error(t, err)
		_ = p.Close()
		require.NoError(t, <-ended)
		n.app.untilEvent(t, "disconnect a")
		_, err = net.Dial("tcp", n.Addr(0).String())
		require.Error(t, err)
		require.ErrorIs(t, n.Start(), im.ErrServerClosed)
	})
}

// Who does not take what is queued is cut off when the context ends.
func TestShutdownIsBounded(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 64 << 20}, nil)
		n.join(t, "a")
		for range 32 {
			require.NoError(t, n.Push("a", make([]byte, 1<<20)))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, n.Shutdown(ctx), context.DeadlineExceeded)
		require.Empty(t, n.Channels().All())
		n.app.untilEvent(t, "disconnect a")
	})
}

// One server on several endpoints: one map, one Push.
func TestSeveralEndpoints(t *testing.T) {
	a := new(app)
	s := transport.NewServer(transport.Options{},
		transport.Endpoint{Address: "127.0.0.1:0", Protocol: tcp.Protocol()},
		transport.Endpoint{Address: "127.0.0.1:0", Protocol: websocket.Protocol()},
		transport.Endpoint{Address: "127.0.0.1:0", Protocol: websocket.Protocol(), TLS: serverTLS(t)},
	)
	s.SetAcceptor(a)
	s.SetMessageListener(a)
	s.SetStateListener(a)
	run(t, s)
	var peers []*peer
	for i, v := range []variant{{protocol: tcp.Protocol()}, {protocol: websocket.Protocol()}, {protocol: websocket.Protocol(), tls: true}} {
		n := &node{Server: s, app: a, v: v}
		peers = append(peers, n.joinAt(t, i, fmt.Sprint(i)))
	}
	for i := range peers {
		require.NoError(t, s.Push(fmt.Sprint(i), []byte("one push")))
		ch, ok := s.Channels().Get(fmt.Sprint(i))
		require.True(t, ok)
		require.NoError(t, ch.(*transport.Channel).PushAll([][]byte{[]byte("two"), []byte("at once")}))
	}
	for _, p := range peers {
		p.expect("one push")
		p.expect("two")
		p.expect("at once")
	}
}

func TestListenFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	s := transport.NewServer(transport.Options{},
		transport.Endpoint{Address: "127.0.0.1:0", Protocol: tcp.Protocol()},
		transport.Endpoint{Address: ln.Addr().String(), Protocol: tcp.Protocol()})
	require.Error(t, s.Start()) // no listeners set
	s.SetAcceptor(new(app))
	s.SetMessageListener(new(app))
	require.ErrorContains(t, s.Start(), "listen for tcp")
	require.Nil(t, s.Addrs())
	require.NoError(t, s.Shutdown(context.Background()))
}

// A page of a sync or of contents may be larger than the whole bound: with nothing else waiting it
// reached no client, and closed it as a slow one.
func TestOnePacketAboveTheBound(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{QueueBytes: 64 << 10}, nil)
		c := n.join(t, "c")
		page := bytes.Repeat([]byte{7}, 512<<10)
		require.NoError(t, n.Push("c", page))
		c.expect(string(page))
	})
}

// What is offered to a peer that does not read fills half of its queue at most, closes nothing and delays nothing else.
func TestOffer(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		const bound, page = 256 << 10, 16 << 10
		n := start(t, v, transport.Options{QueueBytes: bound, MaxPacket: 2 * bound}, nil)
		p := n.join(t, "a")
		got, _ := n.Channels().Get("a")
		ch := got.(*transport.Channel)
		require.ErrorIs(t, ch.Offer(make([]byte, 2*bound+1)), im.ErrFrameTooLarge)
		large, small := make([]byte, bound), make([]byte, page)
		require.NoError(t, ch.Offer(large), "nothing else waits")
		p.expectFrame(im.OpBinary, large)
		for ch.QueuedBytes() > 0 {
			runtime.Gosched()
		}
		offered := 0
		for ; ; offered++ {
			if err := ch.Offer(small); err != nil {
				require.ErrorIs(t, err, im.ErrQueueFull)
				break
			}
			require.LessOrEqual(t, ch.QueuedBytes(), bound/2+transport.MaxHeader)
			require.Less(t, offered, 10_000)
		}
		require.NoError(t, ch.Push([]byte("other")), "the rest of the queue is for others")
		for range offered {
			p.expectFrame(im.OpBinary, small)
		}
		p.expect("other")
		require.Zero(t, n.metrics.QueueFull.Load())
		ch.Close(im.ReasonGoingAway)
		require.ErrorIs(t, ch.Offer(nil), im.ErrChannelClosed)
		_ = p.Close()
	})
}
