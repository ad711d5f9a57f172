package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthcheckWait bounds one check.
const healthcheckWait = 5 * time.Second

// healthcheckCommand is for containers without a shell: it fails unless the URL answers with 200.
func healthcheckCommand() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Succeed if a service's admin port says that it is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := http.Client{Timeout: healthcheckWait}
			resp, err := client.Get(url)
			if err != nil {
				return err
			}
			defer resp.Body.Close() //nolint:errcheck // it was only read
			body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&url, "url", "http://127.0.0.1:9600/readyz", "URL to ask")
	return cmd
}
