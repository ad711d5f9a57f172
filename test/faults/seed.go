package faults

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// EnvSeed names the seed of all random choices. Without it every run makes others.
const EnvSeed = "HERMOD_FAULTS_SEED"

// SeedFrom is the seed that the variable holds, or a new one if it is empty.
func SeedFrom(value string) (uint64, error) {
	if value == "" {
		return uint64(rand.Uint32()), nil // short enough to type again
	}
	seed, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", EnvSeed, err)
	}
	return seed, nil
}
