package faults

import "github.com/hermod-im/hermod/verify"

// misbehaving is the share of accounts that have a device which misbehaves, in the rows about those.
const misbehaving = 0.25

// hostile are rows without a fault of ours: the clients are the fault.
func (s *Site) hostile() []Row {
	return []Row{
		{Name: "clients that drop their connections and reconnect elsewhere", Hostile: verify.Hostile{Drop: misbehaving}},
		{Name: "clients that send everything again", Hostile: verify.Hostile{Resend: misbehaving}},
		{Name: "clients that read nothing", Hostile: verify.Hostile{Deaf: misbehaving}},
		{Name: "clients that connect and hang up 10 times a second", Hostile: verify.Hostile{Flap: misbehaving}},
	}
}
