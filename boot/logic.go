package boot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hermod-im/hermod/admin"
	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/logic"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/storage/memory"
	"github.com/hermod-im/hermod/storage/redis"
	"github.com/hermod-im/hermod/storage/snowflake"
	"github.com/hermod-im/hermod/storage/snowflake/consullease"
	"github.com/hermod-im/hermod/storage/sql"
	"github.com/hermod-im/hermod/transport"
	"github.com/hermod-im/hermod/transport/tcp"
)

const (
	// linkHeartbeat is the interval of pings on a link.
	linkHeartbeat = time.Second
	// linkReadWait is the silence after which either side takes the other for dead: a link that is
	// half-open, or whose peer is frozen, is found within it, and five seconds after the fault its
	// requests are answered and its clients told to sync. It is three pings that got no answer, and far
	// more than a busy process needs for one: whatever comes counts as a sign of life, and no handler
	// keeps a link from being read. A process that stands still for longer than this is relinked when it
	// goes on, which costs hints and retries but no message.
	linkReadWait = 4 * time.Second
)

// Logic is a logic node with its stores.
type Logic struct {
	*logic.Node
	// Address is where gateways connect.
	Address string

	closers []func() error // in the order of opening
}

// NewLogic opens the stores and listens. The id lease may come later: the node is not ready before.
func NewLogic(ctx context.Context, c config.Config, env *Env) (_ *Logic, err error) {
	l := &Logic{}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	log := env.Log.WithField("service", naming.ServiceLogic)
	self := instance(c, naming.ServiceLogic)
	now := env.Now
	if now == nil {
		now = time.Now
	}
	lease, err := l.openLease(c, env, self)
	if err != nil {
		return nil, err
	}
	ids, err := snowflake.NewAt(lease, now)
	if err != nil {
		return nil, err
	}
	store, err := l.openDatabase(ctx, c, ids, now)
	if err != nil {
		return nil, err
	}
	sessions := env.Sessions
	if sessions == nil {
		sessions = l.openSessions(c, log.WithField("part", "sessions").Errorf)
	}
	metrics := new(transport.Metrics)
	env.Metrics.MustRegister(newTransportCollector("logic", metrics))
	writes := new(transport.Batch)
	server := transport.NewServer(transport.Options{
		ReadWait:   linkReadWait,
		MaxPacket:  int(c.Links.MaxPacket),
		MaxLogin:   container.MaxHello,
		QueueBytes: int(c.Links.QueueBytes),
		Batch:      writes,
		Metrics:    metrics,
		Logf:       log.Errorf,
	}, transport.Endpoint{Address: c.Logic.Listen, Protocol: tcp.Protocol()})
	if err := server.Listen(); err != nil {
		return nil, fmt.Errorf("logic: %w", err)
	}
	l.closers = append(l.closers, func() error { return closeServer(server) })
	if l.Address = c.Logic.Advertise; l.Address == "" {
		if l.Address, err = advertised(c, server.Addrs()[0]); err != nil {
			return nil, fmt.Errorf("logic: %w", err)
		}
	}
	self.Address = l.Address
	l.Node = logic.New(logic.Config{
		Instance:        self,
		Secret:          []byte(c.Secret),
		Shards:          c.Logic.Shards,
		CommitInterval:  c.Logic.CommitInterval,
		BatchMax:        c.Logic.BatchMax,
		QueueMax:        c.Logic.QueueMax,
		Handlers:        c.Logic.Handlers,
		Timeout:         c.Logic.Timeout,
		Drain:           c.Shutdown.Drain,
		MaxBody:         int(c.Limits.MaxBody),
		MaxGroupMembers: c.Limits.MaxGroupMembers,
		MaxGroups:       c.Limits.MaxGroups,
		Devices: storage.DevicePolicy{
			PerPlatform:     c.Devices.Scope == config.ScopePlatform,
			Refuse:          c.Devices.Conflict == config.PolicyRefuse,
			Max:             c.Limits.MaxDevices,
			RefuseBeyondMax: c.Devices.MaxPolicy == config.PolicyRefuse,
		},
		IndexPage: c.Limits.OfflinePage,
		Rate:      rate(c.Limits, c.Limits.AccountRate, c.Limits.AccountBurst),
		Now:       now,

		LocationAge: env.LocationAge,
	}, logic.Deps{
		Naming:   env.Naming,
		Server:   server,
		Writes:   writes,
		Sessions: sessions,
		Messages: store,
		Groups:   store,
		IDsErr:   func() error { _, err := lease.Grant(); return err },
		Metrics:  env.Metrics,
		Log:      log,
	})
	return l, nil
}

// openLease leases a node number, in the background, or takes the one that is set.
func (l *Logic) openLease(c config.Config, env *Env, self naming.Instance) (snowflake.Lease, error) {
	if c.IDs.Node < 0 {
		leased, err := consullease.New(consullease.Options{
			Address: c.Registry.Consul.Address,
			Token:   c.Registry.Consul.Token,
			Prefix:  c.Registry.Consul.Prefix + consullease.DefaultPrefix,
			Name:    self.ID,
			Now:     env.Now,
			Logf:    env.Log.WithField("part", "ids").Infof,
		})
		if err != nil {
			return nil, fmt.Errorf("lease a node number for ids: %w", err)
		}
		l.closers = append(l.closers, leased.Close)
		return leased, nil
	}
	return snowflake.Fixed(c.IDs.Node), nil
}

// openDatabase opens the message store and makes sure that its schema is current.
func (l *Logic) openDatabase(ctx context.Context, c config.Config, ids storage.IDs, now func() time.Time) (*sql.Store, error) {
	options := DatabaseOptions(c)
	options.Now = now
	store, err := sql.Open(ctx, options, ids)
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, store.Close)
	if c.Database.MigrateOnStart {
		_, err = store.Migrate(ctx)
	} else {
		err = store.CheckSchema(ctx)
	}
	if err == nil && c.IDs.Node >= 0 {
		err = store.PrimeIDs(ctx) // a leased number remembers by itself what was issued
	}
	return store, err
}

// DatabaseOptions are the message store's part of a configuration.
func DatabaseOptions(c config.Config) sql.Options {
	return sql.Options{Driver: c.Database.Driver, DSN: c.Database.DSN, MaxOpenConns: c.Database.MaxOpen}
}

func (l *Logic) openSessions(c config.Config, logf func(format string, args ...any)) storage.Sessions {
	if c.Sessions.Driver == config.DriverMemory {
		return memory.NewSessions(memory.Options{})
	}
	r := c.Sessions.Redis
	sessions := redis.NewSessions(redis.Options{
		Addr:             r.Addr,
		Username:         r.Username,
		Password:         r.Password,
		DB:               r.DB,
		TLS:              r.TLS,
		SentinelMaster:   r.SentinelMaster,
		SentinelAddrs:    r.SentinelAddrs,
		SentinelPassword: r.SentinelPassword,
		Logf:             logf,
	})
	l.closers = append(l.closers, sessions.Close)
	return sessions
}

// Checks are the stores, for /readyz.
func (l *Logic) Checks() []admin.Check {
	return []admin.Check{{Name: "stores", Ready: l.PingStores}}
}

// Close closes the stores and gives the id lease back.
func (l *Logic) Close() error {
	var errs []error
	for i := len(l.closers) - 1; i >= 0; i-- {
		errs = append(errs, l.closers[i]())
	}
	l.closers = nil
	return errors.Join(errs...)
}
