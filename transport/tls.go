package transport

import (
	"crypto/tls"
	"fmt"
	"net"
)

// LoadTLS makes a server's configuration from PEM files: the certificate with its chain, and its key.
func LoadTLS(certFile, keyFile string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS12,
		// A WebSocket handshake is HTTP/1.1; a client that offers h2 first must not get it.
		NextProtos: []string{"http/1.1"},
	}, nil
}

// TLSClient is TLS over a dialled connection, for a Dialer; the handshake is still to be done. config may be nil; its
// ServerName defaults to the host. With it a client sees that its peer takes bytes, if only a part of what is written.
func TLSClient(conn net.Conn, config *tls.Config, host string) *tls.Conn {
	config = config.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	return tls.Client(&patient{Conn: conn}, config)
}
