//go:build !linux

package transport

import "net"

// pollers is empty where there is no epoll: every connection gets a goroutine.
type pollers struct{}

func (*pollers) start(*host, int) error                 { return nil }
func (*pollers) adopt(*Channel, net.Conn) (bool, error) { return false, nil }
func (*pollers) begin(*Channel)                         {}
func (*pollers) stop()                                  {}
func (*pollers) reset()                                 {}

func (*pollers) listen(ln net.Listener, _ *host) (net.Listener, error) { return ln, nil }
func (*pollers) promote(net.Conn, string, *frameReader) *Channel       { return nil }
