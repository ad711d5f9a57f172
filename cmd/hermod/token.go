package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/hermod-im/hermod/boot"
	"github.com/hermod-im/hermod/wire/token"
)

// secretFlags say which secret signs tokens: --secret, $HERMOD_SECRET or the one of --data.
type secretFlags struct{ secret, data string }

func (f *secretFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.secret, "secret", "", "signing secret (default $HERMOD_SECRET)")
	cmd.Flags().StringVar(&f.data, "data", defaultData, "standalone's data folder, whose secret is used if there is no other")
}

func (f *secretFlags) load() ([]byte, error) {
	if f.secret == "" {
		f.secret = os.Getenv("HERMOD_SECRET")
	}
	if f.secret != "" {
		return []byte(f.secret), nil
	}
	s, err := token.LoadSecret(boot.SecretFile(f.data))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no secret: give --secret, or --data with the folder of a standalone that has been started (%w)", err)
	}
	return []byte(s), err
}

func tokenCommand() *cobra.Command {
	var (
		secret       secretFlags
		account, app string
		ttl          time.Duration
	)
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a client's login token",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := secret.load()
			if err != nil {
				return err
			}
			if ttl <= 0 {
				return fmt.Errorf("--ttl %s: must be positive", ttl)
			}
			t, err := token.Issue(key, token.Claims{Account: account, App: app, Expires: time.Now().Add(ttl)})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
	cmd.Flags().StringVar(&account, "account", "", "account that the token is for")
	cmd.Flags().StringVar(&app, "app", "", "tenant (default \"default\")")
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is valid")
	secret.add(cmd)
	_ = cmd.MarkFlagRequired("account") // the flag exists
	return cmd
}
