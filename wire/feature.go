package wire

// Features is a bit set of what a client understands beyond the fixed protocol. A client announces
// them by name in LoginReq.features; one that announces none gets no push that protocol.md's table lacks.
type Features uint32

// The features. Their bits are stored with a session and may not change.
const (
	// FeatureSync ("sync"): the client keeps a cursor per conversation. It gets sync.hint instead of
	// a close when pushes may have been lost, and pushes of what its account sent from other devices.
	FeatureSync Features = 1 << 0
	// FeatureRead ("read"): the client keeps read positions. It gets chat.read when another device reads.
	FeatureRead Features = 1 << 1
	// FeatureGoAway ("goaway"): the client moves to another gateway when gateway.goaway asks for it.
	FeatureGoAway Features = 1 << 2
)

var featureNames = []struct {
	bit  Features
	name string
}{
	{FeatureSync, "sync"},
	{FeatureRead, "read"},
	{FeatureGoAway, "goaway"},
}

// ParseFeatures returns the bits of the names it knows.
func ParseFeatures(names []string) Features {
	var f Features
	for _, n := range names {
		for _, k := range featureNames {
			if n == k.name {
				f |= k.bit
			}
		}
	}
	return f
}

// Names lists the set's names.
func (f Features) Names() []string {
	var names []string
	for _, k := range featureNames {
		if f&k.bit != 0 {
			names = append(names, k.name)
		}
	}
	return names
}

// Has reports whether all bits of g are set.
func (f Features) Has(g Features) bool { return f&g == g }
