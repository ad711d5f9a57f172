package memory_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/hermod-im/hermod/naming"
	"github.com/hermod-im/hermod/naming/memory"
	"github.com/hermod-im/hermod/naming/namingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	namingtest.Run(t, func(*testing.T) namingtest.Backend {
		r := memory.NewRegistry()
		return namingtest.Backend{Node: func() naming.Naming { return r.Client() }, SetDown: r.SetDown}
	})
}

func TestDownIsErrDown(t *testing.T) {
	r := memory.NewRegistry()
	c := r.Client()
	defer c.Close()
	r.SetDown(true)
	if _, err := c.Find(t.Context(), naming.ServiceGateway); !errors.Is(err, memory.ErrDown) {
		t.Errorf("Find: %v", err)
	}
}
