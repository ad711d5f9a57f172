// Command hermod is all of hermod in one binary: its services, a whole system in one process, and
// the tools around them.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/cmd/internal/cli"
	"github.com/hermod-im/hermod/config"
)

func main() {
	root := &cobra.Command{
		Use:   "hermod",
		Short: "An instant-messaging backend: try it with 'hermod standalone'",
	}
	root.AddCommand(
		standaloneCommand(),
		cli.Service(config.RoleGateway),
		cli.Service(config.RoleLogic),
		cli.Service(config.RoleRouter),
		tokenCommand(),
		chatCommand(),
		benchCommand(),
		verifyCommand(),
		migrateCommand(),
		configCommand(),
		healthcheckCommand(),
	)
	os.Exit(cli.Main(root))
}
