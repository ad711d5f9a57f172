package memory

import (
	"cmp"
	"slices"

	"github.com/hermod-im/hermod/storage"
)

// admit decides a login among the account's live sessions: which of them give way, or an error. The
// script of storage/redis does the same.
func admit(session storage.Session, live []storage.Session, p storage.DevicePolicy) ([]storage.Displaced, error) {
	var displaced []storage.Displaced
	var own *storage.Session
	var conflicting, others []storage.Session
	for _, s := range live {
		switch {
		case s.Device == session.Device:
			own = &s
		case p.PerPlatform && s.Platform == session.Platform:
			conflicting = append(conflicting, s)
		default:
			others = append(others, s)
		}
	}
	if own != nil && own.Channel != session.Channel {
		if late(session, *own) {
			return nil, storage.ErrSuperseded
		}
		displaced = append(displaced, giveWay(*own, session))
	}
	if p.Refuse && len(conflicting) > 0 {
		if own == nil || own.Platform != session.Platform {
			return nil, &storage.ConflictError{Sessions: conflicting}
		}
		others, conflicting = append(others, conflicting...), nil
	}
	for _, s := range conflicting {
		displaced = append(displaced, giveWay(s, session))
	}
	if beyond := len(others) + 1 - p.Max; p.Max > 0 && beyond > 0 {
		if p.RefuseBeyondMax {
			if own == nil {
				return nil, &storage.ConflictError{Sessions: others}
			}
			return displaced, nil
		}
		slices.SortFunc(others, func(a, b storage.Session) int {
			return cmp.Or(cmp.Compare(a.LoginAt, b.LoginAt), cmp.Compare(a.Device, b.Device))
		})
		for _, s := range others[:min(beyond, len(others))] {
			displaced = append(displaced, displacedBy(s, session, storage.DisplacedByLimit))
		}
	}
	return displaced, nil
}

// conflict reports whether two sessions of an account cannot both stay, whoever was first.
func conflict(a, b storage.Session, p storage.DevicePolicy) bool {
	return a.Channel != b.Channel && (a.Device == b.Device || p.PerPlatform && a.Platform == b.Platform)
}

// newer reports whether a began after b, which conflicts with it.
func newer(a, b storage.Session) bool {
	if sameClient(a, b) && a.Attempt != b.Attempt {
		return a.Attempt > b.Attempt
	}
	return a.LoginAt > b.LoginAt
}

// late reports whether a login, which is just being stored, began before its device's session.
func late(login, own storage.Session) bool {
	switch {
	case sameClient(login, own):
		return login.Attempt < own.Attempt
	case login.Gateway == own.Gateway:
		return cmp.Or(cmp.Compare(len(login.Channel), len(own.Channel)), cmp.Compare(login.Channel, own.Channel)) < 0
	default:
		return false
	}
}

// sameClient reports whether one run of a client program has made both sessions.
func sameClient(a, b storage.Session) bool {
	return a.Device == b.Device && a.Instance != "" && a.Instance == b.Instance
}

// giveWay is a session that gives way to one with which it conflicts.
func giveWay(s, to storage.Session) storage.Displaced {
	switch {
	case sameClient(s, to):
		return displacedBy(s, to, storage.DisplacedByReconnect)
	case s.Device == to.Device:
		return displacedBy(s, to, storage.DisplacedByDevice)
	default:
		return displacedBy(s, to, storage.DisplacedByPlatform)
	}
}

func displacedBy(s, by storage.Session, reason storage.Displacement) storage.Displaced {
	return storage.Displaced{Session: s, Reason: reason, ByDevice: by.Device, ByPlatform: by.Platform}
}
