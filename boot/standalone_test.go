package boot

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/config"
)

// Regression: Consul was not used, but for the lease of the id node if that was -1, and nobody was told.
func TestStandaloneRefusesAnotherRegistry(t *testing.T) {
	c, err := StandaloneConfig(t.TempDir())
	require.NoError(t, err)
	c.Secret, c.Registry.Driver, c.IDs.Node = "s", config.DriverConsul, -1
	require.NoError(t, c.Validate(config.RoleGateway, config.RoleLogic, config.RoleRouter), "it is well for services")
	_, err = NewStandalone(t.Context(), c, nil)
	require.ErrorContains(t, err, "registry.driver: consul is for a cluster")
	require.ErrorContains(t, err, "use memory")
}
