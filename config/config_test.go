package config_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hermod-im/hermod/config"
)

var update = flag.Bool("update", false, "write the sample file and the table of keys instead of comparing them")

func writeFile(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hermod.yaml")
	require.NoError(t, os.WriteFile(path, []byte(yaml), 0o600))
	return path
}

func TestLaterSourcesWin(t *testing.T) {
	s := config.Sources{
		File: writeFile(t, `
node: {name: from-file, zone: from-file}
gateway:
  read_wait: 1m
  ws: ":1"
  tcp: ":1"
limits:
`),
		Environ: []string{"HERMOD_NODE__ZONE=from-env", "HERMOD_GATEWAY__WS=:2", "HERMOD_GATEWAY__TCP=:2", "PATH=/bin", "HERMODX=1"},
		Set:     []string{"gateway.tcp=:3"},
	}
	want := config.Default()
	want.Node.Name, want.Node.Zone = "from-file", "from-env"
	want.Gateway.ReadWait = time.Minute
	want.Gateway.WS, want.Gateway.TCP = ":2", ":3"

	got, err := config.Load(config.Default(), s)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestNoSourcesIsTheBase(t *testing.T) {
	got, err := config.Load(config.Standalone("x.db"), config.Sources{})
	require.NoError(t, err)
	require.Equal(t, config.Standalone("x.db"), got)
}

func TestValues(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		set  []string
		want func(*config.Config)
	}{
		"duration":           {yaml: "shutdown: {drain: 1m30s}", want: func(c *config.Config) { c.Shutdown.Drain = 90 * time.Second }},
		"duration zero":      {yaml: "shutdown: {drain: 0}", want: func(c *config.Config) { c.Shutdown.Drain = 0 }},
		"size with unit":     {yaml: "gateway: {max_packet: 128 KiB}", want: func(c *config.Config) { c.Gateway.MaxPacket = 128 * config.KiB }},
		"size without":       {yaml: "gateway: {max_packet: 70000}", want: func(c *config.Config) { c.Gateway.MaxPacket = 70000 }},
		"bool":               {set: []string{"limits.enabled=false"}, want: func(c *config.Config) { c.Limits.Enabled = false }},
		"empty":              {set: []string{"gateway.tcp="}, want: func(c *config.Config) { c.Gateway.TCP = "" }},
		"equal sign":         {set: []string{"database.dsn=u:p@tcp(h:1)/d?a=b"}, want: func(c *config.Config) { c.Database.DSN = "u:p@tcp(h:1)/d?a=b" }},
		"negative":           {yaml: "ids: {node: -1}", want: func(c *config.Config) { c.IDs.Node = -1 }},
		"list":               {yaml: `router: {zones: ["10.0.0.0/8=a", "::/0=b"]}`, want: func(c *config.Config) { c.Router.Zones = []string{"10.0.0.0/8=a", "::/0=b"} }},
		"list by commas":     {set: []string{"router.zones=10.0.0.0/8=a, ::/0=b"}, want: func(c *config.Config) { c.Router.Zones = []string{"10.0.0.0/8=a", "::/0=b"} }},
		"no value":           {yaml: "gateway:\n  ws:\n", want: func(*config.Config) {}},
		"empty file":         {yaml: "", want: func(*config.Config) {}},
		"last --set wins":    {set: []string{"node.name=a", "node.name=b"}, want: func(c *config.Config) { c.Node.Name = "b" }},
		"three sections":     {set: []string{"sessions.redis.db=3"}, want: func(c *config.Config) { c.Sessions.Redis.DB = 3 }},
		"secret with quotes": {yaml: `secret: "0123"`, want: func(c *config.Config) { c.Secret = "0123" }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := config.Load(config.Default(), config.Sources{File: writeFile(t, c.yaml), Set: c.set})
			require.NoError(t, err)
			want := config.Default()
			c.want(&want)
			require.Equal(t, want, got)
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		sources config.Sources
		yaml    string
		want    []string
	}{
		"unknown in the file":     {yaml: "gateway: {wss: x}", want: []string{"hermod.yaml: unknown key gateway.wss: did you mean gateway.ws?"}},
		"unknown section":         {yaml: "gatway: {ws: x}", want: []string{"unknown key gatway.ws: did you mean gateway.ws?"}},
		"wrong section":           {yaml: "logic: {read_wait: 1m}", want: []string{"unknown key logic.read_wait: did you mean gateway.read_wait?"}},
		"unknown empty section":   {yaml: "gatway:", want: []string{"unknown key gatway"}},
		"text for a section":      {yaml: "gateway: x", want: []string{"gateway is a section, not a key"}},
		"unknown in environment":  {sources: config.Sources{Environ: []string{"HERMOD_GATEWAY_WS=x"}}, want: []string{"the environment: unknown key HERMOD_GATEWAY_WS: did you mean HERMOD_GATEWAY__WS?"}},
		"unknown flag":            {sources: config.Sources{Set: []string{"limit.enabled=false"}}, want: []string{"--set: unknown key limit.enabled: did you mean limits.enabled?"}},
		"flag without a value":    {sources: config.Sources{Set: []string{"limits.enabled"}}, want: []string{"must be key=value"}},
		"duration without unit":   {yaml: "shutdown: {drain: 10}", want: []string{"shutdown.drain must be a duration with its unit"}},
		"size with another unit":  {yaml: "gateway: {max_packet: 64KB}", want: []string{"gateway.max_packet must be a size"}},
		"size too large":          {yaml: "gateway: {max_packet: 9999999999GiB}", want: []string{"gateway.max_packet must be a size"}},
		"negative size":           {yaml: "gateway: {max_packet: -1}", want: []string{"gateway.max_packet must be a size"}},
		"number for a text":       {yaml: "secret: 0123", want: []string{"secret must be a text"}},
		"text for a number":       {yaml: "ids: {node: one}", want: []string{"ids.node must be a whole number"}},
		"fraction":                {yaml: "ids: {node: 1.5}", want: []string{"ids.node must be a whole number"}},
		"text for a bool":         {yaml: "limits: {enabled: maybe}", want: []string{"limits.enabled must be true or false"}},
		"map for a list":          {yaml: "router: {trusted_proxies: 7}", want: []string{"router.trusted_proxies must be a list"}},
		"numbers in a list":       {yaml: "router: {trusted_proxies: [7]}", want: []string{"router.trusted_proxies must be a list of texts"}},
		"the same key twice":      {yaml: "secret: a\nsecret: b", want: []string{"hermod.yaml"}},
		"file that is not there":  {sources: config.Sources{File: "/nowhere/hermod.yaml"}, want: []string{"/nowhere/hermod.yaml"}},
		"file that is not a file": {yaml: "- a", want: []string{"hermod.yaml"}},
		"everything at once": {
			yaml: "a: 1\nids: {node: x}",
			sources: config.Sources{
				Environ: []string{"HERMOD_B=1", "HERMOD_GATEWAY__POLL=x"},
				Set:     []string{"c=1"},
			},
			want: []string{"key a:", "ids.node", "HERMOD_B:", "HERMOD_GATEWAY__POLL must be", "--set: unknown key c:"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.yaml != "" {
				c.sources.File = writeFile(t, c.yaml)
			}
			got, err := config.Load(config.Default(), c.sources)
			require.Error(t, err)
			require.Zero(t, got)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

func TestVariablesOfTestsAndToolsAreNoKeys(t *testing.T) {
	_, err := config.Load(config.Default(), config.Sources{Environ: []string{
		"HERMOD_TEST_MYSQL=x", "HERMOD_CACHE=x", "HERMOD_CONSUL=x", "HERMOD_FAULTS_SEED=1", "HERMOD_MYSQL_IMAGE=x",
	}})
	require.NoError(t, err)
}

// An error that quotes the value would put the secret into a log.
func TestErrorsDoNotQuoteValues(t *testing.T) {
	_, err := config.Load(config.Default(), config.Sources{File: writeFile(t, "secret: [hunter2]\nregistry: {consul: {token: {a: hunter2}}}")})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestSizeText(t *testing.T) {
	for text, size := range map[string]config.Size{
		"0": 0, "1": 1, "1023": 1023, "1KiB": 1024, "64KiB": 64 << 10, "1MiB": 1 << 20, "1025KiB": 1025 << 10, "3GiB": 3 << 30,
	} {
		require.Equal(t, text, size.String())
		got, err := config.ParseSize(text)
		require.NoError(t, err)
		require.Equal(t, size, got)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	require.NoError(t, config.Default().Validate())

	c := config.Standalone("x.db")
	c.Secret = "s"
	require.NoError(t, c.Validate(config.RoleGateway, config.RoleLogic, config.RoleRouter))
}

func TestValidateRoles(t *testing.T) {
	for name, c := range map[string]struct {
		role config.Role
		want []string
	}{
		"gateway": {config.RoleGateway, []string{"secret is not set", "HERMOD_SECRET"}},
		"logic":   {config.RoleLogic, []string{"secret is not set", "database.dsn is not set"}},
		"router":  {config.RoleRouter, []string{"secret is not set"}},
		"migrate": {config.RoleMigrate, []string{"database.dsn is not set", "HERMOD_DATABASE__DSN"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := config.Default().Validate(c.role)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
	require.NotContains(t, config.Default().Validate(config.RoleMigrate).Error(), "secret is")
}

func TestValidate(t *testing.T) {
	all := []config.Role{config.RoleGateway, config.RoleLogic, config.RoleRouter}
	for name, c := range map[string]struct {
		set  []string
		want string
	}{
		"level":          {[]string{"log.level=loud"}, "log.level"},
		"format":         {[]string{"log.format=xml"}, "log.format"},
		"admin":          {[]string{"admin.listen=9600"}, "admin.listen"},
		"port":           {[]string{"gateway.ws=:80000"}, "gateway.ws"},
		"registry":       {[]string{"registry.driver=etcd"}, "registry.driver"},
		"ttl":            {[]string{"registry.consul.ttl=999ms"}, "registry.consul.ttl is 999ms: must be at least 1s"},
		"consul":         {[]string{"registry.consul.address="}, "registry.consul.address is not set"},
		"database":       {[]string{"database.driver=postgres"}, "database.driver"},
		"max_open":       {[]string{"database.max_open=0"}, "database.max_open"},
		"sessions":       {[]string{"sessions.driver=etcd"}, "sessions.driver"},
		"lease":          {[]string{"sessions.lease=1s"}, "sessions.lease"},
		"redis":          {[]string{"sessions.redis.addr="}, "sessions.redis.addr"},
		"sentinel":       {[]string{"sessions.redis.sentinel_master=m"}, "sessions.redis.sentinel_addrs"},
		"sentinel addrs": {[]string{"sessions.redis.sentinel_addrs=h:1"}, "sessions.redis.sentinel_master"},
		"ids":            {[]string{"ids.node=1024"}, "ids.node is 1024: must be -1 to 1023"},
		"ids unleased":   {[]string{"registry.driver=memory"}, "ids.node"},
		"link packet":    {[]string{"links.max_packet=64KiB"}, "links.max_packet"},
		"link queue":     {[]string{"links.queue_bytes=1MiB"}, "links.queue_bytes"},
		"no listener":    {[]string{"gateway.ws=", "gateway.tcp="}, "set at least one"},
		"public":         {[]string{"gateway.public_ws=http://x"}, "gateway.public_ws"},
		"public host":    {[]string{"gateway.public_ws=ws://"}, "gateway.public_ws"},
		"tls":            {[]string{"gateway.tls.cert=x.pem"}, "gateway.tls.key and gateway.tls.cert"},
		"login wait":     {[]string{"gateway.login_wait=0"}, "gateway.login_wait"},
		"packet":         {[]string{"gateway.max_packet=512"}, "gateway.max_packet is 512: must be 1KiB to 1GiB"},
		"queue":          {[]string{"gateway.queue_bytes=32KiB"}, "gateway.queue_bytes"},
		"connections":    {[]string{"gateway.max_connections=0"}, "gateway.max_connections"},
		"logic off":      {[]string{"logic.listen="}, "logic.listen is not set"},
		"advertise":      {[]string{"logic.advertise=:8100"}, "logic.advertise"},
		"advertise port": {[]string{"logic.advertise=host:0"}, "logic.advertise"},
		"shards":         {[]string{"logic.shards=0"}, "logic.shards"},
		"queue_max":      {[]string{"logic.queue_max=100"}, "logic.queue_max is 100: must be 500 to"},
		"timeout":        {[]string{"logic.timeout=0"}, "logic.timeout"},
		"router off":     {[]string{"router.listen="}, "router.listen is not set"},
		"domains":        {[]string{"router.domains=0"}, "router.domains"},
		"zones":          {[]string{"router.zones=10.0.0.0/8"}, "router.zones"},
		"zones CIDR":     {[]string{"router.zones=10.0.0.1=a"}, "router.zones"},
		"proxies":        {[]string{"router.trusted_proxies=10.0.0.1"}, "router.trusted_proxies"},
		"rate":           {[]string{"limits.login_rate=0"}, "limits.login_rate"},
		"body":           {[]string{"limits.max_body=0"}, "limits.max_body is 0: must be 1 to 1GiB"},
		"page":           {[]string{"limits.offline_page=2001"}, "limits.offline_page"},
		"drain":          {[]string{"shutdown.drain=-1s"}, "shutdown.drain"},
	} {
		t.Run(name, func(t *testing.T) {
			set := append([]string{"secret=s", "database.dsn=d"}, c.set...)
			got, err := config.Load(config.Default(), config.Sources{Set: set})
			require.NoError(t, err)
			err = got.Validate(all...)
			require.ErrorContains(t, err, c.want)
			require.Len(t, strings.Split(err.Error(), "\n"), 1, "one problem: %v", err)
		})
	}
}

// A link was cut by an answer that was larger than its largest packet, as often as somebody asked for it.
func TestLinkPacketHoldsTheLargestAnswer(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"links.max_packet=64KiB", "is 64KiB: must be 12MiB to 1GiB"},
		{"gateway.max_packet=20MiB gateway.queue_bytes=20MiB", "is 16MiB: must be 21MiB"},
		{"limits.max_body=128KiB gateway.max_packet=90KiB", "is 16MiB: must be 18MiB"},
		{"limits.max_body=1KiB limits.max_group_members=1 links.max_packet=5MiB", "is 5MiB: must be 6MiB"},
		{"limits.max_group_members=300000", "is 16MiB: must be 23MiB"},
	} {
		got, err := config.Load(config.Default(), config.Sources{Set: strings.Fields("secret=s database.dsn=d links.queue_bytes=1GiB " + c.set)})
		require.NoError(t, err)
		err = got.Validate(config.RoleLogic)
		require.ErrorContains(t, err, "links.max_packet "+c.want, c.set)
		require.Len(t, strings.Split(err.Error(), "\n"), 1, "one problem: %v", err)
	}
}

func TestValidateTellsEverythingAtOnce(t *testing.T) {
	c := config.Default()
	c.Log.Level, c.Limits.MaxDevices, c.Gateway.ReadWait = "loud", 0, -1
	err := c.Validate(config.RoleRouter)
	for _, key := range []string{"log.level", "limits.max_devices", "gateway.read_wait", "secret"} {
		require.ErrorContains(t, err, key)
	}
}

func TestPrintMasksSecretsAndLoads(t *testing.T) {
	c := config.Standalone("x.db")
	c.Secret = "hunter2"
	c.Database.DSN = "bob:hunter2@p@tcp(h:1)/d"
	c.Registry.Consul.Token, c.Sessions.Redis.Password, c.Sessions.Redis.SentinelPassword = "hunter2", "hunter2", "hunter2"
	c.Router.Zones = []string{"10.0.0.0/8=a", "::/0=b"}
	c.Node.Zone = "quoted \"\\ \n zone"
	var out bytes.Buffer
	require.NoError(t, c.Print(&out))
	require.NotContains(t, out.String(), "hunter2")
	require.Contains(t, out.String(), `dsn: "bob:******@tcp(h:1)/d"`)

	got, err := config.Load(config.Config{}, config.Sources{File: writeFile(t, out.String())})
	require.NoError(t, err)
	got.Secret, got.Database.DSN = c.Secret, c.Database.DSN
	got.Registry.Consul.Token, got.Sessions.Redis.Password, got.Sessions.Redis.SentinelPassword = "hunter2", "hunter2", "hunter2"
	require.Equal(t, c, got)
}

func TestKeysAreDocumented(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range config.Keys() {
		require.NotEmpty(t, k.Doc, k.Name)
		require.Regexp(t, `[.)]$`, k.Doc, k.Name)
		require.NotContains(t, k.Doc, "|", "%s: breaks the table", k.Name)
		require.Regexp(t, `^[a-z_]+(\.[a-z_]+)*$`, k.Name)
		require.NotContains(t, k.Name, "__", "two underscores separate sections in the environment")
		require.False(t, seen[k.Name])
		seen[k.Name] = true
	}
	require.True(t, seen["limits.enabled"])
}

func TestSampleFile(t *testing.T) {
	const path = "../deploy/hermod.yaml"
	var want bytes.Buffer
	require.NoError(t, config.Sample(&want))
	if *update {
		require.NoError(t, os.WriteFile(path, want.Bytes(), 0o644))
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want.String(), string(got), "run go test ./config -update")

	c, err := config.Load(config.Config{}, config.Sources{File: path})
	require.NoError(t, err)
	require.Equal(t, config.Default(), c)
}

func TestOperationsListsEveryKey(t *testing.T) {
	const path, begin, end = "../docs/operations.md", "<!-- keys -->\n", "<!-- /keys -->\n"
	var table bytes.Buffer
	require.NoError(t, config.Table(&table))
	doc, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(doc), begin)
	require.True(t, ok, "%s has no %s", path, begin)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "%s has no %s", path, end)
	want := before + begin + table.String() + end + after
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		return
	}
	require.Equal(t, want, string(doc), "run go test ./config -update")
}
