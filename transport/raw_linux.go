package transport

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the pollers never block, so the runtime need not hear of them. That costs it more
// than it seems: its monitor thread, asleep while the process has nothing to do, is woken by each first
// system call that it hears of, and then looks around every 20 µs. This was a quarter of the CPU time of a gateway
// with 100 busy clients.

// heardOf is how often a busy poller makes a system call that the runtime hears of, in milliseconds: its monitor
// is who interrupts goroutines that run for long and looks at the network if nobody else does. At 10, two
// pollers and two links woke it for half of the time.
const heardOf uint32 = 100

func rawRead(fd int, b []byte) (int, unix.Errno) {
	n, _, err := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), err
}

func rawWrite(fd int, b []byte) (int, unix.Errno) {
	n, _, err := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), err
}

// rawEpollWait is epoll_wait without a wait.
func rawEpollWait(epfd int, events []unix.EpollEvent) (int, unix.Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd),
		uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	return int(n), err
}
