// Package token makes and checks the login token of a client: a JWT signed with HS256 whose claims
// are acc (account), app (tenant) and exp (Unix seconds), as in docs/protocol.md, "Token".
package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// DefaultApp is the tenant of a token that names none.
const DefaultApp = "default"

// Limits of what a token may hold, in bytes.
const (
	// MaxAccount bounds the account name; it is a part of database keys.
	MaxAccount = 64
	// MaxApp bounds the tenant's name; it is a part of database keys.
	MaxApp = 64
	// MaxToken bounds the token itself. A longer one is refused before any work is done for it.
	MaxToken = 4 << 10
)

// maxExpiry is the last Unix second a token may expire at: the largest integer that every JSON
// implementation keeps exactly.
const maxExpiry = 1<<53 - 1

// Errors of this package. Their texts never hold a token or a part of one.
var (
	// ErrExpired: the token was valid until its exp. The client needs a new one.
	ErrExpired = errors.New("token expired")
	// ErrInvalid: not a token of ours, or claims outside the limits. The text says which check failed.
	ErrInvalid = errors.New("token invalid")
)

// Claims is what a token says of its bearer.
type Claims struct {
	// Account is 1 to MaxAccount bytes of UTF-8 without control characters.
	Account string
	// App is the tenant, up to MaxApp bytes of UTF-8 without control characters. Defaults to DefaultApp.
	App string
	// Expires is when the token ends. Tokens keep whole seconds; fractions are cut off.
	Expires time.Time
}

// Issue signs a token. Claims outside their limits and an empty secret are ErrInvalid.
func Issue(secret []byte, c Claims) (string, error) {
	if c.App == "" {
		c.App = DefaultApp
	}
	if err := c.check(); err != nil {
		return "", err
	}
	if len(secret) == 0 {
		return "", fmt.Errorf("%w: the secret is empty", ErrInvalid)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, &payload{
		Account: c.Account, App: c.App, Expires: float64(c.Expires.Unix()),
	})
	s, err := t.SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return s, nil
}

// Parse verifies a token's signature, claims and expiry at the time now. The error is ErrExpired
// for a token that was good once, ErrInvalid for everything else.
func Parse(secret []byte, token string, now time.Time) (Claims, error) {
	if len(secret) == 0 {
		return Claims{}, fmt.Errorf("%w: the secret is empty", ErrInvalid)
	}
	if len(token) > MaxToken {
		return Claims{}, fmt.Errorf("%w: longer than %d bytes", ErrInvalid, MaxToken)
	}
	var p payload
	_, err := jwt.ParseWithClaims(token, &p,
		func(*jwt.Token) (any, error) { return secret, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithTimeFunc(func() time.Time { return now }),
		jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(),
	)
	if err != nil {
		return Claims{}, translate(err)
	}
	c := Claims{Account: p.Account, App: p.App, Expires: time.Unix(int64(p.Expires), 0)}
	if c.App == "" {
		c.App = DefaultApp
	}
	if err := c.check(); err != nil {
		return Claims{}, err
	}
	return c, nil
}

// translate replaces the library's error, whose text may quote the token, by one of ours.
func translate(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return fmt.Errorf("%w: malformed", ErrInvalid)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return fmt.Errorf("%w: not signed with HS256 and our secret", ErrInvalid)
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return fmt.Errorf("%w: exp missing", ErrInvalid)
	case errors.Is(err, jwt.ErrTokenExpired):
		return ErrExpired
	default:
		return ErrInvalid
	}
}

func (c Claims) check() error {
	if c.Account == "" {
		return fmt.Errorf("%w: acc missing", ErrInvalid)
	}
	if err := checkName("acc", c.Account, MaxAccount); err != nil {
		return err
	}
	if err := checkName("app", c.App, MaxApp); err != nil {
		return err
	}
	if s := c.Expires.Unix(); s <= 0 || s > maxExpiry {
		return fmt.Errorf("%w: exp missing or out of range", ErrInvalid)
	}
	return nil
}

func checkName(claim, s string, limit int) error {
	switch {
	case len(s) > limit:
		return fmt.Errorf("%w: %s longer than %d bytes", ErrInvalid, claim, limit)
	case strings.ContainsRune(s, utf8.RuneError): // also what JSON makes of bytes that are no UTF-8
		return fmt.Errorf("%w: %s is not valid UTF-8", ErrInvalid, claim)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%w: %s has control characters", ErrInvalid, claim)
	default:
		return nil
	}
}

// payload is the JSON of a token. Other registered claims (nbf, aud, …) are not part of the
// protocol and are ignored.
type payload struct {
	Account string  `json:"acc"`
	App     string  `json:"app"`
	Expires float64 `json:"exp"`
}

// MarshalJSON writes exp as the integer it is.
func (p *payload) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Account string `json:"acc"`
		App     string `json:"app"`
		Expires int64  `json:"exp"`
	}{p.Account, p.App, int64(p.Expires)})
}

// GetExpirationTime implements jwt.Claims. An exp that is absent or no plausible time counts as missing.
func (p *payload) GetExpirationTime() (*jwt.NumericDate, error) {
	if !(p.Expires > 0) || math.Floor(p.Expires) > maxExpiry {
		return nil, nil
	}
	return jwt.NewNumericDate(time.Unix(int64(p.Expires), 0)), nil
}

// GetIssuedAt implements jwt.Claims.
func (*payload) GetIssuedAt() (*jwt.NumericDate, error) { return nil, nil }

// GetNotBefore implements jwt.Claims.
func (*payload) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuer implements jwt.Claims.
func (*payload) GetIssuer() (string, error) { return "", nil }

// GetSubject implements jwt.Claims.
func (*payload) GetSubject() (string, error) { return "", nil }

// GetAudience implements jwt.Claims.
func (*payload) GetAudience() (jwt.ClaimStrings, error) { return nil, nil }
