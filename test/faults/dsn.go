package faults

import (
	"fmt"

	"github.com/go-sql-driver/mysql"
)

// withAddress is a DSN with another host:port.
func withAddress(dsn, address string) (string, error) {
	c, err := mysql.ParseDSN(dsn)
	if err != nil {
		return "", fmt.Errorf("the cluster's DSN: %w", err)
	}
	c.Addr = address
	return c.FormatDSN(), nil
}
