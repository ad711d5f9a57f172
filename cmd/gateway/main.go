// Command gateway runs one service of hermod: it holds the clients' connections. The same as "hermod gateway".
package main

import (
	"os"

	"github.com/hermod-im/hermod/cmd/internal/cli"
	"github.com/hermod-im/hermod/config"
)

func main() { os.Exit(cli.Main(cli.Service(config.RoleGateway))) }
