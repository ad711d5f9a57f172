package faults

import (
	"context"
	"time"

	"github.com/hermod-im/hermod/test/cluster"
)

const (
	// setBack is how far the clock of a restarted node goes back.
	setBack = 10 * time.Minute
	// wrongFor is how long a node works with it.
	wrongFor = 15 * time.Second
)

// clocks are restarts of logic nodes with another time.
func (s *Site) clocks() []Row {
	return []Row{each("clock of each restarted logic node set back 10 minutes", s.Logics, func(n *cluster.Node) Fault {
		var restore func()
		return Fault{
			Name: "clock of " + n.Name + " set back", On: []string{n.Name}, Lasts: wrongFor,
			Inject: func(ctx context.Context) error {
				if err := n.Kill(); err != nil {
					return err
				}
				restore = n.Instead(s.shifted, "-shift", (-setBack).String())
				return revive(n)(ctx)
			},
			Heal: func(ctx context.Context) error {
				if err := n.Kill(); err != nil {
					return err
				}
				restore()
				return revive(n)(ctx)
			},
		}
	})}
}
