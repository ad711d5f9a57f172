package sql

import (
	"context"
	stdsql "database/sql"
	"fmt"
	"slices"
	"strconv"

	"gorm.io/gorm"

	"github.com/hermod-im/hermod/storage"
)

// chatGroup is a row of chat_groups.
type chatGroup struct {
	ConversationID int64 `gorm:"primaryKey;autoIncrement:false"`
	App            octets
	Name           octets
	Avatar         octets
	Introduction   octets
	Owner          octets
	CreatedAt      int64 `gorm:"autoCreateTime:false"`
}

// CreateGroup implements storage.Groups. A CreatedAt of 0 is now.
func (s *Store) CreateGroup(ctx context.Context, g storage.Group, limits storage.GroupLimits) (string, error) {
	rows, err := memberRows(g)
	if err == nil && limits.Members > 0 && len(rows) > limits.Members {
		err = storage.ErrGroupFull
	}
	if err != nil {
		return "", fmt.Errorf("create group: %w", err)
	}
	if g.CreatedAt == 0 {
		g.CreatedAt = s.now().UnixNano()
	}
	id, err := s.ids.Next(0)
	if err != nil {
		return "", fmt.Errorf("create group: %w", err)
	}
	for i := range rows {
		rows[i].ConversationID, rows[i].JoinedAt = id, g.CreatedAt
	}
	err = s.transact(ctx, func(tx *gorm.DB) error {
		if err := s.mayHaveMore(tx, g.App, g.Owner, limits.Groups); err != nil {
			return err
		}
		err := tx.Create(&conversation{
			ID: id, App: octets(g.App), Kind: storage.KindGroup, Key: octets(groupKey(id)), CreatedAt: g.CreatedAt,
		}).Error
		if err != nil {
			return err
		}
		err = tx.Create(&chatGroup{
			ConversationID: id, App: octets(g.App), Name: octets(g.Name), Avatar: octets(g.Avatar),
			Introduction: octets(g.Introduction), Owner: octets(g.Owner), CreatedAt: g.CreatedAt,
		}).Error
		if err != nil {
			return err
		}
		return tx.CreateInBatches(rows, s.dialect.keys).Error
	})
	if err != nil {
		return "", fmt.Errorf("create group: %w", err)
	}
	return strconv.FormatInt(id, 10), nil
}

// mayHaveMore is storage.ErrTooManyGroups if the account belongs to that many groups.
func (s *Store) mayHaveMore(tx *gorm.DB, app, account string, most int) error {
	if most <= 0 {
		return nil
	}
	has := 0
	err := s.query(tx, func(rows *stdsql.Rows) error { return rows.Scan(&has) },
		"SELECT COUNT(*)"+s.ofAccount()+" AND c.kind = ?", []byte(app), []byte(account), storage.KindGroup)
	if err != nil {
		return fmt.Errorf("count groups: %w", err)
	}
	if has >= most {
		return storage.ErrTooManyGroups
	}
	return nil
}

// memberRows are the members of a new group: the owner first, nobody twice.
func memberRows(g storage.Group) ([]member, error) {
	for _, err := range []error{
		invalid("name", g.Name, 0, maxGroupName),
		invalid("avatar", g.Avatar, 0, maxAvatar),
		invalid("introduction", g.Introduction, 0, maxIntroduction),
	} {
		if err != nil {
			return nil, err
		}
	}
	all := append([]storage.Member{{Account: g.Owner}}, g.Members...)
	place := make(map[string]int, len(all))
	rows := make([]member, 0, len(all))
	for _, m := range all {
		if err := validAccount(g.App, m.Account); err != nil {
			return nil, err
		}
		for _, err := range []error{invalid("alias", m.Alias, 0, maxGroupName), invalid("avatar", m.Avatar, 0, maxAvatar)} {
			if err != nil {
				return nil, err
			}
		}
		if i, ok := place[m.Account]; ok {
			rows[i].Alias, rows[i].Avatar = octets(m.Alias), octets(m.Avatar)
			continue
		}
		place[m.Account] = len(rows)
		row := member{Account: octets(m.Account), App: octets(g.App), Alias: octets(m.Alias), Avatar: octets(m.Avatar)}
		if m.Account == g.Owner {
			row.Role = roleOwner
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// lockGroup locks the group's conversation for a change of its members and returns it with them,
// the longest-standing first.
func (s *Store) lockGroup(tx *gorm.DB, app, id string) (*target, []member, error) {
	number, ok := parseGroupID(id)
	if !ok {
		return nil, nil, storage.ErrNoConversation
	}
	t := &target{app: app, kind: storage.KindGroup, id: number}
	if err := s.lock(tx, []*target{t}); err != nil {
		return nil, nil, err
	}
	if !t.found {
		return nil, nil, storage.ErrNoConversation
	}
	var rows []member
	err := tx.Where("conversation_id = ?", number).Order("joined_at, account").Find(&rows).Error
	return t, rows, err
}

// changed notes that the members of a locked group are others now.
func changed(tx *gorm.DB, t *target) error {
	return tx.Exec("UPDATE conversations SET member_version = member_version + 1 WHERE id = ?", t.id).Error
}

func accounts(rows []member, without string) []string {
	out := make([]string, 0, len(rows))
	for _, m := range rows {
		if string(m.Account) != without {
			out = append(out, string(m.Account))
		}
	}
	return out
}

// Join implements storage.Groups. Who joins a group that everybody has left owns it.
func (s *Store) Join(ctx context.Context, app, id, account string, limits storage.GroupLimits) (others []string, err error) {
	if err := validAccount(app, account); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	err = s.transact(ctx, func(tx *gorm.DB) error {
		t, rows, err := s.lockGroup(tx, app, id)
		if err != nil {
			return err
		}
		others = accounts(rows, account)
		if len(others) < len(rows) {
			return storage.ErrAlreadyMember
		}
		if limits.Members > 0 && len(rows) >= limits.Members {
			return storage.ErrGroupFull
		}
		if err := s.mayHaveMore(tx, app, account, limits.Groups); err != nil {
			return err
		}
		row := member{
			ConversationID: t.id, Account: octets(account), App: octets(app), JoinedAt: s.now().UnixNano(),
			JoinedSeq: t.lastSeq, AckSeq: t.lastSeq, ReadSeq: t.lastSeq,
		}
		if len(rows) == 0 {
			row.Role = roleOwner
			if err := setOwner(tx, t, account); err != nil {
				return err
			}
		}
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
		return changed(tx, t)
	})
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return others, nil
}

func setOwner(tx *gorm.DB, t *target, account string) error {
	return tx.Model(&chatGroup{}).Where("conversation_id = ?", t.id).Update("owner", octets(account)).Error
}

// Quit implements storage.Groups.
func (s *Store) Quit(ctx context.Context, app, id, account string) (others []string, err error) {
	err = s.transact(ctx, func(tx *gorm.DB) error {
		t, rows, err := s.lockGroup(tx, app, id)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(rows, func(m member) bool { return string(m.Account) == account })
		if at < 0 {
			return storage.ErrNotMember
		}
		others = accounts(rows, account)
		// gorm's own condition, (conversation_id, account) IN ((?, ?)), makes MariaDB scan the table.
		err = tx.Where("conversation_id = ? AND account = ?", t.id, octets(account)).Delete(&member{}).Error
		if err != nil {
			return err
		}
		if rows[at].Role == roleOwner {
			if err := passOn(tx, t, slices.Delete(rows, at, at+1)); err != nil {
				return err
			}
		}
		return changed(tx, t)
	})
	if err != nil {
		return nil, fmt.Errorf("quit: %w", err)
	}
	return others, nil
}

// passOn gives the group to the first of those who stay, or to nobody.
func passOn(tx *gorm.DB, t *target, rows []member) error {
	if len(rows) == 0 {
		return setOwner(tx, t, "")
	}
	if err := tx.Model(&rows[0]).Update("role", roleOwner).Error; err != nil {
		return err
	}
	return setOwner(tx, t, string(rows[0].Account))
}

// Group implements storage.Groups.
func (s *Store) Group(ctx context.Context, app, id, account string) (storage.Group, error) {
	number, ok := parseGroupID(id)
	if !ok {
		return storage.Group{}, storage.ErrNoConversation
	}
	db := s.reader.WithContext(ctx)
	var found []chatGroup
	if err := db.Where("conversation_id = ? AND app = ?", number, octets(app)).Find(&found).Error; err != nil {
		return storage.Group{}, fmt.Errorf("read group: %w", err)
	}
	if len(found) == 0 {
		return storage.Group{}, storage.ErrNoConversation
	}
	var rows []member
	if err := db.Where("conversation_id = ?", number).Order("joined_at, account").Find(&rows).Error; err != nil {
		return storage.Group{}, fmt.Errorf("read group: %w", err)
	}
	g := storage.Group{
		App: app, ID: id, Name: string(found[0].Name), Avatar: string(found[0].Avatar),
		Introduction: string(found[0].Introduction), Owner: string(found[0].Owner), CreatedAt: found[0].CreatedAt,
		Members: make([]storage.Member, len(rows)),
	}
	member := false
	for i, m := range rows {
		member = member || string(m.Account) == account
		g.Members[i] = storage.Member{Account: string(m.Account), Alias: string(m.Alias), Avatar: string(m.Avatar), JoinedAt: m.JoinedAt}
	}
	if !member {
		return storage.Group{}, storage.ErrNotMember
	}
	return g, nil
}
