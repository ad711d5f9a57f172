package sql

import (
	stdsql "database/sql"
	"errors"
	"iter"
	"slices"
	"strings"

	"gorm.io/gorm"
)

// marks is n placeholders.
func marks(n int) string {
	if n == 0 {
		return ""
	}
	return "?" + strings.Repeat(",?", n-1)
}

// chunks divides a list into what one statement takes, at most that many. Where statements are kept
// compiled each chunk is half of the one before or as large, so that there are few different ones.
func chunks[E any](d *dialect, list []E, most int) iter.Seq[[]E] {
	if !d.kept {
		return slices.Chunk(list, most)
	}
	return func(yield func([]E) bool) {
		for n := most; len(list) > 0; list = list[n:] {
			for n > len(list) {
				n = (n + 1) / 2
			}
			if !yield(list[:n:n]) {
				return
			}
		}
	}
}

// orNull is s as bytes, NULL if empty.
func orNull(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// query runs a SELECT written by hand and calls scan for each row.
func (s *Store) query(db *gorm.DB, scan func(*stdsql.Rows) error, query string, args ...any) (err error) {
	rows, err := db.Statement.ConnPool.QueryContext(db.Statement.Context, query, args...)
	if err != nil {
		return s.translate(err)
	}
	defer func() { err = s.translate(errors.Join(err, rows.Close())) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// exec runs another statement written by hand.
func (s *Store) exec(db *gorm.DB, query string, args ...any) error {
	_, err := db.Statement.ConnPool.ExecContext(db.Statement.Context, query, args...)
	return s.translate(err)
}

// translate turns the driver's duplicate-key errors into gorm's, where gorm was gone round.
func (s *Store) translate(err error) error {
	if t, ok := s.writer.Dialector.(gorm.ErrorTranslator); ok && err != nil {
		return t.Translate(err)
	}
	return err
}
