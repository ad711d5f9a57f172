package gateway

import "github.com/hermod-im/hermod/wire/pb"

// missed tells the clients that logic nodes could not push to, as they have no link to this gateway,
// and ends the connections of those that were displaced. m may be nil.
func (g *Gateway) missed(m *pb.Missed) {
	if m.GetAll() {
		g.hints.want(causeUnlinked)
	}
	for _, id := range m.GetChannels() {
		if ch, ok := g.deps.Channels.Get(id); ok {
			hint(sessionOf(ch))
			g.metrics.hinted[causeUnlinked].Inc()
		}
	}
	for _, id := range m.GetKicked() {
		g.leases.displace(id)
	}
}
