package token_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/wire/token"
)

var (
	secret = []byte("a test's secret, known to everyone")
	now    = time.Unix(1_700_000_000, 0)
	later  = now.Add(time.Hour)
)

// signed makes a token by hand, so that it can hold what Issue refuses.
func signed(t *testing.T, method jwt.SigningMethod, key any, payload string) string {
	t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	head := enc([]byte(`{"alg":"`+method.Alg()+`","typ":"JWT"}`)) + "." + enc([]byte(payload))
	sig, err := method.Sign(head, key)
	require.NoError(t, err)
	return head + "." + enc(sig)
}

func hs256(t *testing.T, payload string) string {
	t.Helper()
	return signed(t, jwt.SigningMethodHS256, secret, payload)
}

func TestRoundTrip(t *testing.T) {
	for name, c := range map[string]struct{ in, want token.Claims }{
		"all claims":        {token.Claims{"alice", "shop", later}, token.Claims{"alice", "shop", later}},
		"default app":       {token.Claims{"alice", "", later}, token.Claims{"alice", "default", later}},
		"other scripts":     {token.Claims{"Ζωή 🙂", "店", later}, token.Claims{"Ζωή 🙂", "店", later}},
		"fractions cut off": {token.Claims{"a", "b", later.Add(999 * time.Millisecond)}, token.Claims{"a", "b", later}},
		"longest names": {
			token.Claims{strings.Repeat("a", token.MaxAccount), strings.Repeat("b", token.MaxApp), later},
			token.Claims{strings.Repeat("a", token.MaxAccount), strings.Repeat("b", token.MaxApp), later},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := token.Issue(secret, c.in)
			require.NoError(t, err)
			got, err := token.Parse(secret, s, now)
			require.NoError(t, err)
			require.True(t, c.want.Expires.Equal(got.Expires))
			c.want.Expires = got.Expires
			require.Equal(t, c.want, got)
		})
	}
}

func TestPayloadIsTheProtocols(t *testing.T) {
	s, err := token.Issue(secret, token.Claims{Account: "alice", App: "shop", Expires: later})
	require.NoError(t, err)
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(s, ".")[1])
	require.NoError(t, err)
	require.Equal(t, `{"acc":"alice","app":"shop","exp":1700003600}`, string(b))
}

func TestIssueRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		secret []byte
		claims token.Claims
	}{
		"no account":       {secret, token.Claims{Expires: later}},
		"no expiry":        {secret, token.Claims{Account: "a"}},
		"no secret":        {nil, token.Claims{Account: "a", Expires: later}},
		"long account":     {secret, token.Claims{Account: strings.Repeat("é", 33), Expires: later}},
		"long app":         {secret, token.Claims{Account: "a", App: strings.Repeat("b", 65), Expires: later}},
		"control":          {secret, token.Claims{Account: "a\nb", Expires: later}},
		"control C1":       {secret, token.Claims{Account: "a\u0085b", Expires: later}},
		"not UTF-8":        {secret, token.Claims{Account: "a\xff", Expires: later}},
		"app not UTF-8":    {secret, token.Claims{Account: "a", App: "\xc3", Expires: later}},
		"NUL in the app":   {secret, token.Claims{Account: "a", App: "b\x00", Expires: later}},
		"expiry too large": {secret, token.Claims{Account: "a", Expires: time.Unix(1<<60, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := token.Issue(c.secret, c.claims)
			require.ErrorIs(t, err, token.ErrInvalid)
			require.Empty(t, s)
		})
	}
}

func TestParse(t *testing.T) {
	good := hs256(t, `{"acc":"alice","app":"shop","exp":1700003600}`)
	parts := strings.Split(good, ".")
	for name, c := range map[string]struct {
		token string
		want  error // nil: accepted
	}{
		"good":                      {good, nil},
		"no app":                    {hs256(t, `{"acc":"alice","exp":1700003600}`), nil},
		"fractional exp":            {hs256(t, `{"acc":"alice","exp":1700003600.5}`), nil},
		"more claims":               {hs256(t, `{"acc":"alice","exp":1700003600,"iss":"x","role":[1]}`), nil},
		"expires this second":       {hs256(t, `{"acc":"alice","exp":1700000000}`), token.ErrExpired},
		"expired":                   {hs256(t, `{"acc":"alice","exp":1600000000}`), token.ErrExpired},
		"empty":                     {"", token.ErrInvalid},
		"not a token":               {"hello", token.ErrInvalid},
		"too long":                  {good + strings.Repeat("A", token.MaxToken), token.ErrInvalid},
		"signature cut":             {good[:len(good)-2], token.ErrInvalid},
		"no signature":              {parts[0] + "." + parts[1] + ".", token.ErrInvalid},
		"padded":                    {good + "=", token.ErrInvalid},
		"other secret":              {signed(t, jwt.SigningMethodHS256, []byte("other"), `{"acc":"alice","exp":1700003600}`), token.ErrInvalid},
		"other secret, expired":     {signed(t, jwt.SigningMethodHS256, []byte("other"), `{"acc":"alice","exp":1600000000}`), token.ErrInvalid},
		"HS512":                     {signed(t, jwt.SigningMethodHS512, secret, `{"acc":"alice","exp":1700003600}`), token.ErrInvalid},
		"none":                      {signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, `{"acc":"alice","exp":1700003600}`), token.ErrInvalid},
		"no acc":                    {hs256(t, `{"exp":1700003600}`), token.ErrInvalid},
		"empty acc":                 {hs256(t, `{"acc":"","exp":1700003600}`), token.ErrInvalid},
		"acc a number":              {hs256(t, `{"acc":7,"exp":1700003600}`), token.ErrInvalid},
		"long acc":                  {hs256(t, `{"acc":"`+strings.Repeat("a", 65)+`","exp":1700003600}`), token.ErrInvalid},
		"long app":                  {hs256(t, `{"acc":"a","app":"`+strings.Repeat("a", 65)+`","exp":1700003600}`), token.ErrInvalid},
		"control":                   {hs256(t, `{"acc":"a\u0000","exp":1700003600}`), token.ErrInvalid},
		"not UTF-8":                 {hs256(t, "{\"acc\":\"a\xff\",\"exp\":1700003600}"), token.ErrInvalid},
		"half a surrogate":          {hs256(t, `{"acc":"a\ud800","exp":1700003600}`), token.ErrInvalid},
		"no exp":                    {hs256(t, `{"acc":"alice"}`), token.ErrInvalid},
		"null exp":                  {hs256(t, `{"acc":"alice","exp":null}`), token.ErrInvalid},
		"zero exp":                  {hs256(t, `{"acc":"alice","exp":0}`), token.ErrInvalid},
		"negative exp":              {hs256(t, `{"acc":"alice","exp":-1}`), token.ErrInvalid},
		"exp a string":              {hs256(t, `{"acc":"alice","exp":"1700003600"}`), token.ErrInvalid},
		"exp beyond every calendar": {hs256(t, `{"acc":"alice","exp":1e300}`), token.ErrInvalid},
		"payload no JSON":           {hs256(t, `acc=alice`), token.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := token.Parse(secret, c.token, now)
			if c.want == nil {
				require.NoError(t, err)
				require.Equal(t, "alice", got.Account)
				return
			}
			require.ErrorIs(t, err, c.want)
			require.Zero(t, got)
			if c.token != "" {
				require.NotContains(t, err.Error(), c.token)
			}
		})
	}
	_, err := token.Parse(nil, good, now)
	require.ErrorIs(t, err, token.ErrInvalid)
}

// FuzzParse: whatever comes in, the error is one of ours, keeps the token to itself, and what is
// accepted can be issued again.
func FuzzParse(f *testing.F) {
	s, err := token.Issue(secret, token.Claims{Account: "alice", App: "shop", Expires: later})
	require.NoError(f, err)
	f.Add(s)
	f.Add("a.b.c")
	f.Add("..")
	f.Add(`eyJhbGciOiJub25lIn0.eyJhY2MiOiJhIn0.`)
	f.Fuzz(func(t *testing.T, s string) {
		c, err := token.Parse(secret, s, now)
		switch {
		case err == nil:
			_, err := token.Issue(secret, c)
			require.NoError(t, err)
		case !errors.Is(err, token.ErrInvalid) && !errors.Is(err, token.ErrExpired):
			t.Fatalf("unexpected error %v", err)
		case len(s) > 40 && strings.Contains(err.Error(), s):
			t.Fatal("the error holds the token")
		}
	})
}

func BenchmarkParse(b *testing.B) {
	s, err := token.Issue(secret, token.Claims{Account: "alice", App: "shop", Expires: later})
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := token.Parse(secret, s, now); err != nil {
			b.Fatal(err)
		}
	}
}
