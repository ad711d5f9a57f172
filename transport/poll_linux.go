package transport

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	im "github.com/hermod-im/hermod"
)

const (
	// pollEvents is how many events are taken from the kernel at once.
	pollEvents = 256
	// readTurns is how often a channel may fill the read buffer before the others have their turn.
	readTurns = 4

	// readEvents are those that each socket is watched for at first, allEvents once it has taken nothing, or something
	// was missed while it was not read.
	readEvents = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	allEvents  = readEvents | unix.EPOLLOUT
	readable   = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	hungUp     = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// errTurn: the channel has read enough for now.
var errTurn = errors.New("others' turn")

// pollers shares the channels of a server among epoll loops.
type pollers struct {
	all  []*poller // static after start; empty: every connection gets a goroutine
	next atomic.Uint32
}

func (ps *pollers) start(h *host, n int) error {
	for range n {
		p, err := newPoller(h)
		if err != nil {
			ps.reset()
			return fmt.Errorf("start poller: %w", err)
		}
		ps.all = append(ps.all, p)
	}
	return nil
}

// adopt takes the socket out of a plain TCP connection, which is closed, and gives c its place.
// Writes work from now on; reads begin with begin. c.mu is held, and reading is set.
func (ps *pollers) adopt(c *Channel, conn net.Conn) (bool, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || len(ps.all) == 0 {
		return false, nil
	}
	fd, err := duplicate(tcp)
	if err != nil {
		return false, err
	}
	p, before := ps.pick(), c.sock
	c.sock = p
	if err := p.add(c, fd); err != nil {
		c.sock = before
		_ = unix.Close(fd)
		return false, err
	}
	_ = tcp.Close()
	return true, nil
}

// pick chooses a poller.
func (ps *pollers) pick() *poller { return ps.all[ps.next.Add(1)%uint32(len(ps.all))] }

// duplicate returns a descriptor of the connection that the runtime's own poller does not know.
func duplicate(conn *net.TCPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(s uintptr) {
		fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0)
	})
	if ctlErr != nil {
		return 0, ctlErr
	}
	if err != nil {
		return 0, os.NewSyscallError("dup", err)
	}
	return fd, nil
}

// begin delivers what was read during the handshake, then starts to read. The caller has set
// reading until here.
func (ps *pollers) begin(c *Channel) {
	p := c.sock.(*poller)
	c.reader.src = drained{}
	p.deliver(c, c.reader)

	c.mu.Lock()
	defer c.unlock()
	c.reading = false
	if c.missed && c.load() != stateDead {
		c.missed = false
		p.rearm(c)
	}
}

// stop ends the loops. All channels have ended.
func (ps *pollers) stop() {
	for _, p := range ps.all {
		p.stop()
	}
}

// reset is stop, after which there may be another start.
func (ps *pollers) reset() {
	ps.stop()
	ps.all = nil
}

// poller is one epoll loop: a goroutine that reads, one that writes, and one that looks at the clock.
//
// The epoll descriptor itself is watched by the runtime's poller, so that the loop parks like any
// goroutine instead of holding a thread.
type poller struct {
	host  *host
	file  *os.File // the epoll descriptor
	raw   syscall.RawConn
	epfd  int
	began time.Time
	done  chan struct{}
	wg    sync.WaitGroup

	// Owned by run.
	scratch frameReader // of channels between frames
	src     pollSource
	polled  []unix.EpollEvent
	events  []event
	turns   []event // to be served again: there may be more to read
	heard   uint32  // when the runtime last heard of a system call, see heardOf

	ready readyList

	mu    sync.Mutex
	slots []slot
	free  []uint32 // indexes of unused slots
	// clocks are the moments at which channels expire: those that are closing or whose socket takes nothing.
	clocks map[*Channel]uint32
}

// slot is where an event finds its channel. The generation tells an event of the slot's former
// channel from one of the present.
type slot struct {
	c    *Channel
	gen  uint32
	last uint32 // when something was read, see poller.now
}

func newPoller(h *host) (*poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil { // makes NewFile use the runtime's poller
		_ = unix.Close(epfd)
		return nil, os.NewSyscallError("set nonblock", err)
	}
	file := os.NewFile(uintptr(epfd), "epoll")
	if err := file.SetDeadline(time.Time{}); err != nil { // it does not
		_ = file.Close()
		return nil, fmt.Errorf("watch epoll descriptor: %w", err)
	}
	p := &poller{
		host:   h,
		file:   file,
		epfd:   epfd,
		began:  time.Now(),
		done:   make(chan struct{}),
		clocks: make(map[*Channel]uint32),
		polled: make([]unix.EpollEvent, pollEvents),
	}
	p.ready = readyList{batch: h.batch, signal: make(chan struct{}, 1)}
	p.scratch = frameReader{src: &p.src, limit: h.maxPacket, buffers: h.buffers, buf: h.buffers.get(maxRead)}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	h.batch.join(&p.ready)
	p.wg.Go(p.run)
	p.wg.Go(p.flush)
	p.wg.Go(p.sweep)
	return p, nil
}

func (p *poller) stop() {
	close(p.done)
	_ = p.file.Close()
	p.wg.Wait()
}

// now is the time in milliseconds since the poller began. It wraps after 49 days; differences are right.
func (p *poller) now() uint32 { return uint32(time.Since(p.began).Milliseconds()) }

// add has the socket watched. Events of c come from now on.
func (p *poller) add(c *Channel, fd int) error {
	at := place{fd: int32(fd)}
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		at.slot, p.free = p.free[n-1], p.free[:n-1]
	} else {
		at.slot, p.slots = uint32(len(p.slots)), append(p.slots, slot{})
	}
	sl := &p.slots[at.slot]
	at.gen = sl.gen
	c.place = at
	sl.c, sl.last = c, p.now()
	p.mu.Unlock()

	if err := p.control(unix.EPOLL_CTL_ADD, at, readEvents); err != nil {
		p.mu.Lock()
		p.vacate(at)
		p.mu.Unlock()
		return err
	}
	return nil
}

// touch notes that the channel lives.
func (p *poller) touch(at place) {
	p.mu.Lock()
	p.slots[at.slot].last = p.now()
	p.mu.Unlock()
}

// vacate frees a slot. p.mu is held.
func (p *poller) vacate(at place) {
	sl := &p.slots[at.slot]
	sl.c = nil
	sl.gen++
	p.free = append(p.free, at.slot)
}

func (p *poller) control(op int, at place, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(at.slot), Pad: int32(at.gen)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epfd, op, int(at.fd), &ev))
}

// rearm makes the kernel report what there is already, and from now on when the socket takes bytes again. Locked.
func (p *poller) rearm(c *Channel) {
	if err := p.control(unix.EPOLL_CTL_MOD, c.place, allEvents); err != nil {
		p.host.logf("transport: poller: %v", err)
		c.kill(im.ReasonInternal)
	}
}

// event is what happened to a channel.
type event struct {
	c     *Channel
	flags uint32
}

// run takes turns until the poller stops.
//
// All of them are within one Read: what happens during a turn is an edge that the runtime's poller keeps for
// us, so that the loop parks without another look at the descriptor.
func (p *poller) run() {
	defer p.host.batch.leave(&p.ready)
	_ = p.raw.Read(func(uintptr) bool { return !p.turn() }) // stopped
}

// turn handles what has happened. False: the poller cannot go on.
func (p *poller) turn() bool {
	for {
		now := p.now()
		n, err := p.wait(now)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			p.host.logf("transport: epoll_wait: %v", err)
			return false
		case n == 0 && len(p.turns) == 0:
			return true
		}
		p.host.batch.Begin()
		turns := p.turns
		p.turns = nil
		for _, e := range turns {
			p.serve(e)
		}
		p.events = p.resolve(p.polled[:n], p.events[:0], now)
		for i, e := range p.events {
			p.serve(e)
			p.events[i] = event{}
		}
		p.host.batch.End()
		if n < len(p.polled) && len(p.turns) == 0 {
			return true
		}
		runtime.Gosched()
	}
}

// wait takes events from the kernel; it does not wait for them.
func (p *poller) wait(now uint32) (int, error) {
	if now-p.heard >= heardOf {
		p.heard = now
		return unix.EpollWait(p.epfd, p.polled, 0)
	}
	n, errno := rawEpollWait(p.epfd, p.polled)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// resolve finds the channels of the events and notes that they live.
func (p *poller) resolve(raw []unix.EpollEvent, events []event, now uint32) []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range raw {
		sl := &p.slots[uint32(ev.Fd)]
		if sl.c == nil || sl.gen != uint32(ev.Pad) {
			continue
		}
		if ev.Events&unix.EPOLLIN != 0 {
			sl.last = now
		}
		events = append(events, event{sl.c, ev.Events})
	}
	return events
}

// serve writes and reads, as the event allows.
func (p *poller) serve(e event) {
	c := e.c
	c.mu.Lock()
	if j, ok := c.sock.(*joining); ok {
		j.happened(e.flags)
		c.mu.Unlock()
		return
	}
	if e.flags&unix.EPOLLOUT != 0 {
		c.ready()
	}
	reads := e.flags&readable != 0 && c.load() != stateDead
	if reads && c.reading { // who has the channel asks again, see begin
		c.missed, reads = true, false
	}
	c.reading = c.reading || reads
	c.unlock()
	if !reads {
		return
	}
	defer c.endRead()
	p.src = pollSource{fd: int(c.place.fd), host: p.host, hungUp: e.flags&hungUp != 0}
	r := c.reader
	if r == nil {
		r = &p.scratch
		r.codec = c.host.codec
	}
	r.src = &p.src
	if p.deliver(c, r) {
		p.turns = append(p.turns, e) // as it is: a hang-up is not reported twice
	}
}

// deliver gives the channel's listener what the source of r has. again: there may be more.
func (p *poller) deliver(c *Channel, r *frameReader) (again bool) {
	err := c.deliver(r)
	if err != errAgain && err != errTurn {
		c.readFailed(err)
		// The rest of what is there, and the peer's end, would not be reported again.
		if err = drain(r); err != errAgain && err != errTurn {
			c.readFailed(err)
		}
	}
	p.park(c, r)
	return err == errTurn
}

// drain reads what is there and forgets it.
func drain(r *frameReader) error {
	r.forget()
	for {
		if err := r.fill(1); err != nil {
			return err
		}
		r.forget()
	}
}

// park keeps an unfinished frame with its channel, in a buffer of its size, and no buffer otherwise.
func (p *poller) park(c *Channel, r *frameReader) {
	if r != &p.scratch {
		if r.idle() || c.load() != stateOpen {
			r.release()
			c.reader = nil
		}
		return
	}
	if c.load() == stateOpen && !r.idle() {
		c.reader = r.split()
	}
	r.forget()
	if b := r.buf; cap(b.data) > maxRead {
		p.host.buffers.put(b)
		r.buf = p.host.buffers.get(maxRead)
	}
}

// flush is the goroutine that writes for all channels of the poller.
func (p *poller) flush() {
	var list []*Channel
	for {
		select {
		case <-p.done:
			return
		case <-p.ready.signal:
		}
		for list = p.ready.take(list); len(list) > 0; list = p.ready.take(list) {
			for i, c := range list {
				if c.flush() {
					p.ready.add(c)
				}
				list[i] = nil
			}
		}
	}
}

// The poller is the socket of all its channels.

func (p *poller) wake(c *Channel) { p.ready.add(c) }

func (p *poller) write(c *Channel, b []byte) (int, error) {
	for {
		n, err := rawWrite(int(c.place.fd), b)
		switch err {
		case 0:
			return n, nil
		case unix.EAGAIN:
			return 0, errAgain
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError("write", err)
		}
	}
}

func (p *poller) stalled(c *Channel) {
	p.rearm(c)
	if c.load() == stateOpen { // otherwise the clock of the close is running
		p.expire(c, p.host.writeWait)
	}
}

func (p *poller) expire(c *Channel, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clocks[c] = p.now() + uint32(d.Milliseconds())
}

func (p *poller) closeWrite(c *Channel) { _ = unix.Shutdown(int(c.place.fd), unix.SHUT_WR) }

// shut has nothing to do: no read or write blocks.
func (p *poller) shut(*Channel) {}

func (p *poller) discards() bool { return false }

// release forgets the channel before its descriptor can be reused.
func (p *poller) release(c *Channel) {
	p.mu.Lock()
	delete(p.clocks, c)
	p.vacate(c.place)
	p.mu.Unlock()
	_ = p.control(unix.EPOLL_CTL_DEL, c.place, 0)
	_ = unix.Close(int(c.place.fd))
}
