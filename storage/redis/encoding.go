package redis

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hermod-im/hermod/storage"
)

// loginDigits and attemptDigits are the widths of LoginAt and Attempt: fixed, so that scripts, whose
// numbers have 53 bits, compare them as strings.
const (
	loginDigits   = 19
	attemptDigits = 20
)

// encode is a session as the value of its device:
//
//	LoginAt in 19 digits, then Gateway, Channel, Platform, Features, Instance and Attempt (20 digits), each as length:bytes
//
// App, Account and Device are in the key and the field. Scripts read it too: scripts.go.
func encode(s storage.Session) string {
	var b strings.Builder
	b.Grow(loginDigits + len(s.Gateway) + len(s.Channel) + len(s.Platform) + len(s.Instance) + 50)
	fmt.Fprintf(&b, "%0*d", loginDigits, max(s.LoginAt, 0))
	for _, field := range []string{
		s.Gateway, s.Channel, s.Platform, strconv.FormatUint(uint64(s.Features), 10),
		s.Instance, fmt.Sprintf("%0*d", attemptDigits, s.Attempt),
	} {
		b.WriteString(strconv.Itoa(len(field)))
		b.WriteByte(':')
		b.WriteString(field)
	}
	return b.String()
}

// decode reads what encode wrote. The release before wrote no Instance and no Attempt; fields after the
// known ones are a later release's: ignored.
func decode(app, account, device, value string) (storage.Session, error) {
	s := storage.Session{App: app, Account: account, Device: device}
	if err := decodeFields(&s, value); err != nil {
		return s, fmt.Errorf("session of %q: %w", account, err)
	}
	return s, nil
}

func decodeFields(s *storage.Session, value string) (err error) {
	if len(value) < loginDigits {
		return fmt.Errorf("cut short")
	}
	if s.LoginAt, err = strconv.ParseInt(value[:loginDigits], 10, 64); err != nil {
		return err
	}
	rest := value[loginDigits:]
	var features, attempt string
	for _, field := range []*string{&s.Gateway, &s.Channel, &s.Platform, &features, &s.Instance, &attempt} {
		if rest == "" && field == &s.Instance {
			attempt = "0"
			break
		}
		if *field, rest, err = cutField(rest); err != nil {
			return err
		}
	}
	bits, err := strconv.ParseUint(features, 10, 32)
	if err != nil {
		return err
	}
	s.Features = storage.Feature(bits)
	s.Attempt, err = strconv.ParseUint(attempt, 10, 64)
	return err
}

func cutField(s string) (field, rest string, err error) {
	length, rest, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(length, 10, 31)
	if err == nil && n > uint64(len(rest)) {
		err = strconv.ErrRange
	}
	if err != nil {
		return "", "", err
	}
	return rest[:n], rest[n:], nil
}
