package sql

import (
	"context"
	stdsql "database/sql"
	"fmt"

	"github.com/hermod-im/hermod/storage"
)

// Stale implements storage.Messages: one statement, whose answer has a row for each bucket that is not empty.
//
// A client that has everything has the cursor last_seq everywhere, also where it joined since: its
// cursor starts at joined_seq, which is last_seq then.
func (s *Store) Stale(ctx context.Context, app, account string, digests []storage.Digest) ([]uint32, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	reads := "0" // what nobody asks for need not be read
	for _, d := range digests {
		if !d.NoReads {
			reads = "SUM(m.read_seq)"
		}
	}
	has := make([]storage.Digest, len(digests))
	err := s.query(s.reader.WithContext(ctx), func(rows *stdsql.Rows) error {
		var bucket int
		var d storage.Digest
		err := rows.Scan(&bucket, &d.Conversations, &d.IDs, &d.Seqs, &d.Reads)
		has[bucket] = d
		return err
	}, fmt.Sprintf("SELECT m.conversation_id %% ? AS bucket, COUNT(*), SUM(m.conversation_id %% %d), SUM(c.last_seq), %s", storage.DigestModulus, reads)+
		s.ofAccount()+" AND "+talkedIn+" GROUP BY bucket", len(digests), []byte(app), []byte(account))
	if err != nil {
		return nil, fmt.Errorf("compare digests: %w", err)
	}
	var stale []uint32
	for i, d := range digests {
		if d.NoReads {
			has[i].NoReads, has[i].Reads = true, d.Reads
		}
		if d != has[i] {
			stale = append(stale, uint32(i))
		}
	}
	return stale, nil
}
