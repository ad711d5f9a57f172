//go:build race

package cost

// raceEnabled: the race detector makes pools forget and objects larger, so that costs mean nothing.
const raceEnabled = true
