package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written as "64KiB", "1MiB", "2GiB" or a plain number.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

// String is the shortest exact form: 65536 is "64KiB".
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// ParseSize reads what String writes. Units are powers of two; there are no others.
func ParseSize(text string) (Size, error) {
	number, unit := text, Size(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/int64(unit) {
		return 0, errors.New(`must be a size such as "64KiB"`)
	}
	return Size(n) * unit, nil
}

var sizeUnits = [...]struct {
	name string
	size Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

// assign sets a key's field to a value as YAML gives it or, from the environment and flags, to the
// text of one. The error says what the value must be and does not repeat it: it may be a secret.
func assign(field reflect.Value, value any) error {
	switch text, isText := value.(string); {
	case field.Type() == durationType:
		return assignDuration(field, value)
	case field.Type() == sizeType:
		return assignSize(field, value)
	case field.Kind() == reflect.String:
		if !isText {
			return errors.New("must be a text; put it in quotes")
		}
		field.SetString(text)
	case field.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(fmt.Sprint(value))
		if err != nil {
			return errors.New("must be true or false")
		}
		field.SetBool(b)
	case field.Kind() == reflect.Int:
		n, err := strconv.Atoi(fmt.Sprint(value))
		if err != nil {
			return errors.New("must be a whole number")
		}
		field.SetInt(int64(n))
	case field.Kind() == reflect.Slice:
		return assignList(field, value)
	default:
		return fmt.Errorf("has the unsupported type %s", field.Type())
	}
	return nil
}

func assignDuration(field reflect.Value, value any) error {
	d, err := time.ParseDuration(fmt.Sprint(value))
	if err != nil { // a bare number too: nobody should have to guess its unit
		return errors.New(`must be a duration with its unit, such as "10s" or "3m"`)
	}
	field.SetInt(int64(d))
	return nil
}

func assignSize(field reflect.Value, value any) error {
	s, err := ParseSize(fmt.Sprint(value))
	if err != nil {
		return err
	}
	field.SetInt(int64(s))
	return nil
}

func assignList(field reflect.Value, value any) error {
	list := []string{}
	switch v := value.(type) {
	case string:
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
	case []any:
		for _, item := range v {
			text, ok := item.(string)
			if !ok {
				return errors.New("must be a list of texts; put each in quotes")
			}
			list = append(list, text)
		}
	default:
		return errors.New("must be a list; in the environment and in flags separate its items by commas")
	}
	if len(list) == 0 {
		list = nil
	}
	field.Set(reflect.ValueOf(list))
	return nil
}

// format is the text of a value, as assign reads it.
func format(field reflect.Value) string {
	switch v := field.Interface().(type) {
	case time.Duration:
		return formatDuration(v)
	case []string:
		return strings.Join(v, ",")
	default:
		return fmt.Sprint(v)
	}
}

// formatDuration is d.String without the zero units at its end: 3m, not 3m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
