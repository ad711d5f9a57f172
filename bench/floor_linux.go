package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Floor measures what the sockets of a message cost on this machine at the moment.
func Floor(ctx context.Context, o FloorOptions) (_ *FloorResult, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	cmd := o.Spawn()
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the relay: %w", err)
	}
	defer func() {
		_ = in.Close() // ends it
		if err != nil {
			_ = cmd.Process.Kill() // it may wait for connections that do not come
		}
		err = errors.Join(err, cmd.Wait())
	}()
	if err := json.NewEncoder(in).Encode(o.Pairs); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	var port int
	if err := json.NewDecoder(out).Decode(&port); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	f := &floor{o: o, relay: []Process{{Name: "relay", PID: cmd.Process.Pid}}}
	defer f.close()
	if err := f.connect(port); err != nil {
		return nil, err
	}
	return f.run(ctx)
}

// floor is the clients of a relay: connection 2i sends, and 2i+1 receives.
type floor struct {
	o     FloorOptions
	relay []Process
	epoll int
	fds   []int
	pairs []floorPair
}

// floorPair counts the bytes of a pair.
type floorPair struct{ sent, acked, delivered int }

// done is how many messages are acknowledged and delivered.
func (p *floorPair) done() int { return min(p.acked/floorAck, p.delivered/floorMessage) }

func (f *floor) close() {
	for _, fd := range f.fds {
		_ = unix.Close(fd)
	}
}

func (f *floor) connect(port int) (err error) {
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	f.fds = append(f.fds, f.epoll)
	f.pairs = make([]floorPair, f.o.Pairs)
	for i := range 2 * f.o.Pairs {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		f.fds = append(f.fds, fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return fmt.Errorf("connect to the relay: %w", err)
		}
		if err := watch(f.epoll, fd, i); err != nil {
			return err
		}
	}
	return nil
}

// watch has an epoll descriptor report what comes on a socket, which does not wait any more, as of connection i.
func watch(epoll, fd, i int) error {
	err := errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}))
	if err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	return nil
}

// fd is the descriptor of connection i.
func (f *floor) fd(i int) int { return f.fds[i+1] }

func (f *floor) run(ctx context.Context) (*FloorResult, error) {
	for i := range f.pairs {
		if err := f.fill(i); err != nil {
			return nil, err
		}
	}
	if _, err := f.serve(ctx, f.o.Warmup); err != nil {
		return nil, err
	}
	before, err := read(f.relay)
	if err != nil {
		return nil, err
	}
	n, err := f.serve(ctx, f.o.Duration)
	if err != nil {
		return nil, err
	}
	after, err := read(f.relay)
	if err != nil {
		return nil, err
	}
	return &FloorResult{
		Messages: n, Rate: float64(n) / after.at.Sub(before.at).Seconds(),
		CPU: after.cpuSince(before, f.relay, n).Total,
	}, nil
}

// floorBytes are what all messages and acknowledgements consist of.
var floorBytes = bytes.Repeat([]byte{'x'}, maxFloorWindow*floorMessage)

// fill sends as many messages as the window of pair i has room for.
func (f *floor) fill(i int) error {
	p := &f.pairs[i]
	n := f.o.Window - (p.sent - p.done())
	p.sent += n
	return writeFloor(f.fd(2*i), n*floorMessage)
}

// writeFloor writes some bytes, which a socket takes at once.
func writeFloor(fd, n int) error {
	if n == 0 {
		return nil
	}
	wrote, err := unix.Write(fd, floorBytes[:n])
	if err != nil {
		return os.NewSyscallError("write", err)
	}
	if wrote < n {
		return fmt.Errorf("a socket took %d of %d bytes", wrote, n)
	}
	return nil
}

// serve keeps the windows full for a while, and returns how many messages were done meanwhile.
func (f *floor) serve(ctx context.Context, d time.Duration) (n int64, err error) {
	events, buf := make([]unix.EpollEvent, 256), make([]byte, 64<<10)
	for end := time.Now().Add(d); time.Now().Before(end); {
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		got, err := unix.EpollWait(f.epoll, events, 20)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return n, fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(0, got)] {
			i := int(e.Fd)
			size, err := unix.Read(f.fd(i), buf)
			if err != nil || size == 0 {
				return n, fmt.Errorf("the relay closed a connection: %w", errors.Join(err, io.ErrUnexpectedEOF))
			}
			p := &f.pairs[i/2]
			before := p.done()
			if i%2 == 0 {
				p.acked += size
			} else {
				p.delivered += size
			}
			n += int64(p.done() - before)
			if err := f.fill(i / 2); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// FloorRelay relays messages in a process that Floor's Spawn has started: how many pairs comes from in, the port goes
// to out. It returns when in ends.
func FloorRelay(in io.Reader, out io.Writer) error {
	var pairs int
	if err := json.NewDecoder(in).Decode(&pairs); err != nil {
		return cutShort(err)
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(listener) //nolint:errcheck // nothing is lost with it
	err = errors.Join(unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(listener, 2*pairs))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	address, err := unix.Getsockname(listener)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := json.NewEncoder(out).Encode(address.(*unix.SockaddrInet4).Port); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in) // its end is what counts
	}()
	return relay(listener, 2*pairs, ended)
}

// relay serves n connections until they close or ended is closed.
func relay(listener, n int, ended <-chan struct{}) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	defer unix.Close(epoll) //nolint:errcheck // as above
	fds, rest := make([]int, n), make([]int, n)
	for i := range fds {
		if fds[i], _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		defer unix.Close(fds[i]) //nolint:errcheck // as above
		if err := watch(epoll, fds[i], i); err != nil {
			return err
		}
	}
	events, buf := make([]unix.EpollEvent, 256), make([]byte, 64<<10)
	for {
		select {
		case <-ended:
			return nil
		default:
		}
		got, err := unix.EpollWait(epoll, events, 20)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(0, got)] {
			i := int(e.Fd)
			size, err := unix.Read(fds[i], buf)
			if err != nil || size == 0 {
				return nil // the run is over
			}
			whole := (rest[i] + size) / floorMessage
			rest[i] = (rest[i] + size) % floorMessage
			if err := errors.Join(writeFloor(fds[i], whole*floorAck), writeFloor(fds[i^1], whole*floorMessage)); err != nil {
				return nil // as above
			}
		}
	}
}
