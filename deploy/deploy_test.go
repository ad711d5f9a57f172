// Package deploy_test checks that the files of this folder fit the binaries that they start.
package deploy_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/hermod-im/hermod/config"
)

type compose struct {
	Services map[string]struct {
		Image       string
		Command     []string
		Environment map[string]string
		Ports       []string
	}
}

func readCompose(t *testing.T) (compose, string) {
	t.Helper()
	b, err := os.ReadFile("docker-compose.yml")
	require.NoError(t, err)
	var c compose
	require.NoError(t, yaml.Unmarshal(b, &c))
	return c, string(b)
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+):([-?])([^}]*)\}`)

// interpolate does what compose does when only the required variables are set.
func interpolate(s string) string {
	return variable.ReplaceAllStringFunc(s, func(v string) string {
		m := variable.FindStringSubmatch(v)
		if m[2] == "?" {
			return "a value from the environment"
		}
		return m[3]
	})
}

// A key that is renamed in the code and not in the compose file would only show when it is started.
func TestComposeEnvironmentIsAValidConfig(t *testing.T) {
	c, _ := readCompose(t)
	roles := map[string]int{}
	for name, s := range c.Services {
		if !strings.HasPrefix(s.Image, "${HERMOD_IMAGE:") {
			continue
		}
		var environ []string
		for k, v := range s.Environment {
			environ = append(environ, k+"="+interpolate(v))
		}
		require.Len(t, s.Command, 1, name)
		roles[s.Command[0]]++
		got, err := config.Load(config.Default(), config.Sources{Environ: environ})
		require.NoError(t, err, name)
		require.NoError(t, got.Validate(config.Role(s.Command[0])), name)
		if s.Command[0] != "migrate" {
			require.Equal(t, name, got.Node.Name)
			require.Equal(t, name, got.Node.Address)
		}
	}
	require.Equal(t, map[string]int{"gateway": 2, "logic": 2, "router": 1, "migrate": 1}, roles)
}

func TestComposeHoldsNoSecretAndPublishesOnLoopbackOnly(t *testing.T) {
	c, text := readCompose(t)
	for name, s := range c.Services {
		require.Regexp(t, `^\$\{HERMOD_([A-Z]+_)?IMAGE:-[^}]+\}$`, s.Image, "%s: the image can be replaced", name)
		for k, v := range s.Environment {
			if strings.HasSuffix(k, "SECRET") || k == "MYSQL_PASSWORD" {
				require.Regexp(t, `^\$\{[A-Z_]+:\?[^}]+\}$`, v, "%s: %s comes from the environment", name, k)
			}
		}
		require.False(t, slices.ContainsFunc(s.Ports, func(p string) bool { return !strings.HasPrefix(p, "127.0.0.1:") }), name)
	}
	require.NotRegexp(t, `(?m)^(name|version):`, text, "docker-compose 1.29 refuses the one, v2 warns of the other")
}

func TestPrometheusScrapesEveryService(t *testing.T) {
	b, err := os.ReadFile("prometheus.yml")
	require.NoError(t, err)
	c, _ := readCompose(t)
	for name, s := range c.Services {
		if strings.HasPrefix(s.Image, "${HERMOD_IMAGE:") && name != "migrate" {
			require.Contains(t, string(b), `"`+name+`:9600"`)
		}
	}
}
