package sql

import (
	"crypto/sha256"
	"database/sql/driver"
	"encoding/binary"

	"github.com/google/uuid"
)

// clientKey is the hash by which a repeated send is recognised within its conversation. 64 bits
// keep the index small; where two ids collide all the same, the second is refused (see number).
func clientKey(sender, id string) int64 {
	buf := make([]byte, 0, 1+maxName+maxClientID)
	buf = append(buf, byte(len(sender)))
	buf = append(buf, sender...)
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// clientID is a client's id as it is stored: NULL if empty, and a UUID, which most are, in 17 bytes
// instead of 36.
type clientID string

// packedUUID marks a UUID's bytes. It begins no UTF-8.
const packedUUID = 0xff

// Value implements driver.Valuer.
func (c clientID) Value() (driver.Value, error) {
	if c == "" {
		return nil, nil
	}
	return c.bytes(), nil
}

// bytes is the id as it is stored, if it is not empty.
func (c clientID) bytes() []byte {
	if len(c) == 36 {
		// Only what comes back as it went: no capitals.
		if id, err := uuid.Parse(string(c)); err == nil && id.String() == string(c) {
			return append([]byte{packedUUID}, id[:]...)
		}
	}
	return []byte(c)
}

// Scan implements sql.Scanner.
func (c *clientID) Scan(src any) error {
	if b, ok := src.([]byte); ok && len(b) == 17 && b[0] == packedUUID {
		*c = clientID(uuid.UUID(b[1:]).String())
		return nil
	}
	return (*octets)(c).Scan(src)
}
