//go:build !linux

package transport

import "net"

// pollers is empty where there is no epoll: every connection gets a goroutine.
type pollers struct{}

func (*pollers) start(*host, int) error                 { return nil }
func (*pollers) adopt(*Channel, net.Conn) (bool, error) { return false, nil }
func (*pollers) begin(*Channel)                         {}
func (*pollers) stop()                                  {}
