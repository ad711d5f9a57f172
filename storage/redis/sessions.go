// Package redis keeps sessions in Redis, alone or behind Sentinel, for the nodes of a cluster.
//
// Keys, with app and account as they are, so any bytes:
//
//	hermod:s:<len(app)>:<app>:<account>  hash: device → session (see encode); expires long after the last login or restore
//	hermod:g:<gateway>                   the gateway's lease: exists while it runs; its value is the stamp,
//	                                     how often something was stored under it
//	hermod:l                             stream: which accounts were given sessions (see changes.go)
//	hermod:m:<gateway>                   sorted set: what the gateway was not pushed (see missed.go), by the time
//	hermod:k:<gateway>                   the same of those that were displaced
//	hermod:d:<len(channel)>:<channel>:<the account's key>
//	                                     who gave way to the channel, for keptMillis
//
// Every change of a session is one script, so two logins or a login and a logout of one device
// never overlap. Redis may lose all of it, or go back to an older state of itself (a restart from a
// snapshot, a fail-over to a replica that lagged): leases then come back within a third of themselves, and
// gateways whose lease was not there, or whose stamp has gone back, restore their sessions.
package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-redis/redis/v8"

	"github.com/hermod-im/hermod/storage"
)

const (
	sessionPrefix = "hermod:s:"
	leasePrefix   = "hermod:g:"
	missedPrefix  = "hermod:m:"
	kickedPrefix  = "hermod:k:"
	keptPrefix    = "hermod:d:"

	// defaultSessionTTL is what is left of an account of which nothing is heard. Gateways restore
	// their live sessions more often than that.
	defaultSessionTTL = 48 * time.Hour
	// keptMillis is for how long a login or restore may be sent again and still learns who gave way the first time: longer
	// than a gateway tries. It is about 300 bytes for each that displaces.
	keptMillis = "30000"
	// defaultTimeout bounds dialling and each command, instead of a ctx that costs a goroutine a command.
	defaultTimeout = 3 * time.Second
	// defaultLivenessCache is how long an ended lease may still be believed to run.
	defaultLivenessCache = time.Second
	// sayPause is the time between two complaints about sessions that cannot be read: each push meets them.
	sayPause = time.Minute
	// batchSize is how many keys a pipeline handles at most, and restoreBatch how many sessions a script:
	// as many as a gateway sends at once, so that one stamp says whether they are there. About 5 ms of Redis.
	batchSize    = 256
	restoreBatch = 500
)

// Options of the store. The zero value is Redis on 127.0.0.1:6379.
type Options struct {
	// Addr is host:port. Defaults to 127.0.0.1:6379. Not used with SentinelMaster.
	Addr               string
	Username, Password string
	DB                 int
	// SentinelMaster is the name of the master that the Sentinels at SentinelAddrs know.
	SentinelMaster   string
	SentinelAddrs    []string
	SentinelPassword string
	// TLS connects with TLS, verified against the system's certificates.
	TLS bool
	// DialTimeout and Timeout (of reading and of writing) default to 3 s.
	DialTimeout, Timeout time.Duration
	// PoolSize bounds the connections. Defaults to go-redis's 10 per CPU.
	PoolSize int
	// SessionTTL is after how long without a login or restore an account's sessions are forgotten.
	// Defaults to 48 h; must be well above the interval at which gateways restore.
	SessionTTL time.Duration
	// LivenessCache is how long Find remembers that a gateway's lease runs. Defaults to 1 s.
	LivenessCache time.Duration
	// Logf hears of stored sessions that cannot be read, a line a minute at most. May be nil.
	Logf func(format string, args ...any)
}

func (o Options) withDefaults() Options {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:6379"
	}
	for d, fallback := range map[*time.Duration]time.Duration{
		&o.DialTimeout: defaultTimeout, &o.Timeout: defaultTimeout,
		&o.SessionTTL: defaultSessionTTL, &o.LivenessCache: defaultLivenessCache,
	} {
		if *d <= 0 {
			*d = fallback
		}
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	return o
}

func (o Options) client() *redis.Client {
	if o.SentinelMaster != "" {
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: o.SentinelMaster, SentinelAddrs: o.SentinelAddrs, SentinelPassword: o.SentinelPassword,
			Username: o.Username, Password: o.Password, DB: o.DB, PoolSize: o.PoolSize,
			Dialer: o.dial, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
		})
	}
	return redis.NewClient(&redis.Options{
		Addr: o.Addr, Username: o.Username, Password: o.Password, DB: o.DB, PoolSize: o.PoolSize,
		Dialer: o.dial, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
	})
}

// Sessions is storage.Sessions in Redis. Safe for concurrent use.
type Sessions struct {
	client *redis.Client
	logins logins
	ttl    time.Duration
	fresh  time.Duration
	logf   func(format string, args ...any)

	mu   sync.Mutex
	live map[string]time.Time // until when a gateway's lease is believed to run; never that it has ended; guarded by mu
	said time.Time            // when a session was said to be unreadable; guarded by mu
}

var _ storage.Sessions = (*Sessions)(nil)

// NewSessions returns a store on the Redis of the options. It does not connect yet: see Ping.
func NewSessions(o Options) *Sessions {
	o = o.withDefaults()
	s := &Sessions{client: o.client(), ttl: o.SessionTTL, fresh: o.LivenessCache, logf: o.Logf, live: make(map[string]time.Time)}
	s.logins.client = s.client
	return s
}

// detach is ctx without its end: go-redis needs a goroutine for a command that can be cancelled,
// and the client's timeouts bound it anyway, of which a command meets one: see conn.
func detach(ctx context.Context) (context.Context, error) {
	return context.WithoutCancel(ctx), ctx.Err()
}

func accountKey(app, account string) string {
	return sessionPrefix + strconv.Itoa(len(app)) + ":" + app + ":" + account
}

// Login implements storage.Sessions.
func (s *Sessions) Login(ctx context.Context, session storage.Session, p storage.DevicePolicy) (storage.Admission, error) {
	if err := ctx.Err(); err != nil {
		return storage.Admission{}, err
	}
	answer, err := s.logins.run(ctx, accountKey(session.App, session.Account),
		leasePrefix, s.ttl.Milliseconds(), flag(p.PerPlatform), flag(p.Refuse), p.Max, flag(p.RefuseBeyondMax),
		session.Device, encode(session))
	if err != nil {
		return storage.Admission{}, fmt.Errorf("redis: login: %w", err)
	}
	a, err := admission(session, answer)
	if err != nil && !refusal(err) {
		err = fmt.Errorf("redis: login: %w", err)
	}
	return a, err
}

// refusal reports whether the error is one of the contract's.
func refusal(err error) bool {
	var conflict *storage.ConflictError
	return errors.Is(err, storage.ErrSuperseded) || errors.As(err, &conflict)
}

// admission reads the login script's answer.
func admission(session storage.Session, answer []string) (a storage.Admission, err error) {
	verdict, rest := answer[0], answer[1:]
	switch verdict {
	case "late":
		return a, storage.ErrSuperseded
	case "conflict":
		conflict := new(storage.ConflictError)
		for pair := range slices.Chunk(rest, 2) {
			other, err := decode(session.App, session.Account, pair[0], pair[1])
			if err != nil {
				return a, err
			}
			conflict.Sessions = append(conflict.Sessions, other)
		}
		return a, conflict
	}
	if a.LoginAt, err = strconv.ParseInt(rest[0], 10, 64); err != nil {
		return a, err
	}
	if a.Stamp, err = strconv.ParseInt(rest[1], 10, 64); err != nil {
		return a, err
	}
	for d := range slices.Chunk(rest[2:], 3) {
		other, err := decode(session.App, session.Account, d[0], d[1])
		if err != nil {
			return a, err
		}
		a.Displaced = append(a.Displaced, storage.Displaced{
			Session: other, Reason: storage.Displacement(d[2]), ByDevice: session.Device, ByPlatform: session.Platform,
		})
	}
	return a, nil
}

// flag is a truth for a script.
func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// Logout implements storage.Sessions.
func (s *Sessions) Logout(ctx context.Context, app, account, device, channel string) (bool, error) {
	ctx, err := detach(ctx)
	if err != nil {
		return false, err
	}
	removed, err := logoutScript.Run(ctx, s.client, []string{accountKey(app, account)}, device, channel).Int()
	if err != nil {
		return false, fmt.Errorf("redis: logout: %w", err)
	}
	return removed == 1, nil
}

// Find implements storage.Sessions.
func (s *Sessions) Find(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	ctx, err := detach(ctx)
	if err != nil {
		return nil, err
	}
	found := make([][]storage.Session, 0, len(keys))
	for part := range slices.Chunk(keys, batchSize) {
		sessions, err := s.read(ctx, part)
		if err != nil {
			return nil, fmt.Errorf("redis: find: %w", err)
		}
		found = append(found, sessions...)
	}
	if err := s.keepLive(ctx, found); err != nil {
		return nil, fmt.Errorf("redis: find: %w", err)
	}
	return found, nil
}

// read returns the stored sessions of each key, whatever their leases. One that cannot be read is left out:
// it must not cost the others their pushes.
func (s *Sessions) read(ctx context.Context, keys []storage.AccountKey) ([][]storage.Session, error) {
	commands := make([]*redis.StringStringMapCmd, len(keys))
	pipe := s.client.Pipeline()
	for i, key := range keys {
		commands[i] = pipe.HGetAll(ctx, accountKey(key.App, key.Account))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	found := make([][]storage.Session, len(keys))
	for i, key := range keys {
		for device, value := range commands[i].Val() {
			session, err := decode(key.App, key.Account, device, value)
			if err != nil {
				s.unreadable(key, device, err)
				continue
			}
			found[i] = append(found[i], session)
		}
		slices.SortFunc(found[i], func(a, b storage.Session) int { return strings.Compare(a.Device, b.Device) })
	}
	return found, nil
}

// unreadable says that a session was left out, unless that was said a moment ago.
func (s *Sessions) unreadable(key storage.AccountKey, device string, err error) {
	now := time.Now()
	s.mu.Lock()
	silent := now.Sub(s.said) < sayPause
	if !silent {
		s.said = now
	}
	s.mu.Unlock()
	if !silent {
		s.logf("redis: a session gets no pushes until it is stored anew, app %q, device %q: %v", key.App, device, err)
	}
}

// keepLive removes the sessions whose gateway's lease has ended. Running leases are remembered for
// a moment; ended ones are not, because a login right after the lease's renewal must be found.
func (s *Sessions) keepLive(ctx context.Context, found [][]storage.Session) error {
	live := make(map[string]bool)
	var unknown []string
	now := time.Now()
	s.mu.Lock()
	for _, sessions := range found {
		for _, session := range sessions {
			if _, seen := live[session.Gateway]; seen {
				continue
			}
			live[session.Gateway] = now.Before(s.live[session.Gateway])
			if !live[session.Gateway] {
				unknown = append(unknown, session.Gateway)
			}
		}
	}
	s.mu.Unlock()
	if len(unknown) > 0 {
		if err := s.askLeases(ctx, unknown, live); err != nil {
			return err
		}
	}
	for i, sessions := range found {
		found[i] = slices.DeleteFunc(sessions, func(x storage.Session) bool { return !live[x.Gateway] })
	}
	return nil
}

// askLeases finds out which of the gateways' leases run.
func (s *Sessions) askLeases(ctx context.Context, gateways []string, live map[string]bool) error {
	asked := time.Now()
	left := make([]*redis.DurationCmd, len(gateways))
	pipe := s.client.Pipeline()
	for i, gateway := range gateways {
		left[i] = pipe.PTTL(ctx, leasePrefix+gateway)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, gateway := range gateways {
		ttl := left[i].Val()
		if ttl < 0 { // 0 is the last millisecond of a lease that still runs, for the scripts too
			delete(s.live, gateway)
			continue
		}
		live[gateway] = true
		s.live[gateway] = asked.Add(min(ttl, s.fresh))
	}
	return nil
}

// RenewLease implements storage.Sessions.
func (s *Sessions) RenewLease(ctx context.Context, gateway string, ttlMillis, seen int64) (bool, error) {
	ctx, err := detach(ctx)
	if err != nil {
		return false, err
	}
	lost, err := renewScript.Run(ctx, s.client, []string{leasePrefix + gateway}, ttlMillis, seen).Int()
	if err != nil {
		return false, fmt.Errorf("redis: renew lease: %w", err)
	}
	return lost == 1, nil
}

// Restore implements storage.Sessions.
func (s *Sessions) Restore(ctx context.Context, gateway string, sessions []storage.Session, p storage.DevicePolicy) (stamp int64, displaced []storage.Displaced, err error) {
	if ctx, err = detach(ctx); err != nil {
		return 0, nil, err
	}
	for part := range slices.Chunk(sessions, restoreBatch) {
		keys := make([]string, 0, 1+len(part))
		args := make([]any, 0, 3+2*len(part))
		keys = append(keys, leasePrefix+gateway)
		args = append(args, leasePrefix, s.ttl.Milliseconds(), flag(p.PerPlatform))
		for _, session := range part {
			keys = append(keys, accountKey(session.App, session.Account))
			args = append(args, session.Device, encode(session))
		}
		answer, err := restoreScript.Run(ctx, s.client, keys, args...).StringSlice()
		if err == nil {
			var more []storage.Displaced
			stamp, more, err = restoration(part, answer)
			displaced = append(displaced, more...)
		}
		if err != nil {
			return 0, nil, fmt.Errorf("redis: restore: %w", err)
		}
	}
	return stamp, displaced, nil
}

// restoration reads the restore script's answer.
func restoration(sessions []storage.Session, answer []string) (stamp int64, displaced []storage.Displaced, err error) {
	if stamp, err = strconv.ParseInt(answer[0], 10, 64); err != nil {
		return 0, nil, err
	}
	for d := range slices.Chunk(answer[1:], 6) {
		place, err := strconv.Atoi(d[0])
		if err != nil {
			return 0, nil, err
		}
		account := sessions[place-1]
		loser, err := decode(account.App, account.Account, d[1], d[2])
		if err != nil {
			return 0, nil, err
		}
		displaced = append(displaced, storage.Displaced{
			Session: loser, Reason: storage.Displacement(d[3]), ByDevice: d[4], ByPlatform: d[5],
		})
	}
	return stamp, displaced, nil
}

// EndLease implements storage.Sessions. Other nodes may take up to Options.LivenessCache to notice.
func (s *Sessions) EndLease(ctx context.Context, gateway string) error {
	ctx, err := detach(ctx)
	if err != nil {
		return err
	}
	if err := s.client.Del(ctx, leasePrefix+gateway, missedPrefix+gateway, kickedPrefix+gateway).Err(); err != nil {
		return fmt.Errorf("redis: end lease: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, gateway)
	return nil
}

// Ping implements storage.Sessions.
func (s *Sessions) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis: ping: %w", err)
	}
	return nil
}

// Close implements storage.Sessions.
func (s *Sessions) Close() error { return s.client.Close() }
