package logic

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/storage"
	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
	"github.com/hermod-im/hermod/wire/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte("the secret of the tests, 32 bytes")

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

// fixture is a node whose stores and links are fakes; its router and its committer run.
type fixture struct {
	*Node
	t        testing.TB
	store    *fakeStore
	sessions *sessions
	links    *fakeLinks
	agent    *fakeAgent
	metered  *prometheus.Registry
}

// build makes a node that does not run.
func build(t testing.TB, change func(*Config)) *fixture {
	cfg := Config{
		Instance: naming.Instance{ID: "logic-1", Service: naming.ServiceLogic, Node: "logic", Address: "127.0.0.1:1", State: naming.StateJoining},
		Secret:   secret,
		// Tests change who is on line at will.
		LocationAge: -1,
	}
	if change != nil {
		change(&cfg)
	}
	f := &fixture{
		t:        t,
		store:    newFakeStore(),
		sessions: newSessions(),
		links:    &fakeLinks{fails: map[string]error{}, happened: await.NewEvents()},
		agent:    &fakeAgent{happened: await.NewEvents()},
		metered:  prometheus.NewRegistry(),
	}
	f.Node = New(cfg, Deps{
		Naming:   memory.NewRegistry().Client(),
		Server:   fakeServer{},
		Sessions: f.sessions,
		Messages: f.store,
		Groups:   f.store,
		Metrics:  f.metered,
		Log:      quiet(),
	})
	f.dispatch.links = f.links
	return f
}

// start is build, and runs what handles requests until the test's end.
func start(t testing.TB, change func(*Config)) *fixture {
	f := build(t, change)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.committer.run(ctx) })
	wg.Go(func() { f.router.Run(ctx) })
	wg.Go(func() { f.dispatch.run(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
	})
	return f
}

// asClient is the header of a request of a signed-in client, as its gateway forwards it.
func asClient(account string, cmd wire.Command) wire.Header {
	return wire.Header{
		Command: cmd, ChannelID: "gateway-1." + account, Sequence: 1,
		Link: wire.Link{App: "demo", Account: account},
	}
}

func encode(t testing.TB, body proto.Message) []byte {
	if body == nil {
		return nil
	}
	data, err := proto.Marshal(body)
	require.NoError(t, err)
	return data
}

// give hands a request in as the link's reader does: in a buffer that is used again.
func (f *fixture) give(h wire.Header, body proto.Message) {
	f.t.Helper()
	data := encode(f.t, body)
	f.receive("gateway-1", f.agent, &wire.LogicPkt{Header: h, Body: data})
	for i := range data {
		data[i] = 0xff
	}
}

// ask is give, and waits for the answer.
func (f *fixture) ask(h wire.Header, body proto.Message) *wire.LogicPkt {
	f.t.Helper()
	before := len(f.agent.got())
	f.give(h, body)
	f.agent.happened.Until(f.t, "an answer", func() bool { return len(f.agent.got()) > before })
	p := f.agent.got()[before]
	require.Equal(f.t, wire.FlagResponse, p.Flag)
	require.Equal(f.t, h.Command, p.Command)
	require.Equal(f.t, h.ChannelID, p.ChannelID)
	require.Equal(f.t, h.Sequence, p.Sequence)
	return &p
}

// succeeds asks and reads the answer's body into resp, which may be nil.
func (f *fixture) succeeds(h wire.Header, body, resp proto.Message) *wire.LogicPkt {
	f.t.Helper()
	p := f.ask(h, body)
	require.Equal(f.t, wire.StatusSuccess, p.Status, string(p.Body))
	if resp != nil {
		require.NoError(f.t, proto.Unmarshal(p.Body, resp))
	}
	return p
}

// fails asks and compares the status; it returns the message.
func (f *fixture) fails(h wire.Header, body proto.Message, status wire.Status) string {
	f.t.Helper()
	p := f.ask(h, body)
	require.Equal(f.t, status, p.Status)
	var e pb.ErrorResp
	require.NoError(f.t, proto.Unmarshal(p.Body, &e))
	return e.Message
}

// idle waits until no request is in flight.
func (f *fixture) idle() {
	f.t.Helper()
	await.Until(f.t, "everything finished", func() bool { return f.inflight.Load() == 0 })
	require.Zero(f.t, f.inflight.Load(), "finished once")
}

// online stores sessions of the account, one for each device, and returns their channels.
func (f *fixture) online(gateway, account string, features storage.Feature, devices ...string) (channels []string) {
	f.t.Helper()
	_, err := f.sessions.RenewLease(f.t.Context(), gateway, 1<<40/1000, 0)
	require.NoError(f.t, err)
	for _, d := range devices {
		s := storage.Session{
			App: "demo", Account: account, Device: d, Channel: gateway + "." + account, Gateway: gateway, Features: features,
		}
		if d != "" {
			s.Channel += "." + d
		}
		_, err := f.sessions.Login(f.t.Context(), s, storage.DevicePolicy{})
		require.NoError(f.t, err)
		channels = append(channels, s.Channel)
	}
	return channels
}
