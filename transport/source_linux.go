package transport

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pollSource reads a socket until it has nothing more.
type pollSource struct {
	fd     int
	host   *host
	hungUp bool // read to the end
	empty  bool // the last read got less than it could take
	turns  int
}

func (s *pollSource) Read(b []byte) (int, error) {
	switch {
	case s.empty && !s.hungUp:
		return 0, errAgain
	case s.turns == readTurns:
		return 0, errTurn
	}
	for {
		n, err := rawRead(s.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, errAgain
		case err != 0:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		s.host.metrics.BytesIn.Add(uint64(n))
		if s.empty = n < len(b); !s.empty {
			s.turns++
		}
		return n, nil
	}
}

// drained is the source of a reader that shall only parse what it has.
type drained struct{}

func (drained) Read([]byte) (int, error) { return 0, errAgain }
