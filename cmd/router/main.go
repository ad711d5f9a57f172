// Command router runs one service of hermod: it tells clients which gateways to use. The same as "hermod router".
package main

import (
	"os"

	"github.com/hermod-im/hermod/cmd/internal/cli"
	"github.com/hermod-im/hermod/config"
)

func main() { os.Exit(cli.Main(cli.Service(config.RoleRouter))) }
