//go:build race

package transport

// raceEnabled: the race detector makes sync.Pool forget, so allocations mean nothing.
const raceEnabled = true
