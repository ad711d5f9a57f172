package memory

import (
	"encoding/binary"
	"iter"

	"github.com/hermod-im/hermod/storage"
)

// packed is some sessions in one string: a hundred bytes instead of the thousand of a map. Each is its strings with
// their lengths, then its numbers. "" is none.
type packed string

func pack(list []storage.Session) packed {
	var b []byte
	for _, s := range list {
		for _, field := range [...]string{s.App, s.Account, s.Device, s.Platform, s.Channel, s.Gateway, s.Instance} {
			b = binary.AppendUvarint(b, uint64(len(field)))
			b = append(b, field...)
		}
		for _, n := range [...]uint64{uint64(s.Features), s.Attempt, uint64(s.LoginAt)} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return packed(b)
}

// all are the sessions. Their strings are parts of p.
func (p packed) all() iter.Seq[storage.Session] {
	return func(yield func(storage.Session) bool) {
		for rest := string(p); rest != ""; {
			var s storage.Session
			for _, field := range [...]*string{&s.App, &s.Account, &s.Device, &s.Platform, &s.Channel, &s.Gateway, &s.Instance} {
				n, after := cutUvarint(rest)
				*field, rest = after[:n], after[n:]
			}
			var features, loginAt uint64
			for _, n := range [...]*uint64{&features, &s.Attempt, &loginAt} {
				*n, rest = cutUvarint(rest)
			}
			s.Features, s.LoginAt = storage.Feature(features), int64(loginAt)
			if !yield(s) {
				return
			}
		}
	}
}

// of are those of one account.
func (p packed) of(key storage.AccountKey) iter.Seq[storage.Session] {
	return func(yield func(storage.Session) bool) {
		for s := range p.all() {
			if s.Account == key.Account && s.App == key.App && !yield(s) {
				return
			}
		}
	}
}

// cutUvarint cuts off what binary.AppendUvarint has appended, without a copy of the string.
func cutUvarint(s string) (n uint64, rest string) {
	for i := 0; ; i++ {
		n |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return n, s[i+1:]
		}
	}
}
