// Command logic runs one service of hermod: it decides and stores. The same as "hermod logic".
package main

import (
	"os"

	"github.com/hermod-im/hermod/cmd/internal/cli"
	"github.com/hermod-im/hermod/config"
)

func main() { os.Exit(cli.Main(cli.Service(config.RoleLogic))) }
