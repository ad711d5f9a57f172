package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/cmd/internal/cli"
	"github.com/hermod-im/hermod/config"
	"github.com/hermod-im/hermod/storage/sql"
)

func migrateCommand() *cobra.Command {
	var flags cli.ConfigFlags
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.Load(config.Default(), nil, config.RoleMigrate)
			if err != nil {
				return err
			}
			store, err := sql.Open(cmd.Context(), boot.DatabaseOptions(c), nil) // migrations make no ids
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // the process ends
			applied, err := store.Migrate(cmd.Context())
			if err != nil {
				return err
			}
			current, _, err := store.SchemaVersion(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "schema is at version %d; %d migrations applied\n", current, len(applied))
			return nil
		},
	}
	flags.Add(cmd)
	return cmd
}
