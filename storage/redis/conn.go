package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
)

// conn is a connection whose timeouts end a command. go-redis sends one again, up to three times, after an error of its connection.
// With one that Redis has closed while nobody used it that is right, as all that we send may be run twice. With a Redis that hangs
// each time costs a timeout. Whether an error is one, go-redis asks the error.
type conn struct{ net.Conn }

func (c conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, final(err)
}

func (c conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, final(err)
}

// final is the error, of which only the text says that it is a timeout.
func final(err error) error {
	if err == nil {
		return nil
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New(err.Error())
	}
	return err
}

func (o Options) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: o.DialTimeout}
	dial := plain.DialContext
	if o.TLS {
		dial = (&tls.Dialer{NetDialer: plain, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext
	}
	c, err := dial(ctx, network, addr)
	if err != nil {
		return nil, final(err)
	}
	return conn{c}, nil
}
