package logic

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/container"
	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

// deafRegistry is one that does not answer who deregisters.
type deafRegistry struct{ naming.Naming }

func (deafRegistry) Deregister(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// closingServer tells when the links are closed.
type closingServer struct {
	stoppingServer
	closing func()
}

func (s closingServer) Shutdown(ctx context.Context) error {
	s.closing()
	return s.stoppingServer.Shutdown(ctx)
}

// A registry that hung took all the time of the drain: links were closed before what was in flight was answered (I8).
func TestDrainWhileTheRegistryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := build(t, func(c *Config) { c.Timeout = time.Minute })
		f.registration = container.NewRegistration(deafRegistry{memory.NewRegistry().Client()}, f.cfg.Instance, quiet())
		var answers []wire.LogicPkt // before the links were closed
		f.deps.Server = closingServer{stoppingServer{started: make(chan struct{})}, func() { answers = f.agent.got() }}
		f.store.gate = make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx) }()
		synctest.Wait()
		f.give(talkTo("alice", "bob"), &pb.MessageReq{Body: "hi"})
		synctest.Wait()
		start := time.Now()
		stop()
		time.Sleep(f.cfg.Drain + time.Second) // of the bubble's time
		close(f.store.gate)
		require.NoError(t, <-ended)
		require.Less(t, time.Since(start), f.cfg.Drain+2*time.Second)
		require.Equal(t, []string{"hi"}, f.store.committed())
		require.Len(t, answers, 1)
		require.Equal(t, wire.StatusSuccess, answers[0].Status)
	})
}
