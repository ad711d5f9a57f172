package bench

import (
	"errors"
	"time"
)

// Run is one run of a load, and what `hermod bench … --json` prints as one line. Exactly one of the results is set.
type Run struct {
	// Row names the run among others, and Site the servers; both may be empty.
	Row  string `json:"row,omitempty"`
	Site string `json:"site,omitempty"`
	// Command is what follows `hermod bench` to repeat the run, without URLs and processes; may be empty.
	Command string    `json:"command,omitempty"`
	Version string    `json:"version,omitempty"` // of the servers
	Machine string    `json:"machine,omitempty"` // where it was made
	At      time.Time `json:"at,omitzero"`
	// Floor is the FloorResult.CPU, in µs a message, of right before the run; 0 if nobody looked.
	Floor float64 `json:"floor_us,omitempty"`
	// Targets are what figures of the run were to be.
	Targets []Target `json:"targets,omitempty"`

	Talk    *TalkResult    `json:"talk,omitempty"`
	Connect *ConnectResult `json:"connect,omitempty"`
	Group   *GroupResult   `json:"group,omitempty"`
	Sync    *SyncResult    `json:"sync,omitempty"`
	// Database is what the messages of the run did to the database, if somebody looked.
	Database *DatabaseUse `json:"database,omitempty"`
}

// Target is what a figure should be.
type Target struct {
	Figure  string  `json:"figure"` // its key in the report
	Limit   float64 `json:"limit"`
	Stretch float64 `json:"stretch,omitempty"` // 0: none
	// AtLeast makes Limit and Stretch the least; otherwise they are the most.
	AtLeast bool `json:"at_least,omitempty"`
}

// DatabaseUse is what stored messages did to the database.
type DatabaseUse struct {
	BytesPerMessage  float64 `json:"bytes_per_message,omitempty"` // table and indexes; 0: too few messages to tell
	MessagesPerFsync float64 `json:"messages_per_fsync"`
}

// errTrouble is of a run in which messages or connections had bad luck; the result says which.
var errTrouble = errors.New("messages were lost, doubled, reordered, left unanswered or misdirected, or connections were dropped")

// Clean reports whether nothing was lost, doubled, reordered, unanswered, misdirected or dropped, something was
// measured, and no more was refused than a load may have.
func (r *Run) Clean() bool {
	switch {
	case r.Talk != nil:
		return r.Talk.Clean()
	case r.Connect != nil:
		return r.Connect.Clean()
	case r.Group != nil:
		return r.Group.Clean()
	case r.Sync != nil:
		return r.Sync.Clean()
	default:
		return false
	}
}
