package transport_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	im "github.com/hermod-im/hermod"
	"github.com/hermod-im/hermod/transport"
)

// The tests of this file run on every variant: what a client may do, and what it gets.

func TestEcho(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
			payload := make([]byte, size)
			for i := range payload {
				payload[i] = byte(i * 7)
			}
			p.send(im.OpBinary, payload)
			p.expectFrame(im.OpBinary, payload)
		}
		require.NoError(t, n.Push("a", []byte("pushed")))
		p.expect("pushed")
		require.ErrorIs(t, n.Push("b", nil), im.ErrChannelNotFound)
	})
}

func TestOrder(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		const messages = 5000
		var all []byte
		for i := range messages {
			all = append(all, p.frame(im.OpBinary, true, fmt.Appendf(nil, "m%d", i))...)
		}
		wrote := p.writeAsync(all)
		for i := range messages {
			p.expect(fmt.Sprintf("m%d", i))
		}
		require.NoError(t, <-wrote)
	})
}

func (p *peer) writeAsync(b []byte) <-chan error {
	wrote := make(chan error, 1)
	go func() {
		_, err := p.Write(b)
		wrote <- err
	}()
	return wrote
}

// A message much larger than any read, while other frames come before and after it in odd pieces.
func TestLargeAndSmallMixed(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{MaxPacket: 4 << 20, QueueBytes: 64 << 20}, nil)
		p := n.join(t, "a")
		random := rand.New(rand.NewPCG(1, 2))
		var all []byte
		var payloads [][]byte
		for i := range 60 {
			size := random.IntN(2000)
			if i%10 == 5 {
				size = random.IntN(3 << 20)
			}
			payload := make([]byte, size)
			for j := range payload {
				payload[j] = byte(random.Uint32())
			}
			payloads = append(payloads, payload)
			all = append(all, p.frame(im.OpBinary, true, payload)...)
		}
		wrote := make(chan error, 1)
		go func() {
			for len(all) > 0 {
				n := min(1+random.IntN(200_000), len(all))
				if _, err := p.Write(all[:n]); err != nil {
					wrote <- err
					return
				}
				all = all[n:]
			}
			wrote <- nil
		}()
		for _, payload := range payloads {
			p.expectFrame(im.OpBinary, payload)
		}
		require.NoError(t, <-wrote)
	})
}

func TestByteByByte(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.dialRaw(t)
		trickle := func(b []byte) {
			for i := range b {
				p.write(b[i : i+1])
			}
		}
		if p.ws {
			trickle([]byte(upgradeRequest))
			p.readUpgrade()
		}
		trickle(p.frame(im.OpBinary, true, []byte("a")))
		p.expect("hello a")
		for _, size := range []int{0, 3, 200} {
			payload := make([]byte, size)
			trickle(p.frame(im.OpBinary, true, payload))
			p.expectFrame(im.OpBinary, payload)
		}
	})
}

// What a client sends in one go, before any answer, reaches the MessageListener in order.
func TestAllInOneWrite(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.dialRaw(t)
		var b []byte
		if p.ws {
			b = []byte(upgradeRequest)
		}
		b = append(b, p.frame(im.OpBinary, true, []byte("a"))...)
		for i := range 100 {
			b = append(b, p.frame(im.OpBinary, true, fmt.Append(nil, i))...)
		}
		partial := p.frame(im.OpBinary, true, []byte("the end"))
		b = append(b, partial[:7]...)
		p.write(b)
		if p.ws {
			p.readUpgrade()
		}
		p.expect("hello a")
		for i := range 100 {
			p.expect(fmt.Sprint(i))
		}
		p.write(partial[7:])
		p.expect("the end")
	})
}

func TestPing(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.dial(t)
		p.send(im.OpPing, []byte("before login"))
		p.expectFrame(im.OpPong, []byte("before login"))
		p.send(im.OpPong, nil)
		p.send(im.OpBinary, []byte("a"))
		p.expect("hello a")
		p.send(im.OpPing, nil)
		p.expectFrame(im.OpPong, []byte{})
		p.send(im.OpPing, make([]byte, 125))
		p.expectFrame(im.OpPong, make([]byte, 125))
		p.send(im.OpPong, []byte("nobody asked"))
		p.send(im.OpBinary, []byte("x"))
		p.expect("x")
	})
}

func TestFragments(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{MaxPacket: 1000}, nil)
		p := n.join(t, "a")
		if !p.ws {
			p.send(im.OpContinuation, nil)
			p.expectReason(im.ReasonProtocolError)
			return
		}
		p.write(p.frame(im.OpBinary, false, []byte("one ")))
		p.write(p.frame(im.OpPing, true, []byte("?")))
		p.expectFrame(im.OpPong, []byte("?"))
		p.write(p.frame(im.OpContinuation, false, []byte("two ")))
		p.write(p.frame(im.OpContinuation, false, nil))
		p.write(p.frame(im.OpContinuation, true, []byte("three")))
		p.expect("one two three")

		all := p.frame(im.OpBinary, false, []byte("in one "))
		all = append(all, p.frame(im.OpPing, true, nil)...)
		all = append(all, p.frame(im.OpContinuation, true, []byte("write"))...)
		p.write(all)
		p.expectFrame(im.OpPong, []byte{})
		p.expect("in one write")

		p.write(p.frame(im.OpBinary, false, make([]byte, 600)))
		p.write(p.frame(im.OpContinuation, true, make([]byte, 600)))
		p.expectReason(im.ReasonTooLarge)
	})
}

// Bytes that end a connection, before and after the login.
func TestRefusedFrames(t *testing.T) {
	type refused struct {
		name   string
		bytes  []byte // of TCP and WebSocket, nil where it does not apply
		wsOnly []byte
		reason im.Reason
	}
	mask := []byte{1, 2, 3, 4}
	masked := func(b ...byte) []byte { return append(b, mask...) }
	cases := []refused{
		{"text", []byte{1, 0, 0, 0, 1, 'x'}, append(masked(0x81, 0x81), 'x'), im.ReasonUnsupportedData},
		{"oversize", []byte{2, 0, 1, 0, 1}, []byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1}, im.ReasonTooLarge},
		{"absurd", []byte{2, 0xff, 0xff, 0xff, 0xff}, []byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, im.ReasonTooLarge},
		{"unknown opcode", []byte{3, 0, 0, 0, 0}, masked(0x83, 0x80), im.ReasonProtocolError},
		{"unknown control", []byte{0xb, 0, 0, 0, 0}, masked(0x8b, 0x80), im.ReasonProtocolError},
		{"high opcode", []byte{0x82, 0, 0, 0, 0}, nil, im.ReasonProtocolError},
		{"long ping", []byte{9, 0, 0, 0, 126}, []byte{0x89, 0xfe, 0, 126}, im.ReasonProtocolError},
		{"continuation of nothing", []byte{0, 0, 0, 0, 0}, masked(0x80, 0x80), im.ReasonProtocolError},
		{"close code 999", []byte{8, 0, 0, 0, 2, 3, 0xe7}, []byte{0x88, 0x82, 0, 0, 0, 0, 3, 0xe7}, im.ReasonProtocolError},
		{"close code 1005", []byte{8, 0, 0, 0, 2, 3, 0xed}, []byte{0x88, 0x82, 0, 0, 0, 0, 3, 0xed}, im.ReasonProtocolError},
		{"half a close code", []byte{8, 0, 0, 0, 1, 3}, []byte{0x88, 0x81, 0, 0, 0, 0, 3}, im.ReasonProtocolError},
		{"close text no UTF-8", []byte{8, 0, 0, 0, 3, 3, 0xe8, 0xff}, []byte{0x88, 0x83, 0, 0, 0, 0, 3, 0xe8, 0xff}, im.ReasonProtocolError},
		{"not masked", nil, []byte{0x82, 0x01, 'x'}, im.ReasonProtocolError},
		{"reserved bit", nil, masked(0xc2, 0x80), im.ReasonProtocolError},
		{"fragmented ping", nil, masked(0x09, 0x80), im.ReasonProtocolError},
		{"message within a message", nil, append(masked(0x02, 0x80), masked(0x82, 0x80)...), im.ReasonProtocolError},
		{"length in 2 bytes for 1", nil, []byte{0x82, 0xfe, 0, 5}, im.ReasonProtocolError},
		{"length in 8 bytes for 2", nil, []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 1, 0}, im.ReasonProtocolError},
		{"negative length", nil, []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, im.ReasonProtocolError},
	}
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		for _, c := range cases {
			bytes := c.bytes
			if v.isWebSocket() {
				bytes = c.wsOnly
			}
			if bytes == nil {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				p := n.dial(t)
				p.write(bytes)
				p.expectReason(c.reason)

				p = n.join(t, c.name)
				p.write(bytes)
				p.expectReason(c.reason)
				_ = p.Close()
				n.app.untilEvent(t, "disconnect "+c.name)
			})
		}
		n.untilEmpty(t)
	})
}

// untilEmpty waits until all channels have ended.
func (n *node) untilEmpty(t *testing.T) {
	t.Helper()
	for _, ch := range n.Channels().All() {
		<-ch.Done()
	}
}

func TestPeerCloseIsEchoed(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		p.send(im.OpBinary, []byte("last words"))
		p.send(im.OpClose, []byte{0x0f, 0xa5, 'b', 'y', 'e'}) // 4005
		p.expect("last words")
		p.expectClose(4005, "")

		p = n.join(t, "b")
		p.send(im.OpClose, nil)
		p.expectFrame(im.OpClose, []byte{})
		p.expectEnd()
		n.app.untilEvent(t, "disconnect a")
		n.app.untilEvent(t, "disconnect b")
		require.EqualValues(t, 2, n.metrics.Closed[im.ReasonClosedByPeer].Load())

		p = n.dial(t) // before the login
		p.send(im.OpClose, []byte{3, 0xe8})
		p.expectClose(1000, "")
	})
}

// A client that closes its writing half still gets the answers to what it sent.
func TestHalfClosed(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		p.send(im.OpBinary, []byte("1"))
		p.send(im.OpBinary, []byte("2"))
		require.NoError(t, p.Conn.(interface{ CloseWrite() error }).CloseWrite())
		p.expect("1")
		p.expect("2")
		p.expectEnd()
		n.app.untilEvent(t, "disconnect a")
		require.EqualValues(t, 1, n.metrics.Closed[im.ReasonClosedByPeer].Load())
	})
}

// More than one turn's worth of reading, and then the end: epoll reports a hang-up once, and it was
// forgotten when the poller served other channels in between.
func TestEndAfterManyTurns(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		proceed := make(chan struct{})
		n := start(t, v, transport.Options{}, &app{receive: func(im.Agent, []byte) { <-proceed }})
		p := n.join(t, "a")
		frame := p.frame(im.OpBinary, true, make([]byte, 1000))
		p.write(bytes.Repeat(frame, 1500))
		require.NoError(t, p.Conn.(interface{ CloseWrite() error }).CloseWrite())
		close(proceed)
		p.expectEnd()
		n.app.untilEvent(t, "disconnect a")
		require.EqualValues(t, 1500, n.metrics.FramesIn.Load())
	})
}

// A peer that is gone without a word, or says nothing: only the clock tells.
func TestSilence(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{ReadWait: 150 * time.Millisecond}, nil)
		silent, alive := n.join(t, "silent"), n.join(t, "alive")
		halfway := n.join(t, "halfway")
		halfway.write(halfway.frame(im.OpBinary, true, []byte("unfinished"))[:8])
		for begin := time.Now(); time.Since(begin) < 600*time.Millisecond; {
			alive.send(im.OpPing, nil)
			alive.expectFrame(im.OpPong, []byte{})
		}
		silent.expectReason(im.ReasonTimeout)
		halfway.expectReason(im.ReasonTimeout)
		alive.send(im.OpBinary, []byte("x"))
		alive.expect("x")
		_ = silent.Close()
		_ = halfway.Close()
		n.app.untilEvent(t, "disconnect silent")
		n.app.untilEvent(t, "disconnect halfway")
		require.EqualValues(t, 2, n.metrics.Closed[im.ReasonTimeout].Load())
	})
}

func TestLoginWait(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{LoginWait: 100 * time.Millisecond}, nil)
		p := n.dial(t)
		p.expectReason(im.ReasonUnauthorized)

		p = n.dial(t) // a byte now and then is no login
		p.write(p.frame(im.OpBinary, true, []byte("a"))[:1])
		p.expectReason(im.ReasonUnauthorized)
		if v.isWebSocket() || v.tls {
			silent := &peer{Conn: n.dialTCP(t), t: t}
			_, err := io.ReadAll(silent)
			require.NoError(t, err) // closed, and nothing was said
		}
	})
}

func TestAcceptorRefuses(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		refusals := make(chan func() error, 1)
		n := start(t, v, transport.Options{}, &app{accept: func(c im.Conn, _ time.Duration) (string, error) {
			if _, err := c.ReadFrame(); err != nil {
				return "", err
			}
			_ = c.WriteFrame(im.OpBinary, []byte("no")) // not flushed
			return "", (<-refusals)()
		}})
		for _, c := range []struct {
			refuse func() error
			reason im.Reason
		}{
			{func() error { return errors.New("secret detail") }, im.ReasonUnauthorized},
			{func() error { return &im.CloseError{Reason: im.ReasonUnavailable, Err: io.EOF} }, im.ReasonUnavailable},
			{func() error { return fmt.Errorf("parse: %w", im.ErrProtocol) }, im.ReasonProtocolError},
			{func() error { panic("acceptor") }, im.ReasonInternal},
			{func() error { return nil }, im.ReasonInternal}, // an empty id
		} {
			refusals <- c.refuse
			p := n.dial(t)
			p.send(im.OpBinary, []byte("let me in"))
			p.send(im.OpBinary, []byte("and this nobody reads"))
			p.expect("no")
			p.expectReason(c.reason)
		}
		require.EqualValues(t, 1, n.metrics.Panics.Load())
		require.Zero(t, n.metrics.Accepted.Load())
	})
}

// Connect comes before the first Receive, and what the client sends meanwhile waits.
func TestConnectBlocks(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		proceed := make(chan struct{})
		var connected atomic.Bool
		n := start(t, v, transport.Options{}, &app{
			connect: func(ch im.Channel) error {
				if err := ch.Push([]byte("pushed while connecting")); err != nil {
					return err
				}
				<-proceed
				connected.Store(true)
				return nil
			},
			receive: func(from im.Agent, payload []byte) {
				_ = from.Push(fmt.Appendf(nil, "%s %t", payload, connected.Load()))
			},
		})
		p := n.join(t, "a")
		p.send(im.OpBinary, []byte("x"))
		p.expect("pushed while connecting")
		p.send(im.OpBinary, []byte("y"))
		close(proceed)
		p.expect("x true")
		p.expect("y true")
	})
}

func TestConnectRefuses(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, &app{connect: func(ch im.Channel) error {
			if ch.ID() == "b" {
				panic("connect")
			}
			return &im.CloseError{Reason: im.ReasonUnavailable}
		}})
		p := n.join(t, "a")
		p.expectReason(im.ReasonUnavailable)
		_ = p.Close()
		p = n.join(t, "b")
		p.expectReason(im.ReasonInternal)
		_ = p.Close()
		n.app.untilEvent(t, "disconnect a")
		n.app.untilEvent(t, "disconnect b")
	})
}

func TestReceivePanics(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, &app{receive: func(from im.Agent, payload []byte) {
			if string(payload) == "panic" {
				panic("receive")
			}
			_ = from.Push(payload)
		}})
		bad, good := n.join(t, "bad"), n.join(t, "good")
		bad.send(im.OpBinary, []byte("panic"))
		bad.expectReason(im.ReasonInternal)
		good.send(im.OpBinary, []byte("x"))
		good.expect("x")
		require.EqualValues(t, 1, n.metrics.Panics.Load())
	})
}

// One Receive at a time per channel, in order, however slow, and Disconnect after the last one.
func TestReceiveOneAtATime(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		var inside, received atomic.Int32
		release := make(chan struct{})
		n := start(t, v, transport.Options{}, nil)
		n.app.receive = func(_ im.Agent, payload []byte) {
			if inside.Add(1) != 1 {
				t.Error("two at a time")
			}
			if got := received.Add(1) - 1; string(payload) != fmt.Sprint(got) {
				t.Errorf("got %s at %d", payload, got)
			}
			<-release
			n.app.note("received")
			inside.Add(-1)
		}
		p := n.join(t, "a")
		for i := range 50 {
			p.send(im.OpBinary, fmt.Append(nil, i))
		}
		_ = p.Close()
		close(release)
		n.app.untilEvent(t, "disconnect a")
		n.app.mu.Lock()
		defer n.app.mu.Unlock()
		require.Equal(t, "disconnect a", n.app.events[len(n.app.events)-1])
		require.EqualValues(t, 50, count(n.app.events, "received"))
	})
}

// In map, Connect, Receive, out of map, Disconnect once, Done.
func TestLifeInOrder(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		n.app.connect = func(ch im.Channel) error {
			if got, ok := n.Channels().Get(ch.ID()); !ok || got != ch {
				t.Error("connect before the channel is in the map")
			}
			return nil
		}
		for i := range 20 {
			id := fmt.Sprint("c", i)
			p := n.join(t, id)
			ch, ok := n.Channels().Get(id)
			require.True(t, ok)
			require.Equal(t, p.LocalAddr().String(), ch.RemoteAddr().String())
			switch i % 4 {
			case 0:
				_ = p.Close()
			case 1:
				p.send(im.OpClose, nil)
			case 2:
				ch.Close(im.ReasonDisplaced)
				ch.Close(im.ReasonInternal) // only the first counts
				p.expectReason(im.ReasonDisplaced)
				_ = p.Close()
			case 3:
				p.write(make([]byte, 100)) // no frame
				p.expectReason(im.ReasonProtocolError)
				_ = p.Close()
			}
			<-ch.Done()
			_, ok = n.Channels().Get(id)
			require.False(t, ok)
			require.ErrorIs(t, ch.Push(nil), im.ErrChannelClosed)
			n.app.mu.Lock()
			require.Equal(t, 1, count(n.app.events, "disconnect "+id))
			n.app.mu.Unlock()
		}
		require.EqualValues(t, 5, n.metrics.Closed[im.ReasonDisplaced].Load())
		require.EqualValues(t, 10, n.metrics.Closed[im.ReasonClosedByPeer].Load())
	})
}

// A close while the client keeps sending must not turn into a reset that eats the close frame.
func TestCloseIsHeardByABusyClient(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, &app{receive: func(im.Agent, []byte) {}})
		for i := range 10 {
			id := fmt.Sprint("c", i)
			p := n.join(t, id)
			ch, _ := n.Channels().Get(id)
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				b := p.frame(im.OpBinary, true, make([]byte, 1000))
				for {
					select {
					case <-stop:
						return
					default:
						if _, err := p.Write(b); err != nil {
							return
						}
					}
				}
			}()
			require.NoError(t, ch.Push([]byte("before")))
			ch.Close(im.ReasonSyncNeeded)
			p.expect("before")
			p.expectReason(im.ReasonSyncNeeded)
			close(stop)
			<-stopped
			_ = p.Close()
			<-ch.Done()
		}
	})
}

func TestAttachment(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		n.join(t, "a")
		ch, _ := n.Channels().Get("a")
		require.Nil(t, ch.Attachment())
		ch.SetAttachment(7)
		ch.SetAttachment("seven")
		require.Equal(t, "seven", ch.Attachment())
	})
}

func TestMetrics(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		n := start(t, v, transport.Options{}, nil)
		p := n.join(t, "a")
		for range 10 {
			p.send(im.OpBinary, make([]byte, 100))
			p.expectFrame(im.OpBinary, make([]byte, 100))
		}
		ch, _ := n.Channels().Get("a")
		_ = p.Close()
		<-ch.Done()
		m := n.metrics
		require.EqualValues(t, 1, m.Accepted.Load())
		require.EqualValues(t, 10, m.FramesIn.Load())
		require.EqualValues(t, 10, m.FramesOut.Load())
		require.GreaterOrEqual(t, m.BytesIn.Load(), uint64(1000))
		require.GreaterOrEqual(t, m.BytesOut.Load(), uint64(1000))
		require.Zero(t, m.Handshaking.Load())
	})
}

// What comes while the Acceptor still thinks is delivered when it has decided.
func TestMessagesDuringAccept(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		got, sent := make(chan struct{}), make(chan struct{})
		a := &app{accept: func(c im.Conn, _ time.Duration) (string, error) {
			f, err := c.ReadFrame()
			if err != nil {
				return "", err
			}
			close(got)
			<-sent
			return string(f.GetPayload()), nil
		}}
		n := start(t, v, transport.Options{}, a)
		p := n.dial(t)
		p.send(im.OpBinary, []byte("a"))
		<-got
		for i := range 3 {
			p.send(im.OpBinary, fmt.Appendf(nil, "early %d", i))
		}
		close(sent)
		for i := range 3 {
			p.expect(fmt.Sprintf("early %d", i))
		}
		p.send(im.OpBinary, []byte("late"))
		p.expect("late")
	})
}

// The wait for silence is a channel's: a handshake has the login's.
func TestSlowHandshake(t *testing.T) {
	forAll(t, func(t *testing.T, v variant) {
		const readWait = 200 * time.Millisecond
		a := &app{accept: func(c im.Conn, _ time.Duration) (string, error) {
			f, err := c.ReadFrame()
			if err != nil {
				return "", err
			}
			id := string(f.GetPayload())
			if _, err := c.ReadFrame(); err != nil { // a second one, after a while
				return "", err
			}
			return id, nil
		}}
		n := start(t, v, transport.Options{ReadWait: readWait}, a)
		p := n.dial(t)
		p.send(im.OpBinary, []byte("a"))
		require.NoError(t, p.SetReadDeadline(time.Now().Add(2*readWait)))
		_, _, err := p.recv()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "closed")
		require.NoError(t, p.SetReadDeadline(time.Now().Add(patience)))
		p.write(append(p.frame(im.OpBinary, true, []byte("now")), p.frame(im.OpBinary, true, []byte("hello"))...))
		p.expect("hello")
	})
}
