package container

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/test/await"
	"github.com/hermod-im/hermod/wire"
)

// logged is a log that a test can read.
type logged struct{ *test.Hook }

func newLog() (logged, *logrus.Entry) {
	log, hook := test.NewNullLogger()
	return logged{hook}, logrus.NewEntry(log)
}

// line is the first line that has the text; nil if there is none yet.
func (l logged) line(text string) *logrus.Entry {
	for _, e := range l.AllEntries() {
		if err, _ := e.Data[logrus.ErrorKey].(error); strings.Contains(fmt.Sprint(e.Message, ": ", err), text) {
			return e
		}
	}
	return nil
}

// sideBySide is a node and a dialler of these versions, and their logs.
func sideBySide(t *testing.T, nodeVersion, diallerVersion uint32) (*node, logged, *dialler, logged) {
	nodeLog, entry := newLog()
	n := startNode(t, "logic-1", "127.0.0.1:0", func(h *Hub) { h.version, h.opts.Log = nodeVersion, entry })
	diallerLog, entry := newLog()
	d := newDialler(nil)
	d.version, d.opts.Log = diallerVersion, entry
	d.start(t, n.self)
	return n, nodeLog, d, diallerLog
}

// Nodes whose versions differ by one speak the lower one of both, so that a cluster can be upgraded
// node by node.
func TestNeighbouringVersionsSpeakTheLowerOne(t *testing.T) {
	for _, test := range []struct{ node, dialler, spoken uint32 }{
		{LinkVersion, LinkVersion, LinkVersion},
		{LinkVersion, LinkVersion + 1, LinkVersion},
		{LinkVersion + 1, LinkVersion, LinkVersion},
		{LinkVersion + 1, LinkVersion + 1, LinkVersion + 1},
	} {
		t.Run(fmt.Sprintf("%d and %d", test.node, test.dialler), func(t *testing.T) {
			n, nodeLog, d, diallerLog := sideBySide(t, test.node, test.dialler)
			d.awaitUsable(t, 1)
			req, payload := talk("c", 1)
			require.NoError(t, d.Forward(0, req, payload))
			d.Until(t, "the answer", func() bool { return len(d.packets()) == 1 })
			require.Equal(t, 1, n.count())
			require.Equal(t, test.spoken, nodeLog.line("link up").Data["version"])
			require.Equal(t, test.spoken, diallerLog.line("link up").Data["version"])
			require.True(t, n.Speaks("gateway-1", test.spoken))
			require.False(t, n.Speaks("gateway-1", test.spoken+1))
			require.False(t, n.Speaks("gateway-2", 0), "it is not linked")
		})
	}
}

// Others refuse each other, and the logs of both say why.
func TestDistantVersionsRefuseEachOther(t *testing.T) {
	for _, test := range []struct{ node, dialler uint32 }{
		{LinkVersion, LinkVersion + 2},
		{LinkVersion + 2, LinkVersion},
	} {
		t.Run(fmt.Sprintf("%d and %d", test.node, test.dialler), func(t *testing.T) {
			_, nodeLog, d, diallerLog := sideBySide(t, test.node, test.dialler)
			await.Until(t, "lines in both logs", func() bool {
				return nodeLog.line("incompatible links") != nil && diallerLog.line("incompatible links") != nil
			})
			line := nodeLog.line("incompatible links")
			require.Equal(t, logrus.WarnLevel, line.Level)
			require.ErrorContains(t, line.Data[logrus.ErrorKey].(error),
				fmt.Sprintf("gateway-1 speaks version %d and this node %d: upgrade one version at a time", test.dialler, test.node))
			line = diallerLog.line("incompatible links")
			require.Equal(t, logrus.WarnLevel, line.Level)
			require.ErrorContains(t, line.Data[logrus.ErrorKey].(error),
				fmt.Sprintf("logic-1 speaks version %d and this node %d: upgrade one version at a time", test.node, test.dialler))
			require.Zero(t, d.Usable())
			require.Empty(t, d.upList())
		})
	}
}

// Neither node changes its version as long as it runs: it is not asked again every second.
func TestRefused(t *testing.T) {
	_, err := hello{version: 1}.agree((&hello{version: 3}).challenge())
	require.True(t, refused(fmt.Errorf("handshake: %w", err)))
	require.True(t, refused(wire.Errorf(wire.StatusUnauthorized, "no")))
	require.False(t, refused(errDraining))
}
