// Package faults breaks a cluster under load and asks whether anything was lost: real processes on
// real MariaDB, Redis and Consul, with a proxy on every connection between gateways, logic nodes and
// their stores. The load and the oracle are package verify's.
//
// A [Fault] is a value: how to inject it, how long it lasts, how to heal it. A [Row] is a line of
// the table in docs/delivery.md: one fault, or the same fault of each node in turn. `make faults`
// runs every row (test/cmd/faults), TestMix runs faults at random, overlapping, for some minutes.
package faults
