// Package verify shows on a running cluster that hermod keeps its promise: nothing lost, nothing
// doubled, nothing out of order. It is a workload, of accounts with several devices and clients of
// every kind, and an oracle that knows what was sent and judges what each device shows. The faults
// are up to the caller:
//
//	run, err := verify.Start(ctx, verify.Options{Router: "http://127.0.0.1:8080", Secret: secret})
//	run.Begin("kill a gateway")
//	... kill it, start it again ...
//	run.Healed()
//	row, err := run.Settle(ctx)
//	report, err := run.Finish(ctx)
//	fmt.Print(report.Table())
package verify
