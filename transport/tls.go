package transport

import (
	"crypto/tls"
	"fmt"
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
