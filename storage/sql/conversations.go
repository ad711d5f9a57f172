package sql

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/hermod-im/hermod/storage"
)

// Bounds of what is stored, in bytes. What exceeds them is refused with storage.ErrInvalid.
const (
	maxName     = 64 // app, account
	maxClientID = 64
	// maxBody fits twice (all escaped) into MariaDB's default max_allowed_packet of 16 MiB.
	maxBody         = 4 << 20
	maxExtra        = 1<<16 - 1 // BLOB
	maxGroupName    = 255
	maxAvatar       = 1024
	maxIntroduction = 4096
)

const (
	roleMember = 0
	roleOwner  = 1
)

// conversation is a row of conversations.
type conversation struct {
	ID            int64 `gorm:"primaryKey;autoIncrement:false"`
	App           octets
	Kind          storage.Kind
	Key           octets `gorm:"column:ckey"`
	LastSeq       int64
	LastMessageID int64 // a bound: no message of it has a higher id
	MemberVersion int64
	CreatedAt     int64 `gorm:"autoCreateTime:false"`
}

// member is a row of members.
type member struct {
	ConversationID int64  `gorm:"primaryKey;autoIncrement:false"`
	Account        octets `gorm:"primaryKey"`
	App            octets
	Role           int8
	JoinedSeq      int64
	AckSeq         int64
	ReadSeq        int64
	Muted          bool
	JoinedAt       int64
	Alias          octets
	Avatar         octets
}

// pair names a conversation of two: the key is that of its row.
type pair struct{ app, key string }

// pairOf is the pair of two accounts, the same whoever asks. Accounts are at most maxName long.
func pairOf(app, a, b string) pair {
	if b < a {
		a, b = b, a
	}
	return pair{app: app, key: string(rune(len(a))) + a + b}
}

// accounts splits a key into the accounts that pairOf joined, in order.
func (p pair) accounts() (a, b string) {
	n := int(p.key[0]) + 1
	return p.key[1:n], p.key[n:]
}

// members are the accounts of the conversation, one if it is a note to oneself.
func (p pair) members() []string {
	a, b := p.accounts()
	if a == b {
		return []string{a}
	}
	return []string{a, b}
}

// peer is the account that talks with this one.
func (p pair) peer(account string) string {
	a, b := p.accounts()
	if a == account {
		return b
	}
	return a
}

// groupKey is the key of a group's conversation row: unique as its id is.
func groupKey(id int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(id)))
}

// parseGroupID reads a group's id as it was written, so that no group has two names.
func parseGroupID(s string) (id int64, ok bool) {
	id, err := strconv.ParseInt(s, 10, 64)
	return id, err == nil && id > 0 && strconv.FormatInt(id, 10) == s
}

// invalid is an error that wraps storage.ErrInvalid when the field's size is not in [low, high].
func invalid(field, value string, low, high int) error {
	if n := len(value); n < low || n > high {
		return fmt.Errorf("%w: %s has %d bytes, not %d to %d", storage.ErrInvalid, field, n, low, high)
	}
	return nil
}

func validAccount(app, account string) error {
	return errors.Join(invalid("app", app, 0, maxName), invalid("account", account, 1, maxName))
}

// findPairs puts the ids of existing conversations into ids.
func (s *Store) findPairs(db *gorm.DB, pairs []pair, ids map[pair]int64) error {
	byApp := make(map[string][]octets)
	for _, p := range pairs {
		byApp[p.app] = append(byApp[p.app], octets(p.key))
	}
	for app, keys := range byApp {
		for part := range chunks(&s.dialect, keys, s.dialect.keys) {
			var rows []conversation
			err := db.Raw("SELECT id, ckey FROM conversations WHERE app = ? AND kind = ? AND ckey IN ?",
				octets(app), storage.KindUser, part).Scan(&rows).Error
			if err != nil {
				return fmt.Errorf("find conversations: %w", err)
			}
			for _, row := range rows {
				ids[pair{app: app, key: string(row.Key)}] = row.ID
			}
		}
	}
	return nil
}

// resolve returns the ids of conversations of two, which are made where they do not exist.
func (s *Store) resolve(ctx context.Context, pairs []pair) (map[pair]int64, error) {
	ids := make(map[pair]int64, len(pairs))
	missing := func() (out []pair) {
		for _, p := range pairs {
			if _, ok := ids[p]; !ok {
				out = append(out, p)
			}
		}
		return out
	}
	for _, p := range pairs {
		if id, ok := s.conversations.GetIfPresent(p); ok {
			ids[p] = id
		}
	}
	uncached := missing()
	if len(uncached) == 0 {
		return ids, nil
	}
	if err := s.findPairs(s.writer.WithContext(ctx), uncached, ids); err != nil {
		return nil, err
	}
	if unmade := missing(); len(unmade) > 0 {
		if err := s.createPairs(ctx, unmade, ids); err != nil {
			return nil, err
		}
	}
	for _, p := range uncached {
		s.conversations.Set(p, ids[p])
	}
	return ids, nil
}

// createPairs makes conversations of two with their members, or finds those that another node has
// made meanwhile. It is a transaction of its own, before that of the messages: the locks of new
// rows are taken in the order of their keys, those of Append in the order of ids. A conversation
// without a message is as good as none.
func (s *Store) createPairs(ctx context.Context, pairs []pair, ids map[pair]int64) error {
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.app, b.app), cmp.Compare(a.key, b.key))
	})
	now := s.now().UnixNano()
	rows := make([]conversation, len(pairs))
	for i, p := range pairs {
		id, err := s.ids.Next(0)
		if err != nil {
			return err
		}
		rows[i] = conversation{ID: id, App: octets(p.app), Kind: storage.KindUser, Key: octets(p.key), CreatedAt: now}
	}
	err := s.transact(ctx, func(tx *gorm.DB) error {
		if err := tx.Clauses(clause.OnConflict{DoNothing: true}).CreateInBatches(rows, s.dialect.keys).Error; err != nil {
			return err
		}
		if err := s.findPairs(tx, pairs, ids); err != nil {
			return err
		}
		var added []member
		for i, p := range pairs {
			if ids[p] != rows[i].ID {
				continue // made by someone else, with its members
			}
			for _, account := range p.members() {
				added = append(added, member{ConversationID: rows[i].ID, Account: octets(account), App: octets(p.app), JoinedAt: now})
			}
		}
		if len(added) == 0 {
			return nil
		}
		return tx.CreateInBatches(added, s.dialect.keys).Error
	})
	if err != nil {
		return fmt.Errorf("create conversations: %w", err)
	}
	return nil
}

// How often a transaction is tried, and the longest wait before the second try; it doubles.
const (
	attempts   = 8
	retryDelay = 5 * time.Millisecond
)

// errCommit: COMMIT failed without an answer, so nobody knows what became of it.
var errCommit = errors.New("outcome of commit unknown")

// once runs f in one write transaction.
func (s *Store) once(ctx context.Context, f func(tx *gorm.DB) error) error {
	tx := s.writer.WithContext(ctx).Begin()
	if tx.Error != nil {
		return tx.Error
	}
	defer func() {
		if tx != nil {
			tx.Rollback()
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	err := tx.Commit().Error
	tx = nil
	if err != nil && !s.dialect.refused(err) {
		return fmt.Errorf("%w: %w", errCommit, err)
	}
	return err
}

// transact runs f in a write transaction, again where it lost to another one. f may run several
// times; it does not run again once its outcome may have been a commit.
func (s *Store) transact(ctx context.Context, f func(tx *gorm.DB) error) error {
	for attempt := range attempts {
		err := s.once(ctx, f)
		if err == nil || errors.Is(err, errCommit) || !s.dialect.transient(err) || attempt == attempts-1 {
			return err
		}
		if err := backOff(ctx, attempt); err != nil {
			return err
		}
	}
	panic("unreachable")
}

// backOff waits before another attempt, with full jitter.
func backOff(ctx context.Context, attempt int) error {
	timer := time.NewTimer(rand.N(retryDelay << attempt))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
