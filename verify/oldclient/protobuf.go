package oldclient

import (
	"encoding/binary"
	"unicode/utf8"
)

// The two wire types of protobuf that the fixed fields have.
const (
	typeVarint = 0
	typeBytes  = 2
)

// firstExtension is the first field number that the fixed protocol leaves to others.
const firstExtension = 16

// message encodes protobuf fields; zero values are left out, as proto3 does.
type message []byte

func (m *message) tag(field, typ int) { *m = binary.AppendUvarint(*m, uint64(field<<3|typ)) }

func (m *message) int(field int, v int64) {
	if v == 0 {
		return
	}
	m.tag(field, typeVarint)
	*m = binary.AppendUvarint(*m, uint64(v))
}

func (m *message) string(field int, s string) {
	if s == "" {
		return
	}
	m.element(field, []byte(s))
}

func (m *message) strings(field int, list []string) {
	for _, s := range list {
		m.element(field, []byte(s))
	}
}

// ints is a packed repeated int64.
func (m *message) ints(field int, list []int64) {
	if len(list) == 0 {
		return
	}
	var packed []byte
	for _, v := range list {
		packed = binary.AppendUvarint(packed, uint64(v))
	}
	m.element(field, packed)
}

func (m *message) element(field int, b []byte) {
	m.tag(field, typeBytes)
	*m = binary.AppendUvarint(*m, uint64(len(b)))
	*m = append(*m, b...)
}

// field says what to do with one field of a message; exactly one of its functions is set.
type field struct {
	int    func(int64)
	string func(string)
	bytes  func([]byte) error
}

func intInto[T ~int | ~int32 | ~int64 | ~uint32](p *T) field {
	return field{int: func(v int64) { *p = T(v) }}
}

func stringInto(p *string) field { return field{string: func(s string) { *p = s }} }

func stringsInto(p *[]string) field {
	return field{string: func(s string) { *p = append(*p, s) }}
}

// schema is the fields of a message by their number.
type schema map[int]field

// decode reads a message. An unknown field below firstExtension is an error; extensions are passed
// over, or refused if strict.
func (s schema) decode(b []byte, strict bool) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return against("protobuf: malformed tag in %x", b)
		}
		b = b[n:]
		number, typ := int(tag>>3), int(tag&7)
		f, known := s[number]
		if !known && (strict || number < firstExtension) {
			return against("protobuf: unknown field %d", number)
		}
		var err error
		switch typ {
		case typeVarint:
			b, err = f.varint(b)
		case typeBytes:
			b, err = f.delimited(b)
		default:
			err = against("protobuf: wire type %d", typ)
		}
		if err != nil {
			return against("field %d: %w", number, err)
		}
	}
	return nil
}

func (f field) varint(b []byte) ([]byte, error) {
	v, n := binary.Uvarint(b)
	switch {
	case n <= 0:
		return nil, against("protobuf: malformed varint in %x", b)
	case f.int != nil:
		f.int(int64(v))
	case f.string != nil || f.bytes != nil:
		return nil, against("protobuf: a varint where bytes should be")
	}
	return b[n:], nil
}

func (f field) delimited(b []byte) ([]byte, error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, against("protobuf: malformed length in %x", b)
	}
	value, rest := b[n:n+int(size)], b[n+int(size):]
	switch {
	case f.string != nil:
		if !utf8.Valid(value) {
			return nil, against("protobuf: %x is not UTF-8", value)
		}
		f.string(string(value))
	case f.bytes != nil:
		return rest, f.bytes(value)
	case f.int != nil:
		return nil, against("protobuf: bytes where a varint should be")
	}
	return rest, nil
}
