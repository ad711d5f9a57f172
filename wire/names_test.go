package wire_test

import (
	"slices"
	"testing"

	"github.com/hermod-im/hermod/wire"
)

func TestFeatures(t *testing.T) {
	f := wire.ParseFeatures([]string{"unheard-of", "sync", "", "sync"})
	if f != wire.FeatureSync || !f.Has(wire.FeatureSync) || wire.Features(0).Has(wire.FeatureSync) {
		t.Errorf("parsed %b", f)
	}
	if got := f.Names(); !slices.Equal(got, []string{"sync"}) {
		t.Errorf("names %q", got)
	}
	if got := wire.ParseFeatures(nil).Names(); got != nil {
		t.Errorf("names of none %q", got)
	}
}

// A gateway refuses Internal commands from clients: a new one between services must be among them.
func TestInternalCommands(t *testing.T) {
	for _, c := range []wire.Command{wire.CmdLinkHello, wire.CmdSessionRenew, wire.CmdSessionRestore, wire.CmdSessionEnd, wire.CmdLeaseEnd, wire.CmdLinkDrain, wire.CmdLinkPushes} {
		if !c.Internal() {
			t.Errorf("%s is not internal", c)
		}
	}
	for _, c := range []wire.Command{"", "x", wire.CmdSignIn, wire.CmdUserTalk, wire.CmdSync, wire.CmdSyncHint} {
		if c.Internal() {
			t.Errorf("%q is internal", c)
		}
	}
}

func TestError(t *testing.T) {
	err := wire.Errorf(wire.StatusSystemException, "try %s", "later")
	if err.Error() != "system exception (300): try later" || !err.Retryable() {
		t.Errorf("%v, retryable %v", err, err.Retryable())
	}
	for _, s := range []wire.Status{0, 10, 100, 101, 103, 105, 106, 301, 404} {
		if s.Retryable() {
			t.Errorf("%v is retryable", s)
		}
	}
}
