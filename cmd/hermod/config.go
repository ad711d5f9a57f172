package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/cmd/internal/cli"
	"github.com/hermod-im/hermod/config"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check or print the configuration"}
	cmd.AddCommand(configCheckCommand(), configPrintCommand())
	return cmd
}

func configCheckCommand() *cobra.Command {
	var (
		flags cli.ConfigFlags
		roles []string
	)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report every problem of the configuration at once",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var checked []config.Role
			for _, r := range roles {
				checked = append(checked, config.Role(r))
			}
			if _, err := flags.Load(config.Default(), nil, checked...); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "configuration is valid")
			return nil
		},
	}
	flags.Add(cmd)
	cmd.Flags().StringSliceVar(&roles, "role", []string{"gateway", "logic", "router"}, "services whose required keys are checked")
	return cmd
}

func configPrintCommand() *cobra.Command {
	var flags cli.ConfigFlags
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration as YAML, with every key, its value and secrets masked",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.Load(config.Default(), nil)
			if err != nil {
				return err
			}
			return c.Print(cmd.OutOrStdout())
		},
	}
	flags.Add(cmd)
	return cmd
}
